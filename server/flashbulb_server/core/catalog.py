"""The endpoints: ids, fields, defaults and ranges, exactly as published. Everything that validates or documents an input reads this table.

Source of names, defaults and ranges: the published schemas of the hosted endpoints (fast-lcm-diffusion and its siblings).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

MAX_SEED = 2**53 - 1  # a JSON number survives JavaScript
MAX_PROMPT_CHARS = 4096
MAX_LABEL_CHARS = 128
MAX_SIDE = 14142

IMAGE_SIZES: Mapping[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
"""Named sizes, (width, height) in pixels."""


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    SIZE = "size"
    SOURCE = "source"
    SOURCES = "sources"
    LORAS = "loras"
    EMBEDDINGS = "embeddings"


Default = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an input. `minimum` and `maximum` are inclusive: values, characters of a text, or items of a list.

    `default` None without `required` means that the server chooses (seed, model_name) or that the list is empty.
    """

    name: str
    kind: Kind
    default: Default = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A typed task. `input_field` is the member of `GenerationInput` that it takes."""

    id: str
    description: str
    input_field: str
    preferred_model: str
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        """The field of that name. KeyError if there is none."""
        return next(f for f in self.fields if f.name == name)


def _integer(name: str, default: int | None, low: int, high: int) -> Field:
    return Field(name, Kind.INTEGER, default, minimum=low, maximum=high)


def _number(name: str, default: float, low: float, high: float) -> Field:
    return Field(name, Kind.NUMBER, default, minimum=low, maximum=high)


def _flag(name: str, default: bool) -> Field:
    return Field(name, Kind.BOOLEAN, default)


def _size(default: str) -> Field:
    return Field("image_size", Kind.SIZE, default, minimum=1, maximum=MAX_SIDE, choices=tuple(IMAGE_SIZES))


_MODEL = Field("model_name", Kind.TEXT)
_PROMPT = Field("prompt", Kind.TEXT, required=True, minimum=1, maximum=MAX_PROMPT_CHARS)
_NEGATIVE = Field("negative_prompt", Kind.TEXT, "", maximum=MAX_PROMPT_CHARS)
_SEED = _integer("seed", None, 0, MAX_SEED)
_SAFETY = _flag("enable_safety_checker", True)
_SAFETY_VERSION = Field("safety_checker_version", Kind.CHOICE, "v1", choices=("v1", "v2"))
_EXPAND = _flag("expand_prompt", False)
_FORMAT = Field("format", Kind.CHOICE, "jpeg", choices=("jpeg", "png"))
_OUTPUT_FORMAT = Field("output_format", Kind.CHOICE, "jpeg", choices=("jpeg", "png"))
_LABEL = Field("request_id", Kind.TEXT, "", maximum=MAX_LABEL_CHARS)
_IMAGE = Field("image_url", Kind.SOURCE, required=True)
_MASK = Field("mask_url", Kind.SOURCE, required=True)
_LORAS = Field("loras", Kind.LORAS, maximum=16)

_LCM = (
    _MODEL,
    _PROMPT,
    _NEGATIVE,
    _size("square_hd"),
    _integer("num_inference_steps", 6, 1, 32),
    _SEED,
    _number("guidance_scale", 1.5, 0, 20),
    _flag("sync_mode", True),
    _integer("num_images", 1, 1, 8),
    _SAFETY,
    _SAFETY_VERSION,
    _EXPAND,
    _FORMAT,
    _number("guidance_rescale", 0.0, 0, 1),
    _LABEL,
)
_FLUX = (
    _PROMPT,
    _size("landscape_4_3"),
    _integer("num_inference_steps", 28, 1, 50),
    _SEED,
    _number("guidance_scale", 3.5, 0, 35),
    _LORAS,
    _flag("sync_mode", False),
    _integer("num_images", 1, 1, 4),
    _SAFETY,
    _OUTPUT_FORMAT,
    Field("acceleration", Kind.CHOICE, "none", choices=("none", "regular")),
)
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_SD15 = "runwayml/stable-diffusion-v1-5"
_FLUX_DEV = "black-forest-labs/FLUX.1-dev"

FAST_LCM = Endpoint(
    "fast-lcm-diffusion",
    "Draws a picture from a prompt in few steps with a latent consistency model.",
    "fast_lcm_text_to_image",
    _SDXL,
    _LCM,
)

ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.id: endpoint
    for endpoint in (
        FAST_LCM,
        Endpoint(
            "fast-lcm-diffusion/image-to-image",
            "Draws a picture from a prompt and a picture in few steps.",
            "fast_lcm_image_to_image",
            _SDXL,
            (
                *_LCM,
                _IMAGE,
                _number("strength", 0.95, 0.05, 1),
                _flag("preserve_aspect_ratio", False),
                _flag("crop_output", False),
            ),
        ),
        Endpoint(
            "fast-lcm-diffusion/inpainting",
            "Draws a part of a picture anew in few steps.",
            "fast_lcm_inpainting",
            _SDXL,
            (*_LCM, _IMAGE, _MASK, _number("strength", 0.95, 0.01, 1)),
        ),
        Endpoint(
            "stable-diffusion-v15",
            "Draws a picture from a prompt with Stable Diffusion v1.5.",
            "stable_diffusion_v15",
            _SD15,
            (
                _PROMPT,
                _NEGATIVE,
                _size("square"),
                _integer("num_inference_steps", 25, 1, 50),
                _SEED,
                _number("guidance_scale", 7.5, 0, 20),
                _LORAS,
                Field("embeddings", Kind.EMBEDDINGS, maximum=16),
                _flag("sync_mode", False),
                _integer("num_images", 1, 1, 8),
                _SAFETY,
                _SAFETY_VERSION,
                _EXPAND,
                _FORMAT,
                _LABEL,
            ),
        ),
        Endpoint(
            "omnigen-v1",
            "Draws a picture from text and pictures with OmniGen.",
            "omnigen_v1",
            "Shitao/OmniGen-v1",
            (
                _PROMPT,
                Field("input_image_urls", Kind.SOURCES, maximum=8),
                _size("square_hd"),
                _integer("num_inference_steps", 50, 1, 50),
                _SEED,
                _number("guidance_scale", 3.0, 0, 20),
                _number("img_guidance_scale", 1.6, 0, 20),
                _flag("sync_mode", False),
                _integer("num_images", 1, 1, 4),
                _SAFETY,
                _OUTPUT_FORMAT,
            ),
        ),
        Endpoint(
            "flux-lora",
            "Draws a picture from a prompt with FLUX.1 [dev] and adapters.",
            "flux_lora_text_to_image",
            _FLUX_DEV,
            _FLUX,
        ),
        Endpoint(
            "flux-lora/image-to-image",
            "Draws a picture from a prompt and a picture with FLUX.1 [dev] and adapters.",
            "flux_lora_image_to_image",
            _FLUX_DEV,
            (*_FLUX, _IMAGE, _number("strength", 0.85, 0.01, 1)),
        ),
        Endpoint(
            "flux-lora/inpainting",
            "Draws a part of a picture anew with FLUX.1 [dev] and adapters.",
            "flux_lora_inpainting",
            _FLUX_DEV,
            (*_FLUX, _IMAGE, _MASK, _number("strength", 0.85, 0.01, 1)),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Installed weights, as a worker announces them. `native_size` is the side in pixels of the square that it was trained on."""

    name: str
    endpoints: tuple[str, ...]
    native_size: int
    resamples: bool
    max_image_pixels: int
    fidelity: str
    safety_checker_versions: tuple[str, ...] = ()
    safe_by_construction: bool = False
    backend: str = ""


