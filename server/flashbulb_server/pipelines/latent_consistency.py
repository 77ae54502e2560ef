"""Latent consistency models step by step: diffusers' own networks, our loop.

1. A lane holds everything of one picture; the pipeline keeps nothing between calls but caches.
2. Lanes of one latent size share a UNet call, whatever their timestep, prompt, seed and guidance.
3. A lane starts from noise or from a picture (pipelines.starting); that is all that its kinds differ in.
4. Noise is drawn on the CPU from a generator per picture, in float32 and in the order of diffusers: first the latents, then one draw
   after every step but the last. So a seed gives the same picture alone, in any batch, and in diffusers' own pipeline.
5. Latents are float32 between steps. How the networks compute is the backend's affair (pipelines.backend).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.pipeline import Pixels, Sources
from flashbulb_server.pipelines.backend import DECODED_AT_ONCE, Condition
from flashbulb_server.pipelines.lanes import Batch, LatentLane, coefficients, draw_noise, join
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.rough import RoughDecoder
from flashbulb_server.pipelines.starting import Encoder, Start, schedule_of

if TYPE_CHECKING:
    from flashbulb_server.pipelines.safety import SafetyChecker

PROMPTS_KEPT = 128
"""Prompt embeddings kept: 30 MB at the size of Stable Diffusion 1.5 in float32."""

CONDITIONS_KEPT = 32
"""Conditions kept: a prompt's embedding and what the backend made of it for the steps of one schedule."""

WARM_UP_PROMPTS = ("a red apple", "a blue car", "a green tree on a yellow background")


