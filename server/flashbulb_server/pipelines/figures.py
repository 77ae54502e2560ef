"""The few figures of a model's configuration that drawing needs: read from its networks once, known without them from then on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """`channels`: of the latents. `guidance_width`: of the guidance embedding, None for a UNet that has none. `scaling_factor`: what the
    autoencoder's latents are multiplied with to have unit variance. `variational`: whether the encoder gives a distribution to draw from,
    and not latents. `pixels_per_latent`: along one side. `multiple`: sides in pixels that the UNet can halve at every level are multiples of
    it. `native_size`: side in pixels of the square pictures that the UNet was trained on.
    """

    channels: int
    guidance_width: int | None
    scaling_factor: float
    variational: bool
    pixels_per_latent: int
    multiple: int
    native_size: int
