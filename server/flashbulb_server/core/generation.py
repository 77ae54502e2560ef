"""What a worker draws: inputs that were validated and resolved, and what comes of them. Values here cannot be invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flashbulb_server.core.catalog import ENDPOINTS, Task

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
class LoraUse:
    """An adapter to draw with. `path` names its weights; `force`: also where it was made for another model."""

    path: str
    scale: float
    force: bool


@dataclass(frozen=True, slots=True)
class EmbeddingUse:
    """A textual inversion to draw with. `path` names its weights; `tokens` are the words that stand for it in a prompt."""

    path: str
    tokens: tuple[str, ...] = ()


USES: Mapping[str, type[LoraUse | EmbeddingUse]] = {"loras": LoraUse, "embeddings": EmbeddingUse}
"""What an item of a list is in a spec, by the name of the list."""

ATTRIBUTES: Mapping[str, str] = {
    "image_url": "image",
    "mask_url": "mask",
    "input_image_urls": "input_images",
    "output_format": "format",
    "model_name": "named_model",
}
"""Attributes of a spec, by the names of the input's fields where those are others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """A valid input with every value resolved. Sizes in pixels; picture i is drawn with `seed + i`.

    `model_name` is the model that draws. `asked_model`: the one that the input names, where that is another, for which this one stands in.

    What has a value here is of some endpoints alone. Where an endpoint has no such field, that value is without effect.
    """

    endpoint: str
    model_name: str
    prompt: str
    width: int
    height: int
    num_inference_steps: int
    seed: int
    guidance_scale: float
    sync_mode: bool
    num_images: int
    enable_safety_checker: bool
    format: Literal["jpeg", "png"]
    asked_model: str = ""
    negative_prompt: str = ""
    guidance_rescale: float = 0.0
    img_guidance_scale: float | None = None
    image: SourceImage | None = None
    mask: SourceImage | None = None
    input_images: tuple[SourceImage, ...] = ()
    strength: float = 1.0
    preserve_aspect_ratio: bool = False
    crop_output: bool = False
    loras: tuple[LoraUse, ...] = ()
    embeddings: tuple[EmbeddingUse, ...] = ()
    safety_checker_version: str = ""  # any that is installed
    expand_prompt: bool = False
    acceleration: str = "none"
    request_id: str = ""

    @classmethod
    def of(cls, endpoint: str, model_name: str, values: Mapping[str, object]) -> GenerationSpec:
        """The spec of valid values by the names of the input's fields, `image_size` as (width, height). `model_name`: the model that draws."""
        fields: dict[str, Any] = {ATTRIBUTES.get(name, name): value for name, value in values.items()}
        named = fields.pop("named_model", None) or model_name
        width, height = fields.pop("image_size")
        fields |= {"endpoint": endpoint, "model_name": model_name, "width": width, "height": height}
        return cls(**fields, asked_model="" if named == model_name else named)

    @property
    def named_model(self) -> str:
        """The model that the input names, or is echoed to name."""
        return self.asked_model or self.model_name

    @property
    def task(self) -> Task:
        """What is to be done."""
        return ENDPOINTS[self.endpoint].task

    @property
    def content_type(self) -> str:
        """Media type of the files."""
        return f"image/{self.format}"

    @property
    def steps(self) -> int:
        """Steps that are really taken: the last `strength` of those that were asked for, at least one.

        Of an image to image in few steps all of them, where the lowest `strength` of the schedule has as many.
        """
        asked = self.num_inference_steps
        if self.task is Task.IMAGE_TO_IMAGE and ENDPOINTS[self.endpoint].few_steps:
            return min(asked, max(1, int(DISTILLED_STEPS * self.strength)))
        return max(1, min(int(asked * self.strength), asked))

    @property
    def sources(self) -> Mapping[str, SourceImage]:
        """The pictures that were given, by their paths in the input, such as `image_url` or `input_image_urls[0]`."""
        found = {f"input_image_urls[{index}]": picture for index, picture in enumerate(self.input_images)}
        single = (("image_url", self.image), ("mask_url", self.mask))
        return found | {path: picture for path, picture in single if picture is not None}

    def with_sources(self, given: Mapping[str, SourceImage]) -> GenerationSpec:
        """The spec with other pictures at some of the paths of `sources`."""
        return replace(
            self,
            image=given.get("image_url", self.image),
            mask=given.get("mask_url", self.mask),
            input_images=tuple(
                given.get(f"input_image_urls[{index}]", picture) for index, picture in enumerate(self.input_images)
            ),
        )


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
    """What a worker made of a spec. `timings` in seconds by stage. `backend`: what ran the networks; empty where a worker did not say."""

    spec: GenerationSpec
    images: tuple[DrawnImage, ...]
    has_nsfw_concepts: tuple[bool, ...]
    fidelity: str
    mean_batch_size: float
    timings: Mapping[str, float] = field(default_factory=dict)
    backend: str = ""


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
