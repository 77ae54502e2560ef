"""What a worker draws: inputs that were validated and resolved, and what comes of them. Values here cannot be invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

MAX_INLINE_BYTES = 3 * 1024 * 1024
"""Most bytes of pictures in one answer: gRPC clients of every language take 4 MiB by default."""


def inline_allowed(sizes: Sequence[int]) -> bool:
    """Whether pictures of these sizes, in bytes, may travel in one answer; otherwise they go by link."""
    return sum(sizes) <= MAX_INLINE_BYTES


@dataclass(frozen=True, slots=True)
class TextToImageSpec:
    """A valid input of `fast-lcm-diffusion` with every value resolved. Sizes in pixels; picture i is drawn with `seed + i`."""

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


GenerationSpec = TextToImageSpec
"""Any valid input. Other endpoints join here as a union."""


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
