"""From what a caller gave to a value that cannot be invalid. The only place where inputs are judged; knows no transport.

`resolve` takes the fields that were given, by name: texts, numbers and flags as Python values, `image_size` as a preset's name or as
(width, height) with None for an absent side, pictures as SourceImage. It reports every bad field at once.
"""

from __future__ import annotations

import functools
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
    values = dict(_defaults(endpoint_id))
    for field in endpoint.fields:
        if field.required or field.name in given:
            values[field.name] = _value(field, given.get(field.name), violations)
    model = _model(endpoint, values.get("model_name"), available, violations)
    if model is not None:
        _check_area(values, model, violations)
    _check_last_seed(values, violations)
    if values.get("expand_prompt"):
        text = "no prompt expansion is installed on this server"
        violations.append(FieldViolation("expand_prompt", text, "feature_not_supported"))
    if violations or model is None:
        raise InvalidRequest(violations)
    _check_safety(values, model)
    return _spec(endpoint, model, values)


@functools.cache
def _defaults(endpoint_id: str) -> Mapping[str, object]:
    """What fields have when nothing is given, by name; most of them are given nothing most of the time."""
    return {field.name: _default(field) for field in ENDPOINTS[endpoint_id].fields}


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
        others = [violation for violation in err.violations if violation.type != "missing"]
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
        text = f"{_shown.repr(name)} is not installed; installed: {names}"
        violations.append(FieldViolation("model_name", text, "one_of", {"expected": [m.name for m in available]}))
    return found


def _check_last_seed(values: Mapping[str, object], violations: list[FieldViolation]) -> None:
    """Picture i is drawn with `seed + i`, and every picture's seed must be one that can be given again."""
    seed, pictures = values.get("seed"), values.get("num_images")
    if isinstance(seed, int) and isinstance(pictures, int) and seed + pictures - 1 > MAX_SEED:
        most = MAX_SEED - pictures + 1
        text = f"must be at most {most} for {pictures} pictures, not {seed}"
        violations.append(FieldViolation("seed", text, "less_than_equal", {"le": most}))


def _check_area(values: Mapping[str, object], model: ModelInfo, violations: list[FieldViolation]) -> None:
    size = values.get("image_size")
    if isinstance(size, tuple) and size[0] * size[1] > model.max_image_pixels:
        text = f"{size[0]} x {size[1]} is more than the {model.max_image_pixels} pixels that {model.name} may draw"
        violations.append(FieldViolation("image_size", text, "value_error", {"max_pixels": model.max_image_pixels}))


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
            violations.append(FieldViolation(field.name, _REQUIRED, "missing"))
            return None
        return _default(field)
    problems = _problems(field, value)
    if problems:
        violations.extend(problems)
        return None
    if field.kind is Kind.SIZE:
        return _dimensions(value)
    return float(value) if field.kind is Kind.NUMBER else value  # type: ignore[arg-type]  # _number_problem passed it


def _default(field: Field) -> object:
    return IMAGE_SIZES[str(field.default)] if field.kind is Kind.SIZE else field.default


def _problems(field: Field, value: object) -> list[FieldViolation]:
    """What is wrong with a value that was given."""
    problem: FieldViolation | None = None
    match field.kind:
        case Kind.TEXT:
            problem = _text_problem(field, value)
        case Kind.INTEGER | Kind.NUMBER:
            problem = _number_problem(field.name, value, field.minimum, field.maximum, whole=field.kind is Kind.INTEGER)
        case Kind.CHOICE:
            if value not in field.choices:
                problem = _not_among(field.name, field.choices)
        case Kind.BOOLEAN:
            if not isinstance(value, bool):
                problem = FieldViolation(field.name, "must be true or false", "bool_type")
        case Kind.SIZE:
            return _size_problems(field, value)
        case Kind.SOURCE:
            problem = _source_problem(field, value)
    return [problem] if problem else []


def _text_problem(field: Field, value: object) -> FieldViolation | None:
    if not isinstance(value, str):
        return FieldViolation(field.name, "must be a text", "string_type")
    if field.required and not value.strip():
        return FieldViolation(field.name, "must not be empty", "sequence_too_short", {"min_length": 1})
    if field.maximum is not None and len(value) > field.maximum:
        most = int(field.maximum)
        text = f"has {len(value)} characters, at most {most} are allowed"
        return FieldViolation(field.name, text, "sequence_too_long", {"max_length": most})
    if _UNPRINTABLE.search(value):
        return FieldViolation(field.name, "must not hold control characters")
    return None


def _number_problem(
    path: str, value: object, low: float | None, high: float | None, *, whole: bool
) -> FieldViolation | None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        text = f"must be a {'whole ' if whole else ''}number, not {_shown.repr(value)}"
        return FieldViolation(path, text, "int_type" if whole else "float_type")
    assert low is not None and high is not None, "every number of the catalog has a range"
    if not low <= value <= high:  # NaN is in no range
        text = f"must be from {low} to {high}, not {_shown.repr(value)}"
        if value < low:
            return FieldViolation(path, text, "greater_than_equal", {"ge": low})
        return FieldViolation(path, text, "less_than_equal", {"le": high})
    return None


def _not_among(path: str, names: Iterable[str], more: str = "") -> FieldViolation:
    expected = list(names)
    return FieldViolation(path, f"must be one of {', '.join(expected)}{more}", "one_of", {"expected": expected})


def _source_problem(field: Field, value: object) -> FieldViolation | None:
    if not isinstance(value, SourceImage):
        return FieldViolation(field.name, "must be a picture", "string_type")
    text = source_problem(value)
    return FieldViolation(field.name, text) if text else None


def _size_problems(field: Field, value: object) -> list[FieldViolation]:
    """Of a named size, or of (width, height), where None is an absent side."""
    if isinstance(value, str):
        return [] if value in field.choices else [_not_among(field.name, field.choices, ", or dimensions")]
    if not (isinstance(value, tuple) and len(value) == 2):
        return [FieldViolation(field.name, "must be a named size, or width and height")]
    sides = ((f"{field.name}.{name}", side) for name, side in zip(("width", "height"), value, strict=True))
    high = int(field.maximum or 0)
    found = (_number_problem(path, side, 1, high, whole=True) for path, side in sides if side is not None)
    return [problem for problem in found if problem]


def _dimensions(value: Any) -> tuple[int, int]:  # noqa: ANN401  # _size_problems passed it
    return IMAGE_SIZES[value] if isinstance(value, str) else (value[0] or DEFAULT_SIDE, value[1] or DEFAULT_SIDE)
