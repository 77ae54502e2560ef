"""The options that describe a picture, written once for all commands that draw, and what they mean as an input."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flashbulb._client import DEFAULT_ENDPOINT
from flashbulb._inputs import BY_ENDPOINT

_PICTURE = "The picture"


def _option(*names: str, text: str, metavar: str | None = None) -> Any:  # noqa: ANN401  # what Annotated takes
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=_PICTURE, show_default=False)


def _options(  # one parameter an option
    endpoint: Annotated[
        str | None,
        _option("--endpoint", text="Endpoint; default: fast-lcm-diffusion, or its sibling that takes --image, --mask."),
    ] = None,
    model_name: Annotated[str | None, _option("--model", text="Model to run, see `flashbulb models`.")] = None,
    negative_prompt: Annotated[
        str | None, _option("--negative-prompt", text="What to keep out of the picture.")
    ] = None,
    image_size: Annotated[
        str | None, _option("--size", text="Pixels, or a name such as square_hd or portrait_4_3.", metavar="WxH|NAME")
    ] = None,
    num_inference_steps: Annotated[int | None, _option("--steps", text="Denoising steps.")] = None,
    seed: Annotated[int | None, _option("--seed", text="Same seed, same picture.")] = None,
    guidance_scale: Annotated[
        float | None, _option("--guidance-scale", text="How closely to follow the prompt.")
    ] = None,
    guidance_rescale: Annotated[
        float | None, _option("--guidance-rescale", text="Rescale factor of the guidance.")
    ] = None,
    num_images: Annotated[int | None, _option("--num-images", "-n", text="Pictures to draw.")] = None,
    format: Annotated[str | None, _option("--format", text="File format: jpeg or png.")] = None,
    sync_mode: Annotated[
        bool | None, _option("--sync-mode/--no-sync-mode", text="Whether the answer holds the bytes.")
    ] = None,
    enable_safety_checker: Annotated[
        bool | None, _option("--safety-checker/--no-safety-checker", text="Whether to check the pictures.")
    ] = None,
    safety_checker_version: Annotated[str | None, _option("--safety-checker-version", text="v1 or v2.")] = None,
    expand_prompt: Annotated[
        bool | None, _option("--expand-prompt/--no-expand-prompt", text="Whether to extend the prompt before drawing.")
    ] = None,
    request_id: Annotated[str | None, _option("--label", text="A label of your own, echoed in the answer.")] = None,
    image_url: Annotated[str | None, _option("--image", text="Picture to start from.", metavar="FILE|URL")] = None,
    mask_url: Annotated[str | None, _option("--mask", text="Where to draw: white.", metavar="FILE|URL")] = None,
    strength: Annotated[float | None, _option("--strength", text="How much of --image to replace.")] = None,
) -> None:
    """The options, as typer reads them. Names of parameters are names of fields."""


OPTIONS = tuple(inspect.signature(_options).parameters)


@dataclass(frozen=True, slots=True)
class Picture:
    """What to draw: an endpoint and its fields."""

    endpoint: str
    fields: dict[str, Any]


def drawing(*, prompt_required: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a picture, which it gets as its argument `picture`."""
    return functools.partial(_drawing, prompt_required=prompt_required)


def _drawing(command: Callable[..., None], *, prompt_required: bool) -> Callable[..., None]:
    @functools.wraps(command)
    def run(prompt: str, **values: Any) -> None:  # noqa: ANN401  # typer's values
        options = {name: values.pop(name) for name in OPTIONS}
        command(picture=_picture(prompt, options), **values)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "picture"]
    default = inspect.Parameter.empty if prompt_required else ""
    prompt = inspect.Parameter("prompt", inspect.Parameter.KEYWORD_ONLY, annotation=str, default=default)
    shared = inspect.signature(_options).parameters.values()
    merged = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (prompt, *own, *shared)]
    hints = typing.get_type_hints(_options, include_extras=True) | typing.get_type_hints(command, include_extras=True)
    hints["prompt"] = Annotated[
        str,
        typer.Argument(metavar="PROMPT" if prompt_required else "[PROMPT]", help="What to draw.", show_default=False),
    ]
    run.__signature__ = inspect.Signature([p.replace(annotation=hints[p.name]) for p in merged])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: hints[p.name] for p in merged}
    return run


def _picture(prompt: str, options: dict[str, Any]) -> Picture:
    fields: dict[str, Any] = {"prompt": prompt} | {
        n: v for n, v in options.items() if v is not None and n != "endpoint"
    }
    for name in ("image_url", "mask_url"):
        if isinstance(source := fields.get(name), str) and not re.match(r"[a-z][a-z0-9+.-]+:", source):
            fields[name] = Path(source)
    size = re.fullmatch(r"(\d+)\s*[xX,]\s*(\d+)", str(fields.get("image_size", "")))
    if size is not None:
        fields["image_size"] = (int(size[1]), int(size[2]))
    task = "/inpainting" if "mask_url" in fields else "/image-to-image" if "image_url" in fields else ""
    endpoint = options["endpoint"] or DEFAULT_ENDPOINT + task
    if "format" in fields and hasattr(BY_ENDPOINT.get(endpoint), "output_format"):
        fields["output_format"] = fields.pop("format")  # the endpoints disagree on the name
    return Picture(endpoint, fields)
