"""What backends that convert networks have in common: small inputs to convert and check with, the decoder with its levels, and the check."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import Backend, Unsupported
from flashbulb_server.pipelines.networks import Networks

LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Of the UNet's output against the reference, as a share of its norm, that the check at load allows."""

MEAN_LEVELS = {torch.float32: 0.1, torch.bfloat16: 2.0, torch.float16: 2.0}
"""Mean difference of decoded levels that the check at load allows."""


class Sample:
    """Inputs for two rows, on the networks' device; what the network is told in its dtype. `native`: at the model's own size, else small."""

    def __init__(self, networks: Networks, *, native: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        side = (networks.native_size if native else 2 * networks.multiple) // networks.pixels_per_latent
        text = networks.text_encoder.config
        self.steps = (999, 259)
        self.timesteps = torch.tensor(self.steps, device=networks.device)
        self.latents = torch.randn((2, networks.channels, side, side), generator=generator).to(networks.device)
        tokens = min(text.max_position_embeddings, networks.tokenizer.model_max_length)
        width = networks.unet.config.cross_attention_dim
        self.prompt = torch.randn((2, tokens, width), generator=generator).to(networks.device, networks.dtype)
        self.guidance: Tensor | None = None
        if networks.guidance_width:
            guidance = torch.randn((1, networks.guidance_width), generator=generator)
            self.guidance = guidance.to(networks.device, networks.dtype)

    def together(self, backend: Backend) -> Tensor:
        """The UNet's output of both rows in one call."""
        condition = backend.condition(self.steps, self.prompt[:1], self.guidance)
        fixed = [part.expand(2, *part.shape[1:]) for part in condition.fixed]
        return backend.predict(self.latents, condition.moments, fixed).clone()

    def second(self, backend: Backend) -> Tensor:
        """The UNet's output of the second row alone."""
        condition = backend.condition(self.steps, self.prompt[:1], self.guidance)
        return backend.predict(self.latents[1:], condition.moments[1:], condition.fixed)


class Expected:
    """What the reference makes of a sample. It must be asked before its networks are changed."""

    def __init__(self, sample: Sample, reference: Backend) -> None:
        self._sample = sample
        self._output = sample.together(reference)
        self._picture = reference.decode(sample.latents)

    def check(self, backend: Backend, precision: torch.dtype) -> None:
        """Raises Unsupported if a small batch does not come out the same, rows apart and together."""
        together, second = self._sample.together(backend), self._sample.second(backend)
        distances = [float((together - self._output).norm()), float((second - self._output[1:]).norm())]
        error = max(distances) / float(self._output.norm())
        if not all(distance == distance for distance in distances) or not error <= LARGEST_ERROR[precision]:
            raise Unsupported(f"its UNet differs by {error:.2g} from torch's")
        picture = backend.decode(self._sample.latents)
        if picture.shape != self._picture.shape:
            raise Unsupported(f"its decoder gives {tuple(picture.shape)} for {tuple(self._picture.shape)}")
        levels = float((picture.float() - self._picture.float()).abs().mean())
        if not levels <= MEAN_LEVELS[precision]:  # written so that NaN fails too
            raise Unsupported(f"its decoder differs by {levels:.2g} levels from torch's")


class Decode(torch.nn.Module):
    """Clean latents (B, C, h, w), of the decoder's dtype, to levels (B, H, W, 3) uint8."""

    def __init__(self, decoder: Any) -> None:  # noqa: ANN401  # AutoencoderKL or AutoencoderTiny, classes without types
        super().__init__()
        self.decoder = decoder
        self.scaling_factor = float(decoder.config.scaling_factor)

    def forward(self, latents: Tensor) -> Tensor:
        picture = self.decoder.decode(latents / self.scaling_factor, return_dict=False)[0]
        levels: Tensor = (picture.float() * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1)


def fidelity_of(networks: Networks, precision: torch.dtype) -> str:
    """The tier of networks that are computed as exactly as `precision`."""
    if networks.decoder is not networks.vae:
        return "APPROX"
    return "EXACT" if precision == torch.float32 else "CLOSE"
