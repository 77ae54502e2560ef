"""Where a lane starts from: pure noise, or a given picture with noise on it. Exactly as diffusers' pipelines begin, draw for draw.

1. Image to image is LatentConsistencyModelImg2ImgPipeline: the encoded picture with the noise of the first step.
2. Inpainting is StableDiffusionInpaintPipeline with a UNet that knows no mask: the same, but at strength 1 pure noise, and after every
   step what lies outside of the mask becomes the picture with the next step's noise. The mask counts at the size of the latents.
3. The order of draws from a lane's generator: one for the encoder where that is variational, one for the noise, and, of an inpainting with
   a variational encoder, one more, which diffusers spends on encoding the masked picture that only other UNets look at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flashbulb_server.core.catalog import Task
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.pipeline import Sources
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.schedule import Schedule, Step

PICTURES_KEPT = 16
"""Encoded pictures kept: 2 MB at the size of Stable Diffusion 1.5."""

Encoded = Callable[[torch.Generator], Tensor]
"""An encoded picture (1, C, h, w) float32, drawn from the generator where the encoder is variational."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What an inpainting keeps. `picture`, `noise`: (1, C, h, w) float32; `mask`: (1, 1, h, w), 1 where it is drawn anew, 0 where kept."""

    picture: Tensor
    noise: Tensor
    mask: Tensor

    def blend(self, denoised: Tensor, following: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The clean sample and the next latents, with the picture outside of the mask."""
        noisy = step.keep * self.picture + step.noise * self.noise
        kept = 1 - self.mask
        return kept * self.picture + self.mask * denoised, kept * noisy + self.mask * following


class Encoder:
    """A model's encoder, with the pictures that it saw last: who changes a prompt, or takes another seed, gives the same picture again."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._kept: OrderedDict[Hashable, Encoded] = OrderedDict()

    def encode(self, image: npt.NDArray[np.uint8], size: tuple[int, int]) -> Encoded:
        """A picture (H, W, 3) in the middle of `size`, width and height in pixels, its edges carried on."""
        key = (size, image.shape, blake2b(np.ascontiguousarray(image).data).digest())
        found = self._kept.pop(key, None) or self._encode(image, size)
        self._kept[key] = found
        if len(self._kept) > PICTURES_KEPT:
            self._kept.popitem(last=False)
        return found

    def _encode(self, image: npt.NDArray[np.uint8], size: tuple[int, int]) -> Encoded:
        figures = self.model.figures
        pixels = torch.from_numpy(_padded(image, size)).permute(2, 0, 1)[None].to(self.model.device)
        encoded = self.model.backend.encode(pixels.float() / 255.0)
        if not figures.variational:
            latents = figures.scaling_factor * encoded.float()
            return lambda generator: latents
        mean, deviation = encoded.chunk(2, dim=1)

        def drawn(generator: torch.Generator) -> Tensor:
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
            return figures.scaling_factor * (mean + deviation * noise).float()

        return drawn


class Start:
    """Begins the lanes of one spec. `size`: width and height in pixels that are drawn. The picture is encoded once for all of them."""

    def __init__(
        self, encoder: Encoder, spec: GenerationSpec, sources: Sources | None, size: tuple[int, int], schedule: Schedule
    ) -> None:
        self._model = model = encoder.model
        self._pure = sources is None or (spec.task is Task.INPAINTING and spec.strength == 1.0)
        self._first = schedule[0]
        scale = model.figures.pixels_per_latent
        self._shape = (1, model.figures.channels, size[1] // scale, size[0] // scale)
        self._encoded: Encoded | None = None
        self._mask: Tensor | None = None
        if sources is not None:
            self._encoded = encoder.encode(sources.image, size)
            if sources.mask is not None:
                self._mask = _mask(sources.mask, size, self._shape[2:]).to(model.device)

    def latents(self, generator: torch.Generator) -> tuple[Tensor, Kept | None]:
        """The first latents (1, C, h, w) float32 of one lane, and what it keeps."""
        picture = None if self._encoded is None else self._encoded(generator)
        noise = torch.randn(self._shape, generator=generator).to(self._model.device)
        if picture is None:
            return noise, None
        latents = noise if self._pure else self._first.signal * picture + self._first.sigma * noise
        if self._mask is None:
            return latents, None
        if self._model.figures.variational:
            torch.randn(self._shape, generator=generator)
        return latents, Kept(picture, noise, self._mask)


def schedule_of(model: Model, spec: GenerationSpec) -> Schedule:
    """The steps that a spec takes."""
    if spec.task is Task.IMAGE_TO_IMAGE:
        return model.schedules(spec.num_inference_steps, spec.strength)
    return model.schedules(spec.num_inference_steps, 1.0)[-spec.steps :]


def _mask(mask: npt.NDArray[np.uint8], size: tuple[int, int], latent: tuple[int, ...]) -> Tensor:
    """The mask (1, 1, h, w) at the size of the latents, 0 or 1."""
    binary = torch.from_numpy(_padded(mask, size)).float() / 255.0 >= 0.5
    return torch.nn.functional.interpolate(binary.float()[None, None], size=latent)


def _padded(picture: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The picture in the middle of `size`, its edges carried on."""
    height, width = picture.shape[:2]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    around = [(top, size[1] - height - top), (left, size[0] - width - left)] + [(0, 0)] * (picture.ndim - 2)
    return np.ascontiguousarray(np.pad(picture, around, mode="edge"))
