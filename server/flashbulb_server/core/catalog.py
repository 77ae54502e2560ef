"""The endpoints: ids, fields, defaults and ranges, exactly as published. Everything that validates or documents an input reads this table.

Source of names, defaults and ranges: the published schemas of the hosted endpoints (fast-lcm-diffusion and its siblings).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from flashbulb_server.core.fields import (
    MAX_LABEL_CHARS,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    Field,
    Kind,
    choice,
    flag,
    integer,
    number,
    reference,
    size,
)


class Task(StrEnum):
    """What an endpoint does, whatever draws it."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    INPAINTING = "inpainting"
    EDIT = "edit"  # text and pictures that it speaks of


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A typed task. `input_field` is the member of `GenerationInput` that it takes.

    `few_steps`: its models draw in few steps, so that an image to image spreads them over the noise that `strength` leaves, where others take
    the last ones of them. `hosted_models`: names that the hosted endpoint takes as `model_name`.
    """

    id: str
    task: Task
    description: str
    input_field: str
    preferred_model: str
    fields: tuple[Field, ...]
    few_steps: bool = False
    hosted_models: tuple[str, ...] = ()

    def field(self, name: str) -> Field:
        """The field of that name. KeyError if there is none."""
        return next(f for f in self.fields if f.name == name)


_MODEL = Field("model_name", Kind.TEXT)
_PROMPT = Field("prompt", Kind.TEXT, required=True, minimum=1, maximum=MAX_PROMPT_CHARS)
_NEGATIVE = Field("negative_prompt", Kind.TEXT, "", maximum=MAX_PROMPT_CHARS)
_SEED = integer("seed", None, 0, MAX_SEED)
_SAFETY = flag("enable_safety_checker", True)
_SAFETY_VERSION = choice("safety_checker_version", "v1", "v2")
_EXPAND = flag("expand_prompt", False)
_FORMAT = choice("format", "jpeg", "png")
_OUTPUT_FORMAT = choice("output_format", "jpeg", "png")
_LABEL = Field("request_id", Kind.TEXT, "", maximum=MAX_LABEL_CHARS)
_IMAGE = Field("image_url", Kind.SOURCE, required=True)
_MASK = Field("mask_url", Kind.SOURCE, required=True)
_PICTURES = Field("input_image_urls", Kind.SOURCES, maximum=8, items=(Field("image", Kind.SOURCE, required=True),))
_TOKENS = Field("tokens", Kind.REFERENCES, ("<s0>", "<s1>"), maximum=16, items=(reference("token", MAX_LABEL_CHARS),))
_EMBEDDINGS = Field("embeddings", Kind.EMBEDDINGS, maximum=16, items=(reference("path"), _TOKENS))


def _loras(strongest: int) -> Field:
    return Field(
        "loras",
        Kind.LORAS,
        maximum=16,
        items=(reference("path"), number("scale", 1.0, 0, strongest), flag("force", False)),
    )


_LCM = (
    _MODEL,
    _PROMPT,
    _NEGATIVE,
    size("square_hd"),
    integer("num_inference_steps", 6, 1, 32),
    _SEED,
    number("guidance_scale", 1.5, 0, 20),
    flag("sync_mode", True),
    integer("num_images", 1, 1, 8),
    _SAFETY,
    _SAFETY_VERSION,
    _EXPAND,
    _FORMAT,
    number("guidance_rescale", 0.0, 0, 1),
    _LABEL,
)
_FLUX = (
    _PROMPT,
    size("landscape_4_3"),
    integer("num_inference_steps", 28, 1, 50),
    _SEED,
    number("guidance_scale", 3.5, 0, 35),
    _loras(4),
    flag("sync_mode", False),
    integer("num_images", 1, 1, 4),
    _SAFETY,
    _OUTPUT_FORMAT,
    choice("acceleration", "none", "regular"),
)
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_SD15 = "runwayml/stable-diffusion-v1-5"
_FLUX_DEV = "black-forest-labs/FLUX.1-dev"
_HOSTED = (_SDXL, _SD15)

EMBEDDED_MODEL = "flashbulb/tiny"
"""The model inside this package."""

FAST_LCM = Endpoint(
    "fast-lcm-diffusion",
    Task.TEXT_TO_IMAGE,
    "Draws a picture from a prompt in few steps with a latent consistency model.",
    "fast_lcm_text_to_image",
    _SDXL,
    _LCM,
    few_steps=True,
    hosted_models=_HOSTED,
)

ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.id: endpoint
    for endpoint in (
        FAST_LCM,
        Endpoint(
            "fast-lcm-diffusion/image-to-image",
            Task.IMAGE_TO_IMAGE,
            "Draws a picture from a prompt and a picture in few steps.",
            "fast_lcm_image_to_image",
            _SDXL,
            (
                *_LCM,
                _IMAGE,
                number("strength", 0.95, 0.05, 1),
                flag("preserve_aspect_ratio", False),
                flag("crop_output", False),
            ),
            few_steps=True,
            hosted_models=_HOSTED,
        ),
        Endpoint(
            "fast-lcm-diffusion/inpainting",
            Task.INPAINTING,
            "Draws a part of a picture anew in few steps.",
            "fast_lcm_inpainting",
            _SDXL,
            (*_LCM, _IMAGE, _MASK, number("strength", 0.95, 0.01, 1)),
            few_steps=True,
            hosted_models=_HOSTED,
        ),
        Endpoint(
            "stable-diffusion-v15",
            Task.TEXT_TO_IMAGE,
            "Draws a picture from a prompt with Stable Diffusion v1.5.",
            "stable_diffusion_v15",
            _SD15,
            (
                _PROMPT,
                _NEGATIVE,
                size("square"),
                integer("num_inference_steps", 25, 1, 50),
                _SEED,
                number("guidance_scale", 7.5, 0, 20),
                _loras(1),
                _EMBEDDINGS,
                flag("sync_mode", False),
                integer("num_images", 1, 1, 8),
                _SAFETY,
                _SAFETY_VERSION,
                _EXPAND,
                _FORMAT,
                _LABEL,
            ),
        ),
        Endpoint(
            "omnigen-v1",
            Task.EDIT,
            "Draws a picture from text and pictures with OmniGen.",
            "omnigen_v1",
            "Shitao/OmniGen-v1",
            (
                _PROMPT,
                _PICTURES,
                size("square_hd"),
                integer("num_inference_steps", 50, 1, 50),
                _SEED,
                number("guidance_scale", 3.0, 0, 20),
                number("img_guidance_scale", 1.6, 0, 20),
                flag("sync_mode", False),
                integer("num_images", 1, 1, 4),
                _SAFETY,
                _OUTPUT_FORMAT,
            ),
        ),
        Endpoint(
            "flux-lora",
            Task.TEXT_TO_IMAGE,
            "Draws a picture from a prompt with FLUX.1 [dev] and adapters.",
            "flux_lora_text_to_image",
            _FLUX_DEV,
            _FLUX,
        ),
        Endpoint(
            "flux-lora/image-to-image",
            Task.IMAGE_TO_IMAGE,
            "Draws a picture from a prompt and a picture with FLUX.1 [dev] and adapters.",
            "flux_lora_image_to_image",
            _FLUX_DEV,
            (*_FLUX, _IMAGE, number("strength", 0.85, 0.01, 1)),
        ),
        Endpoint(
            "flux-lora/inpainting",
            Task.INPAINTING,
            "Draws a part of a picture anew with FLUX.1 [dev] and adapters.",
            "flux_lora_inpainting",
            _FLUX_DEV,
            (*_FLUX, _IMAGE, _MASK, number("strength", 0.85, 0.01, 1)),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Installed weights, as a worker announces them. `native_size` is the side in pixels of the square that it was trained on.

    `stands_in_for`: names, of models that are not there, for which it draws; by leave of the api, not of the worker.
    """

    name: str
    endpoints: tuple[str, ...]
    native_size: int
    resamples: bool
    max_image_pixels: int
    fidelity: str
    safety_checker_versions: tuple[str, ...] = ()
    safe_by_construction: bool = False
    backend: str = ""
    stands_in_for: tuple[str, ...] = ()

    def checker(self, version: str) -> str | None:
        """The safety checker that looks at its pictures where `version` is asked for, or any where that is empty. None: not installed."""
        found = (v for v in self.safety_checker_versions if version in ("", v))
        return next(found, None)


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
