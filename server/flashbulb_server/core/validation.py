"""From what a caller gave to a value that cannot be invalid. The only place where inputs are judged; knows no transport.

`resolve` takes the fields that were given, by name: texts, numbers and flags as Python values, `image_size` as a preset's name or as
(width, height) with 0 for an absent side, pictures as SourceImage. It reports every bad field at once.
"""

from __future__ import annotations

import re
import reprlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from flashbulb_server.core.catalog import (
    ENDPOINTS,
    IMAGE_SIZES,
    MAX_SEED,
    Endpoint,
    Field,
    Kind,
    ModelInfo,
    default_model,
    models_of,
)
from flashbulb_server.core.generation import SOURCE_FIELDS, SPECS, GenerationSpec, SourceImage
from flashbulb_server.core.sources import source_problem
from flashbulb_server.errors import EndpointUnavailable, FieldViolation, InvalidRequest, SafetyCheckerUnavailable

_MOST_PICTURES = 8
_REQUIRED = "is required"
DEFAULT_SIDE = 512  # of custom dimensions, when one is left out
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # controls, and halves of a character
_shown = reprlib.Repr()  # a bad value is quoted in the answer, which must stay small
_shown.maxstring = 100


def resolve(
    endpoint_id: str,
    given: Mapping[str, object],
    installed: Iterable[ModelInfo],
    *,
    also: Iterable[FieldViolation] = (),
) -> GenerationSpec:
    """A valid spec with every default filled in. `also`: what is wrong with the call around the input, reported with it.

    Raises EndpointUnavailable, InvalidRequest with every bad field, or SafetyCheckerUnavailable.
    """
    models = list(installed)
    endpoint = ENDPOINTS[endpoint_id]
    available = models_of(endpoint, models)
    if not available:
        raise EndpointUnavailable(endpoint_id, [e.id for e in ENDPOINTS.values() if models_of(e, models)])

    violations = list(also)
    values = {field.name: _value(field, given.get(field.name), violations) for field in endpoint.fields}
    model = _model(endpoint, values.get("model_name"), available, violations)
    if model is not None:
        _check_area(values, model, violations)
    _check_last_seed(values, violations)
    if values.get("expand_prompt"):
        violations.append(FieldViolation("expand_prompt", "no prompt expansion is installed on this server"))
    if violations or model is None:
        raise InvalidRequest(violations)
    _check_safety(values, model)
    return _spec(endpoint, model, values)


def resolve_session(
    endpoint_id: str,
    given: Mapping[str, object],
    installed: Iterable[ModelInfo],
    *,
    also: Iterable[FieldViolation] = (),
) -> GenerationSpec | None:
    """As `resolve`, for the values that a session begins with: what is required may still come with the frames; None then."""
    try:
        return resolve(endpoint_id, given, installed, also=also)
    except InvalidRequest as err:
        others = [violation for violation in err.violations if violation.description != _REQUIRED]
        if others:
            raise InvalidRequest(others) from None
        return None


def _spec(endpoint: Endpoint, model: ModelInfo, values: dict[str, object]) -> GenerationSpec:
    size: Any = values.pop("image_size")
    if values["seed"] is None:
        values["seed"] = secrets.randbelow(MAX_SEED - _MOST_PICTURES)
    values["model_name"] = model.name
    fields: dict[str, Any] = {SOURCE_FIELDS.get(name, name): value for name, value in values.items()}
    return SPECS[endpoint.id](endpoint=endpoint.id, width=size[0], height=size[1], **fields)


def _model(
    endpoint: Endpoint, name: object, available: list[ModelInfo], violations: list[FieldViolation]
) -> ModelInfo | None:
    if not name:
        return default_model(endpoint, available)
    found = next((m for m in available if m.name == name), None)
    if found is None:
        names = ", ".join(m.name for m in available)
        violations.append(FieldViolation("model_name", f"{_shown.repr(name)} is not installed; installed: {names}"))
    return found


def _check_last_seed(values: Mapping[str, object], violations: list[FieldViolation]) -> None:
    """Picture i is drawn with `seed + i`, and every picture's seed must be one that can be given again."""
    seed, pictures = values.get("seed"), values.get("num_images")
    if isinstance(seed, int) and isinstance(pictures, int) and seed + pictures - 1 > MAX_SEED:
        violations.append(
            FieldViolation("seed", f"must be at most {MAX_SEED - pictures + 1} for {pictures} pictures, not {seed}")
        )


