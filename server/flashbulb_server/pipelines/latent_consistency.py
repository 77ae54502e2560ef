"""Latent consistency models step by step: diffusers' own networks, our loop.

1. A lane holds everything of one picture; the pipeline keeps nothing between calls but caches.
2. Lanes of one latent size share a UNet call, whatever their timestep, prompt, seed and guidance.
3. Noise is drawn on the CPU from a generator per picture, in float32 and in the order of diffusers: first the latents, then one draw
   after every step but the last. So a seed gives the same picture alone, in any batch, and in diffusers' own pipeline.
4. Latents are float32 between steps; the networks see the dtype of their weights.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.pipeline import Pixels
from flashbulb_server.pipelines.networks import Networks
from flashbulb_server.pipelines.rough import RoughDecoder
from flashbulb_server.pipelines.safety import SafetyChecker
from flashbulb_server.pipelines.schedule import Schedule, Step

PROMPTS_KEPT = 128
"""Prompt embeddings kept: 30 MB at the size of Stable Diffusion 1.5 in float32."""

DECODED_AT_ONCE = 2**20
"""Pixels in one decoder call at most, but always one picture: a full decoder needs gigabytes for a megapixel."""

WARM_UP_PROMPTS = ("a red apple", "a blue car", "a green tree on a yellow background")


@dataclass(slots=True, eq=False)
class LatentLane:
    """One picture. `latents`, `denoised`: (1, C, h, w) float32 on the device; `prompt`, `negative`: (1, T, D); `guidance_embedding`: (1, P).

    `negative` is None where no classifier-free guidance is done. `size`: the picture's width and height in pixels, cut from the middle.
    """

    schedule: Schedule
    generator: torch.Generator
    latents: Tensor
    denoised: Tensor
    prompt: Tensor
    negative: Tensor | None
    guidance_embedding: Tensor | None
    guidance_scale: float
    guidance_rescale: float
    size: tuple[int, int]
    step: int = 0

    @property
    def bucket(self) -> Hashable:
        """Latent height and width."""
        return tuple(self.latents.shape[-2:])

    @property
    def total_steps(self) -> int:
        """Steps to take."""
        return len(self.schedule)

    @property
    def current(self) -> Step:
        """The step to take next."""
        return self.schedule[self.step]


class LatentConsistencyPipeline:
    """Draws with a latent consistency model: one with a guidance embedding, or one that needs classifier-free guidance.

    A model with a guidance embedding ignores negative prompts and rescaling, as it was distilled with an empty negative prompt.
    """

    def __init__(self, networks: Networks, info: ModelInfo, checkers: Mapping[str, SafetyChecker]) -> None:
        self.info = info
        self._networks = networks
        self._checkers = checkers
        self._device = networks.device
        self._dtype = networks.dtype
        self._guidance_width = networks.guidance_width
        self._embed_prompt = lru_cache(maxsize=PROMPTS_KEPT)(self._encode_prompt)
        self._embed_guidance = lru_cache(maxsize=64)(self._encode_guidance)
        self._rough = RoughDecoder(torch.zeros(networks.channels + 1, 3))

    @torch.inference_mode()
    def warm_up(self, spec: GenerationSpec) -> None:
        """Draws once so that the first caller does not wait for lazy set-up, and fits the previews. `spec` gives the steps and the size."""
        lanes = [lane for prompt in WARM_UP_PROMPTS for lane in self._prepare(spec, prompt)]
        for _ in range(lanes[0].total_steps):
            self.step(lanes)
        latents = torch.cat([lane.denoised for lane in lanes])
        self._rough = RoughDecoder.fit(latents, torch.cat([self._decode(x[None]) for x in latents]))

    def prepare(self, spec: GenerationSpec) -> Sequence[LatentLane]:
        """One lane a picture, noise drawn from `seed + index`."""
        return self._prepare(spec, spec.prompt)

    @torch.inference_mode()
    def _prepare(self, spec: GenerationSpec, prompt: str) -> list[LatentLane]:
        schedule = self._networks.schedules(spec.num_inference_steps)
        width, height = self._drawn_size(spec)
        scale = self._networks.pixels_per_latent
        free = self._guidance_width is None and spec.guidance_scale > 1
        lanes = []
        for index in range(spec.num_images):
            generator = torch.Generator("cpu").manual_seed(spec.seed + index)
            latents = torch.randn((1, self._networks.channels, height // scale, width // scale), generator=generator)
            latents = latents.to(self._device)
            lanes.append(
                LatentLane(
                    schedule=schedule,
                    generator=generator,
                    latents=latents,
                    denoised=latents,
                    prompt=self._embed_prompt(prompt),
                    negative=self._embed_prompt(spec.negative_prompt) if free else None,
                    guidance_embedding=self._embed_guidance(spec.guidance_scale) if self._guidance_width else None,
                    guidance_scale=spec.guidance_scale,
                    guidance_rescale=spec.guidance_rescale,
                    size=(width, height) if self.info.resamples else (spec.width, spec.height),
                )
            )
        return lanes

    def _drawn_size(self, spec: GenerationSpec) -> tuple[int, int]:
        """Width and height in pixels that are drawn: the native square, or the asked size rounded up to what the UNet can halve.

        A model that resamples knows one square only. Drawn at another shape, its things stretch, merge or fall apart.
        """
        if self.info.resamples:
            return self.info.native_size, self.info.native_size
        multiple = self._networks.multiple
        return -(-spec.width // multiple) * multiple, -(-spec.height // multiple) * multiple

    @torch.inference_mode()
    def step(self, lanes: Sequence[LatentLane]) -> None:
        """One UNet call. Lanes with classifier-free guidance take a second row in it."""
        steps = [lane.current for lane in lanes]
        latents = _join([lane.latents for lane in lanes])
        output = self._guide(lanes, self._predict(lanes, latents, [step.timestep for step in steps]).float())
        scalars = torch.tensor([(s.from_sample, s.from_output, s.keep, s.noise) for s in steps], device=self._device)
        from_sample, from_output, keep, noise = scalars.t().reshape(4, -1, 1, 1, 1)
        denoised = from_sample * latents + from_output * output
        following = denoised
        if any(step.noise for step in steps):
            following = keep * denoised + noise * self._draw_noise(lanes, steps)
        for lane, clean, noisy in zip(lanes, torch.split(denoised, 1), torch.split(following, 1), strict=True):
            lane.denoised, lane.latents = clean, noisy
            lane.step += 1

    def _predict(self, lanes: Sequence[LatentLane], latents: Tensor, timesteps: Sequence[int]) -> Tensor:
        """The UNet's output (B + F, C, h, w): a row a lane, then a row for each of the F lanes with a negative prompt."""
        free = [index for index, lane in enumerate(lanes) if lane.negative is not None]
        rows = [*range(len(lanes)), *free]
        prompts = [lane.prompt for lane in lanes] + [lane.negative for lane in lanes if lane.negative is not None]
        guidance = [lane.guidance_embedding for lane in lanes if lane.guidance_embedding is not None]
        output: Tensor = self._networks.unet(
            (latents[rows] if free else latents).to(self._dtype),
            torch.tensor([timesteps[row] for row in rows], device=self._device),
            encoder_hidden_states=_join(prompts),
            timestep_cond=_join(guidance) if guidance else None,
            return_dict=False,
        )[0]
        return output

    def _guide(self, lanes: Sequence[LatentLane], output: Tensor) -> Tensor:
        """Classifier-free guidance of the lanes that have it, rescaled as in arXiv 2305.08891, section 3.4."""
        free = [index for index, lane in enumerate(lanes) if lane.negative is not None]
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

    def _draw_noise(self, lanes: Sequence[LatentLane], steps: Sequence[Step]) -> Tensor:
        """Noise (B, C, h, w) float32, each row from its lane's generator; zero for lanes in their last step, which draw none."""
        shape = lanes[0].latents.shape
        noise = [
            torch.randn(shape, generator=lane.generator) if step.noise else torch.zeros(shape)
            for lane, step in zip(lanes, steps, strict=True)
        ]
        return _join(noise).to(self._device)

    @torch.inference_mode()
    def decode(self, lanes: Sequence[LatentLane]) -> Sequence[Pixels]:
        """Pictures of the lanes' clean samples, at most DECODED_AT_ONCE pixels at a time."""
        latents = _join([lane.denoised for lane in lanes])
        pixels = latents.shape[-2] * latents.shape[-1] * self._networks.pixels_per_latent**2
        pictures: list[Pixels] = []
        for part in torch.split(latents, max(1, DECODED_AT_ONCE // pixels)):
            levels = self._decode(part).permute(0, 2, 3, 1).float().mul(255).round().to(torch.uint8).contiguous()
            pictures.extend(levels.cpu().numpy())
        return [_cut(picture, *lane.size) for picture, lane in zip(pictures, lanes, strict=True)]

    def _decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in the networks' dtype, 0 to 1."""
        scaled = latents.to(self._dtype) / self._networks.scaling_factor
        picture: Tensor = self._networks.vae.decode(scaled, return_dict=False)[0]
        return (picture / 2 + 0.5).clamp(0, 1)

    @torch.inference_mode()
    def preview(self, lane: LatentLane) -> Pixels:
        """The clean sample as the lane's last step foresaw it, one pixel a latent."""
        return self._rough.draw(lane.denoised)

    def check(self, pictures: Sequence[Pixels], version: str) -> Sequence[bool]:
        """Whether safety checker `version` flags each picture."""
        if self.info.safe_by_construction:
            return [False] * len(pictures)
        return self._checkers[version].check(pictures)

    def _encode_prompt(self, prompt: str) -> Tensor:
        """Embeddings (1, T, D) of a prompt, cut at the text encoder's length."""
        tokenizer = self._networks.tokenizer
        tokens = tokenizer(
            prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        embeddings: Tensor = self._networks.text_encoder(tokens.input_ids.to(self._device))[0]
        return embeddings.to(self._dtype)

    def _encode_guidance(self, scale: float) -> Tensor:
        """Sinusoidal embedding (1, P) of a guidance scale: the timestep embedding of vdm, on 1000 * (scale - 1), as LCM takes it."""
        width = self._guidance_width or 0
        half = width // 2
        frequencies = torch.exp(
            torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1))
        )
        angles = torch.tensor([(scale - 1)]) * 1000.0 * frequencies
        embedding = torch.cat([angles.sin(), angles.cos(), torch.zeros(width % 2)])
        return embedding[None].to(self._device, self._dtype)


def _join(parts: Sequence[Tensor]) -> Tensor:
    """The tensors one after another along the first axis, without a copy if there is one only."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _cut(picture: Pixels, width: int, height: int) -> Pixels:
    """The middle of a picture."""
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
