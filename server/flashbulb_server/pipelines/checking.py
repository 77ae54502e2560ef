"""What backends that convert networks have in common: small inputs to convert and check with, the decoder with its levels, and the check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import Backend, Unsupported

if TYPE_CHECKING:
    from flashbulb_server.pipelines.networks import Networks

LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Of the UNet's output against the reference, as a share of its norm, that the check at load allows."""

MEAN_LEVELS = {torch.float32: 0.1, torch.bfloat16: 2.0, torch.float16: 2.0}
"""Mean difference of decoded levels that the check at load allows."""


STEPS = (999, 259)
"""Timesteps of the two rows of a sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs for two rows, on the networks' device; what the network is told in its dtype. `latents` (2, C, h, w) float32; `prompt`
    (2, T, D); `guidance` (1, P) or None; `tokens` (1, T); `picture` (1, 3, H, W) float32, 0 to 1."""

    latents: Tensor
    prompt: Tensor
    guidance: Tensor | None
    tokens: Tensor
    picture: Tensor

    @classmethod
    def of(cls, networks: Networks, *, native: bool = False) -> Sample:
        """A random one. `native`: at the model's own size, else small."""
        generator = torch.Generator().manual_seed(0)
        figures, text, device = networks.figures, networks.text_encoder.config, networks.device
        side = (figures.native_size if native else 2 * figures.multiple) // figures.pixels_per_latent
        latents = torch.randn((2, figures.channels, side, side), generator=generator)
        tokens = min(text.max_position_embeddings, networks.tokenizer.model_max_length)
        prompt = torch.randn((2, tokens, networks.unet.config.cross_attention_dim), generator=generator)
        guidance = None
        if figures.guidance_width:
            guidance = torch.randn((1, figures.guidance_width), generator=generator).to(device, networks.dtype)
        pixels = side * figures.pixels_per_latent
        return cls(
            latents.to(device),
            prompt.to(device, networks.dtype),
            guidance,
            torch.randint(text.vocab_size, (1, tokens), generator=generator).to(device),
            torch.rand((1, 3, pixels, pixels), generator=generator).to(device),
        )

    @property
    def timesteps(self) -> Tensor:
        """STEPS as a tensor (2,)."""
        return torch.tensor(STEPS, device=self.latents.device)

    def together(self, backend: Backend) -> Tensor:
        """The UNet's output of both rows in one call."""
        condition = backend.condition(STEPS, self.prompt[:1], self.guidance)
        fixed = [part.expand(2, *part.shape[1:]) for part in condition.fixed]
        return backend.predict(self.latents, condition.moments, fixed).clone()

    def second(self, backend: Backend) -> Tensor:
        """The UNet's output of the second row alone."""
        condition = backend.condition(STEPS, self.prompt[:1], self.guidance)
        return backend.predict(self.latents[1:], condition.moments[1:], condition.fixed)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reference makes of a sample. It must be asked before its networks are changed. `embeddings` and `encoded`: of the networks at
    both ends, None where they are the reference's own."""

    sample: Sample
    output: Tensor
    levels: Tensor
    embeddings: Tensor | None = None
    encoded: Tensor | None = None

    @classmethod
    def of(cls, sample: Sample, reference: Backend, *, ends: bool = False) -> Expected:
        """`ends`: whether the networks at both ends are to be checked as well."""
        return cls(
            sample,
            sample.together(reference),
            reference.decode(sample.latents),
            reference.embed(sample.tokens) if ends else None,
            reference.encode(sample.picture) if ends else None,
        )

    def check(self, backend: Backend, precision: torch.dtype) -> None:
        """Raises Unsupported if a small batch does not come out the same, rows apart and together."""
        sample = self.sample
        together, second = sample.together(backend), sample.second(backend)
        _compare("UNet", LARGEST_ERROR[precision], (together, self.output), (second, self.output[1:]))
        if self.embeddings is not None:
            _compare("text encoder", LARGEST_ERROR[precision], (backend.embed(sample.tokens), self.embeddings))
        if self.encoded is not None:
            _compare("encoder", LARGEST_ERROR[precision], (backend.encode(sample.picture), self.encoded))
        picture = backend.decode(sample.latents)
        if picture.shape != self.levels.shape:
            raise Unsupported(f"its decoder gives {tuple(picture.shape)} for {tuple(self.levels.shape)}")
        levels = float((picture.float() - self.levels.float()).abs().mean())
        if not levels <= MEAN_LEVELS[precision]:  # written so that NaN fails too
            raise Unsupported(f"its decoder differs by {levels:.2g} levels from torch's")


def _compare(part: str, limit: float, *pairs: tuple[Tensor, Tensor]) -> None:
    """`pairs`: what came and what was expected, of which the first is the largest. Raises Unsupported."""
    distances = [float((came.float() - expected.float()).norm()) for came, expected in pairs]
    error = max(distances) / float(pairs[0][1].float().norm())
    if not all(distance == distance for distance in distances) or not error <= limit:
        raise Unsupported(f"its {part} differs by {error:.2g} from torch's")


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
