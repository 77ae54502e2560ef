"""Rough pictures straight from latents: a linear map from latent channels to colours, fitted to the model's own decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashbulb_server.core.pipeline import Pixels


@dataclass(frozen=True, slots=True)
class RoughDecoder:
    """`weights`: (C + 1, 3) float32 on the CPU, the last row a constant; colours from 0 to 1."""

    weights: Tensor

    @classmethod
    def fit(cls, latents: Tensor, pictures: Tensor) -> RoughDecoder:
        """Least squares over all positions. `latents` (B, C, h, w); `pictures` (B, 3, H, W), 0 to 1, the decoder's own."""
        height, width = latents.shape[-2:]
        colours = torch.nn.functional.adaptive_avg_pool2d(pictures.float().cpu(), (height, width))
        targets = colours.permute(0, 2, 3, 1).reshape(-1, 3)
        return cls(torch.linalg.lstsq(_features(latents), targets).solution)

    def draw(self, latents: Tensor) -> Pixels:
        """The picture of latents (1, C, h, w): h x w pixels."""
        height, width = latents.shape[-2:]
        colours = (_features(latents) @ self.weights).clamp(0, 1).mul(255).round().to(torch.uint8)
        return colours.reshape(height, width, 3).numpy()


def _features(latents: Tensor) -> Tensor:
    rows = latents.float().cpu().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
