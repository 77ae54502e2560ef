"""What a worker draws: inputs that were validated and resolved, and what comes of them. Values here cannot be invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

DISTILLED_STEPS = 50
"""Steps of the schedule that latent consistency models are distilled on; LCMScheduler's `original_inference_steps`."""

MAX_INLINE_BYTES = 3 * 1024 * 1024
"""Most bytes of pictures in one answer: gRPC clients of every language take 4 MiB by default."""


def inline_allowed(sizes: Sequence[int]) -> bool:
    """Whether pictures of these sizes, in bytes, may travel in one answer; otherwise they go by link."""
    return sum(sizes) <= MAX_INLINE_BYTES


@dataclass(frozen=True, slots=True)
class SourceImage:
    """A picture that was given: exactly one of a uri and the bytes of an encoded picture. Both are empty where bytes are not echoed."""

    uri: str = ""
    content: bytes = field(default=b"", repr=False)

    @property
    def inline(self) -> bool:
        """Whether the picture itself is in here, not the place where it lies."""
        return bool(self.content) or self.uri[:5].lower() == "data:"


@dataclass(frozen=True, slots=True)
class _LcmSpec:
    """What all endpoints of `fast-lcm-diffusion` take. Sizes in pixels; picture i is drawn with `seed + i`."""

    endpoint: str
    model_name: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    seed: int
    guidance_scale: float
    sync_mode: bool
    num_images: int
    enable_safety_checker: bool
    safety_checker_version: str
    expand_prompt: bool
    format: Literal["jpeg", "png"]
    guidance_rescale: float
    request_id: str

    @property
    def content_type(self) -> str:
        """Media type of the files."""
        return f"image/{self.format}"

    @property
    def steps(self) -> int:
        """Steps that are really taken."""
        return self.num_inference_steps

    @property
    def sources(self) -> Mapping[str, SourceImage]:
        """The pictures that it starts from, by the names of their attributes."""
        return {}


@dataclass(frozen=True, slots=True)
class TextToImageSpec(_LcmSpec):
    """A valid input of `fast-lcm-diffusion` with every value resolved."""


@dataclass(frozen=True, slots=True)
class ImageToImageSpec(_LcmSpec):
    """A valid input of `fast-lcm-diffusion/image-to-image` with every value resolved."""

    image: SourceImage
    strength: float
    preserve_aspect_ratio: bool
    crop_output: bool

    @property
    def steps(self) -> int:
        """Those that were asked for, where the lowest `strength` of the schedule has as many."""
        return min(self.num_inference_steps, max(1, int(DISTILLED_STEPS * self.strength)))

    @property
    def sources(self) -> Mapping[str, SourceImage]:
        """The picture to start from."""
        return {"image": self.image}


@dataclass(frozen=True, slots=True)
class InpaintingSpec(_LcmSpec):
    """A valid input of `fast-lcm-diffusion/inpainting` with every value resolved."""

    image: SourceImage
    mask: SourceImage
    strength: float

    @property
    def steps(self) -> int:
        """The last `strength` of those that were asked for, at least one."""
        return max(1, min(int(self.num_inference_steps * self.strength), self.num_inference_steps))

    @property
    def sources(self) -> Mapping[str, SourceImage]:
        """The picture to start from, and where to draw."""
        return {"image": self.image, "mask": self.mask}


GenerationSpec = TextToImageSpec | ImageToImageSpec | InpaintingSpec
"""Any valid input. Other endpoints join here."""

SPECS: Mapping[str, type[GenerationSpec]] = {
    "fast-lcm-diffusion": TextToImageSpec,
    "fast-lcm-diffusion/image-to-image": ImageToImageSpec,
    "fast-lcm-diffusion/inpainting": InpaintingSpec,
}
"""The spec of each endpoint that this server can draw."""

SOURCE_FIELDS: Mapping[str, str] = {"image_url": "image", "mask_url": "mask"}
"""Attributes of the pictures in a spec, by the names of the input's fields."""


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """A finished file. Exactly one of `key` (stored) and `content` (inline) is needed by the caller; both may be set."""

    content_type: str
    width: int
    height: int
    native_width: int
    native_height: int
    size_bytes: int
    seed: int
    key: str = ""
    content: bytes = b""
    url: str = ""
    url_expire_time: float = 0.0  # unix seconds


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a worker made of a spec. `timings` in seconds by stage."""

    spec: GenerationSpec
    images: tuple[DrawnImage, ...]
    has_nsfw_concepts: tuple[bool, ...]
    fidelity: str
    mean_batch_size: float
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """A finished step, over all pictures of the request."""

    step: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class PreviewImage:
    """A rough picture as a small JPEG."""

    image_index: int
    step: int
    content: bytes