def _check_area(values: Mapping[str, object], model: ModelInfo, violations: list[FieldViolation]) -> None:
    size = values.get("image_size")
    if isinstance(size, tuple) and size[0] * size[1] > model.max_image_pixels:
        violations.append(
            FieldViolation(
                "image_size",
                f"{size[0]} x {size[1]} is more than the {model.max_image_pixels} pixels that {model.name} may draw",
            )
        )


def _check_safety(values: dict[str, object], model: ModelInfo) -> None:
    if model.safe_by_construction or not values["enable_safety_checker"]:
        return
    version = str(values["safety_checker_version"])
    if version not in model.safety_checker_versions:
        raise SafetyCheckerUnavailable(version, model.safety_checker_versions)


def _value(field: Field, value: object, violations: list[FieldViolation]) -> object:
    """The value of one field, or its default. Adds to `violations` and gives None when it is bad."""
    if value is None or (value == "" and field.kind is not Kind.TEXT):
        if field.required:
            violations.append(FieldViolation(field.name, _REQUIRED))
            return None
        value = field.default
        if field.kind is Kind.SIZE:
            return IMAGE_SIZES[str(value)]
        return value
    problem = _problem(field, value)
    if problem:
        violations.append(FieldViolation(*problem))
        return None
    if field.kind is Kind.SIZE:
        return _dimensions(value)
    return float(value) if field.kind is Kind.NUMBER else value  # type: ignore[arg-type]  # _number_problem passed it


def _problem(field: Field, value: object) -> tuple[str, str] | None:
    """(path, what is wrong) of a value that was given, or None."""
    match field.kind:
        case Kind.TEXT:
            text = _text_problem(field, value)
        case Kind.INTEGER | Kind.NUMBER:
            text = _number_problem(field, value)
        case Kind.CHOICE:
            text = None if value in field.choices else f"must be one of {', '.join(field.choices)}"
        case Kind.BOOLEAN:
            text = None if isinstance(value, bool) else "must be true or false"
        case Kind.SIZE:
            return _size_problem(field, value)
        case Kind.SOURCE:
            text = source_problem(value) if isinstance(value, SourceImage) else "must be a picture"
        case _:
            text = None
    return (field.name, text) if text else None


def _text_problem(field: Field, value: object) -> str | None:
    if not isinstance(value, str):
        return "must be a text"
    if field.required and not value.strip():
        return "must not be empty"
    if field.maximum is not None and len(value) > field.maximum:
        return f"has {len(value)} characters, at most {int(field.maximum)} are allowed"
    if _UNPRINTABLE.search(value):
        return "must not hold control characters"
    return None


def _number_problem(field: Field, value: object) -> str | None:
    whole = field.kind is Kind.INTEGER
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return f"must be a {'whole ' if whole else ''}number, not {_shown.repr(value)}"
    assert field.minimum is not None and field.maximum is not None, "every number of the catalog has a range"
    if not field.minimum <= value <= field.maximum:  # NaN is in no range
        return f"must be from {field.minimum} to {field.maximum}, not {_shown.repr(value)}"
    return None


def _size_problem(field: Field, value: object) -> tuple[str, str] | None:
    if isinstance(value, str):
        return (
            None
            if value in field.choices
            else (field.name, f"must be one of {', '.join(field.choices)}, or dimensions")
        )
    if not (isinstance(value, tuple) and len(value) == 2 and all(type(side) is int for side in value)):  # no bool
        return (field.name, "must be a named size, or width and height")
    high = int(field.maximum or 0)
    bad = [name for name, side in zip(("width", "height"), value, strict=True) if side < 0 or side > high]
    if bad:
        return (
            f"{field.name}.{bad[0]}" if len(bad) == 1 else field.name,
            f"{' and '.join(bad)} must be from 1 to {high}",
        )
    return None


def _dimensions(value: Any) -> tuple[int, int]:  # noqa: ANN401  # _size_problem passed it
    return IMAGE_SIZES[value] if isinstance(value, str) else (value[0] or DEFAULT_SIDE, value[1] or DEFAULT_SIDE)