DECLARED_NATIVE_SIZE = 512
DECLARED_MAX_PIXELS = 4 * 1024 * 1024


def declared_model(name: str, endpoints: Iterable[str]) -> ModelInfo:
    """What is taken for granted of a model that an operator declared, until a worker announces it. No endpoint stands for those of LCM.

    Generous: what the worker that comes cannot do, it refuses with the reason.
    """
    lcm = tuple(endpoint_id for endpoint_id in ENDPOINTS if endpoint_id.split("/")[0] == FAST_LCM.id)
    return ModelInfo(
        name=name,
        endpoints=tuple(endpoints) or lcm,
        native_size=DECLARED_NATIVE_SIZE,
        resamples=False,
        max_image_pixels=DECLARED_MAX_PIXELS,
        fidelity="UNSPECIFIED",
        safety_checker_versions=_SAFETY_VERSION.choices,
    )


def models_of(endpoint: Endpoint, installed: Iterable[ModelInfo]) -> list[ModelInfo]:
    """The installed models that run an endpoint, ordered by name."""
    return sorted((m for m in installed if endpoint.id in m.endpoints), key=lambda m: m.name)


def default_model(endpoint: Endpoint, installed: Iterable[ModelInfo]) -> ModelInfo | None:
    """The model that runs where an input names none: the endpoint's own if it is installed, else the first by name."""
    models = models_of(endpoint, installed)
    return next((m for m in models if m.name == endpoint.preferred_model), models[0] if models else None)