class LatentConsistencyPipeline:
    """Draws with a latent consistency model: one with a guidance embedding, or one that needs classifier-free guidance.

    A model with a guidance embedding ignores negative prompts and rescaling, as it was distilled with an empty negative prompt.
    """

    def __init__(self, model: Model, info: ModelInfo, checkers: Mapping[str, SafetyChecker]) -> None:
        self.info = info
        self._model = model
        self._backend = model.backend
        self._encoder = Encoder(model)
        self._checkers = checkers
        self._device = model.device
        self._guidance_width = model.figures.guidance_width
        self._embed_prompt = lru_cache(maxsize=PROMPTS_KEPT)(self._encode_prompt)
        self._embed_guidance = lru_cache(maxsize=64)(self._encode_guidance)
        self._condition = lru_cache(maxsize=CONDITIONS_KEPT)(self._make_condition)
        self._batch: Batch | None = None
        self._rough = RoughDecoder(torch.zeros(model.figures.channels + 1, 3))

    @torch.inference_mode()
    def warm_up(self, spec: GenerationSpec) -> None:
        """Draws once so that the first caller does not wait for lazy set-up, and fits the previews. `spec` gives the steps and the size."""
        lanes = [lane for prompt in WARM_UP_PROMPTS for lane in self._prepare(spec, prompt)]
        for together in (lanes, lanes[:1]):
            for lane in together:
                lane.step = 0
            for _ in range(lanes[0].total_steps):
                self.step(together)
        latents = torch.cat([lane.denoised for lane in lanes])
        pictures = torch.cat([self._backend.decode(part) for part in torch.split(latents, 1)])
        self._rough = RoughDecoder.fit(latents, pictures.permute(0, 3, 1, 2) / 255)

    def prepare(self, spec: GenerationSpec, sources: Sources | None = None) -> Sequence[LatentLane]:
        """One lane a picture, noise drawn from `seed + index`."""
        return self._prepare(spec, spec.prompt, sources)

    @torch.inference_mode()
    def _prepare(self, spec: GenerationSpec, prompt: str, sources: Sources | None = None) -> list[LatentLane]:
        schedule = schedule_of(self._model, spec)
        asked = (spec.width, spec.height) if sources is None else (sources.image.shape[1], sources.image.shape[0])
        drawn = self._drawn_size(*asked)
        start = Start(self._encoder, spec, sources, drawn, schedule)
        timesteps = tuple(step.timestep for step in schedule)
        scale = spec.guidance_scale
        free = self._guidance_width is None and scale > 1
        lanes = []
        for index in range(spec.num_images):
            generator = torch.Generator("cpu").manual_seed(spec.seed + index)
            latents, kept = start.latents(generator)
            lanes.append(
                LatentLane(
                    schedule=schedule,
                    coefficients=coefficients(schedule, self._device),
                    noise=draw_noise(schedule, latents.shape[1:], generator).to(self._device),
                    latents=latents,
                    denoised=latents,
                    condition=self._condition(prompt, scale, timesteps),
                    without=self._condition(spec.negative_prompt, scale, timesteps) if free else None,
                    guidance_scale=scale,
                    guidance_rescale=spec.guidance_rescale,
                    size=drawn if self.info.resamples and sources is None else asked,
                    kept=kept,
                )
            )
        return lanes

    def _drawn_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels that are drawn: the native square, or the given size rounded up to what the UNet can halve.

        A model that resamples knows one square only. Drawn at another shape, its things stretch, merge or fall apart.
        """
        if self.info.resamples:
            return self.info.native_size, self.info.native_size
        multiple = self._model.figures.multiple
        return -(-width // multiple) * multiple, -(-height // multiple) * multiple

    @torch.inference_mode()
    def step(self, lanes: Sequence[LatentLane]) -> None:
        """One UNet call. Lanes with classifier-free guidance take a second row in it."""
        batch = self._batch
        if batch is None or not batch.continues(lanes):
            batch = self._batch = Batch(lanes)
        output = self._backend.predict(batch.rows, batch.moments, batch.fixed)
        batch.advance(self._guide(lanes, batch.guided, output))

    def _guide(self, lanes: Sequence[LatentLane], free: Sequence[int], output: Tensor) -> Tensor:
        """Classifier-free guidance of the lanes at `free`, rescaled as in arXiv 2305.08891, section 3.4."""
        if not free:
            return output
        guided = list(torch.split(output[: len(lanes)], 1))
        for index, without in zip(free, torch.split(output[len(lanes) :], 1), strict=True):
            lane, given = lanes[index], guided[index]
            mixed = without + lane.guidance_scale * (given - without)
            if lane.guidance_rescale > 0:
                rescaled = mixed * (given.std() / mixed.std())
                mixed = lane.guidance_rescale * rescaled + (1 - lane.guidance_rescale) * mixed
            guided[index] = mixed
        return torch.cat(guided)

    @torch.inference_mode()
    def decode(self, lanes: Sequence[LatentLane]) -> Sequence[Pixels]:
        """Pictures of the lanes' clean samples, at most DECODED_AT_ONCE pixels at a time."""
        latents = join([lane.denoised for lane in lanes])
        pixels = latents.shape[-2] * latents.shape[-1] * self._model.figures.pixels_per_latent**2
        pictures: list[Pixels] = []
        for part in torch.split(latents, max(1, DECODED_AT_ONCE // pixels)):
            pictures.extend(self._backend.decode(part).numpy())
        return [_cut(picture, *lane.size) for picture, lane in zip(pictures, lanes, strict=True)]

    @torch.inference_mode()
    def preview(self, lane: LatentLane) -> Pixels:
        """The clean sample as the lane's last step foresaw it, one pixel a latent."""
        return self._rough.draw(lane.denoised)

    def check(self, pictures: Sequence[Pixels], version: str) -> Sequence[bool]:
        """Whether safety checker `version` flags each picture."""
        if self.info.safe_by_construction:
            return [False] * len(pictures)
        return self._checkers[version].check(pictures)

    def _make_condition(self, prompt: str, scale: float, timesteps: tuple[int, ...]) -> Condition:
        guidance = self._embed_guidance(scale) if self._guidance_width else None
        return self._backend.condition(timesteps, self._embed_prompt(prompt), guidance)

    def _encode_prompt(self, prompt: str) -> Tensor:
        """Embeddings (1, T, D) of a prompt, cut at the text encoder's length."""
        return self._backend.embed(self._model.tokens(prompt))

    def _encode_guidance(self, scale: float) -> Tensor:
        """Sinusoidal embedding (1, P) of a guidance scale: the timestep embedding of vdm, on 1000 * (scale - 1), as LCM takes it."""
        width = self._guidance_width or 0
        half = width // 2
        frequencies = torch.exp(
            torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1))
        )
        angles = torch.tensor([(scale - 1)]) * 1000.0 * frequencies
        embedding = torch.cat([angles.sin(), angles.cos(), torch.zeros(width % 2)])
        return embedding[None].to(self._device, self._model.dtype)


def _cut(picture: Pixels, width: int, height: int) -> Pixels:
    """The middle of a picture."""
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
