"""The inputs, one class an endpoint, with the fields of its message in `flashbulb.v1`. None means absent: the endpoint's default.

Ranges and defaults are in `proto/flashbulb/v1/input.proto`, and `Client.endpoints()` answers with the server's own.

>>> TextToImage("a red apple", image_size=(512, 512), seed=7).endpoint
'fast-lcm-diffusion'
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, BinaryIO, ClassVar, TypeAlias

if TYPE_CHECKING:
    import PIL.Image

    from flashbulb._results import File, Image

    ImageSource: TypeAlias = str | bytes | os.PathLike[str] | PIL.Image.Image | BinaryIO | File | Image
    """A picture given as an input. A str is a link or a URI; everything else is read, and uploaded if it is large."""

ImageSize: TypeAlias = str | tuple[int, int]
"""The name of a size, such as `square_hd`, or (width, height) in pixels."""


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter to apply: `path` is the URL of its weights, or the name of an installed one."""

    path: str
    scale: float | None = None
    force: bool | None = None


@dataclass(frozen=True, slots=True)
class TextualInversion:
    """A textual inversion to load: `path` is the URL of its weights, `tokens` the words that stand for it in a prompt."""

    path: str
    tokens: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """Base of the inputs. `field` is the member of `flashbulb.v1.GenerationInput`."""

    endpoint: ClassVar[str]
    field: ClassVar[str]

    prompt: str


@dataclass(frozen=True, slots=True)
class TextToImage(Input):
    """A picture from a prompt in few steps."""

    endpoint: ClassVar[str] = "fast-lcm-diffusion"
    field: ClassVar[str] = "fast_lcm_text_to_image"

    _: KW_ONLY
    model_name: str | None = None
    negative_prompt: str | None = None
    image_size: ImageSize | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    guidance_scale: float | None = None
    sync_mode: bool | None = None
    num_images: int | None = None
    enable_safety_checker: bool | None = None
    safety_checker_version: str | None = None
    expand_prompt: bool | None = None
    format: str | None = None
    guidance_rescale: float | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ImageToImage(TextToImage):
    """A picture from a prompt and a picture."""

    endpoint: ClassVar[str] = "fast-lcm-diffusion/image-to-image"
    field: ClassVar[str] = "fast_lcm_image_to_image"

    image_url: ImageSource
    _: KW_ONLY
    strength: float | None = None
    preserve_aspect_ratio: bool | None = None
    crop_output: bool | None = None


@dataclass(frozen=True, slots=True)
class Inpainting(TextToImage):
    """A part of a picture drawn anew: where the mask is white."""

    endpoint: ClassVar[str] = "fast-lcm-diffusion/inpainting"
    field: ClassVar[str] = "fast_lcm_inpainting"

    image_url: ImageSource
    mask_url: ImageSource
    _: KW_ONLY
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class StableDiffusionV15(Input):
    """A picture from a prompt with Stable Diffusion v1.5."""

    endpoint: ClassVar[str] = "stable-diffusion-v15"
    field: ClassVar[str] = "stable_diffusion_v15"

    _: KW_ONLY
    negative_prompt: str | None = None
    image_size: ImageSize | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    guidance_scale: float | None = None
    loras: Sequence[Lora] | None = None
    embeddings: Sequence[TextualInversion] | None = None
    sync_mode: bool | None = None
    num_images: int | None = None
    enable_safety_checker: bool | None = None
    safety_checker_version: str | None = None
    expand_prompt: bool | None = None
    format: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Omnigen(Input):
    """A picture from text and pictures with OmniGen; `<img><|image_1|></img>` in the prompt is the first of `input_image_urls`."""

    endpoint: ClassVar[str] = "omnigen-v1"
    field: ClassVar[str] = "omnigen_v1"

    _: KW_ONLY
    input_image_urls: Sequence[ImageSource] | None = None
    image_size: ImageSize | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    guidance_scale: float | None = None
    img_guidance_scale: float | None = None
    sync_mode: bool | None = None
    num_images: int | None = None
    enable_safety_checker: bool | None = None
    output_format: str | None = None


@dataclass(frozen=True, slots=True)
class FluxLora(Input):
    """A picture from a prompt with FLUX.1 [dev] and adapters."""

    endpoint: ClassVar[str] = "flux-lora"
    field: ClassVar[str] = "flux_lora_text_to_image"

    _: KW_ONLY
    image_size: ImageSize | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    guidance_scale: float | None = None
    loras: Sequence[Lora] | None = None
    sync_mode: bool | None = None
    num_images: int | None = None
    enable_safety_checker: bool | None = None
    output_format: str | None = None
    acceleration: str | None = None


@dataclass(frozen=True, slots=True)
class FluxLoraImageToImage(FluxLora):
    """A picture from a prompt and a picture with FLUX.1 [dev]."""

    endpoint: ClassVar[str] = "flux-lora/image-to-image"
    field: ClassVar[str] = "flux_lora_image_to_image"

    image_url: ImageSource
    _: KW_ONLY
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class FluxLoraInpainting(FluxLora):
    """A part of a picture drawn anew with FLUX.1 [dev]: where the mask is white."""

    endpoint: ClassVar[str] = "flux-lora/inpainting"
    field: ClassVar[str] = "flux_lora_inpainting"

    image_url: ImageSource
    mask_url: ImageSource
    _: KW_ONLY
    strength: float | None = None


INPUTS: tuple[type[Input], ...] = (
    TextToImage,
    ImageToImage,
    Inpainting,
    StableDiffusionV15,
    Omnigen,
    FluxLora,
    FluxLoraImageToImage,
    FluxLoraInpainting,
)
BY_ENDPOINT: Mapping[str, type[Input]] = {input_class.endpoint: input_class for input_class in INPUTS}
BY_FIELD: Mapping[str, type[Input]] = {input_class.field: input_class for input_class in INPUTS}
