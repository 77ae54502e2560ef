"""What runs the networks: one small interface, so that the sampling loop knows neither torch.compile nor OpenVINO.

A backend owns how numbers are computed, never what is drawn: noise, schedules, guidance and batches are the loop's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

DECODED_AT_ONCE = 2**20
"""Pixels in one decoder call at most, but always one picture: a full decoder needs gigabytes for a megapixel."""


class Unsupported(Exception):
    """A backend cannot run this model here; the message says why."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What the UNet is told of one picture in all its S steps, in the form of the backend that made it and alone reads it.

    `moments`: (S, ...), a row for every step. `fixed`: tensors (1, ...) that stay the same from step to step.
    """

    moments: Tensor
    fixed: tuple[Tensor, ...]


class Backend(Protocol):
    """A model's networks, loaded and ready, on one device. Called from one thread at a time."""

    @property
    def name(self) -> str:
        """What computes, where and how exactly: `torch cpu float32`."""
        ...

    @property
    def fidelity(self) -> str:
        """EXACT: at most 1 level of 255 from diffusers in float32. CLOSE: at least 40 dB. APPROX: another decoder than the model's own."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """The embeddings (1, T, D) of a prompt's tokens (1, T), as `condition` takes them."""
        ...

    def encode(self, picture: Tensor) -> Tensor:
        """What the encoder makes of a picture (1, 3, H, W) float32, 0 to 1: latents (1, C, h, w), or of a variational encoder means and
        deviations, one after the other (1, 2 C, h, w)."""
        ...

    def condition(self, timesteps: Sequence[int], prompt: Tensor, guidance: Tensor | None) -> Condition:
        """The condition of one picture. `prompt` (1, T, D); `guidance` (1, P) of a UNet with a guidance embedding, else None."""
        ...

    def predict(self, latents: Tensor, moments: Tensor, fixed: Sequence[Tensor]) -> Tensor:
        """The UNet's output (B, C, h, w) float32, which the next call may overwrite.

        `latents` (B, C, h, w) float32; `moments` (B, ...) and each of `fixed` (B, ...): rows of conditions, one a picture.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, H, W, 3) uint8 on the CPU of clean latents (B, C, h, w) float32."""
        ...
