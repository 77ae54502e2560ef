"""From what a caller gave to a value that cannot be invalid. The only place where inputs are judged; knows no transport.

`resolve` takes the fields that were given, by name: texts, numbers and flags as Python values, `image_size` as a preset's name or as
(width, height) with None for an absent side, pictures as SourceImage, lists as lists, and their objects as mappings. It reports every bad
field at once.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterable, Mapping

from flashbulb_server.core.catalog import ENDPOINTS, Endpoint, ModelInfo, default_model, models_of
from flashbulb_server.core.fields import MAX_SEED
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.values import default_of, shown, value_of
from flashbulb_server.errors import EndpointUnavailable, FieldViolation, InvalidRequest, SafetyCheckerUnavailable

_MOST_PICTURES = 8


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
            values[field.name] = value_of(field, given.get(field.name), field.name, violations.append)
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
    if values["seed"] is None:
        values["seed"] = secrets.randbelow(MAX_SEED - _MOST_PICTURES)
    return GenerationSpec.of(endpoint_id, model.name, values)


@functools.cache
def _defaults(endpoint_id: str) -> Mapping[str, object]:
    """What fields have when nothing is given, by name; most of them are given nothing most of the time."""
    return {field.name: default_of(field) for field in ENDPOINTS[endpoint_id].fields}


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
        late = [field.name for field in ENDPOINTS[endpoint_id].fields if field.required]
        others = [v for v in err.violations if v.type != "missing" or v.field not in late]
        if others:
            raise InvalidRequest(others) from None
        return None


def _model(
    endpoint: Endpoint, name: object, available: list[ModelInfo], violations: list[FieldViolation]
) -> ModelInfo | None:
    if not name:
        return default_model(endpoint, available)
    found = next((m for m in available if m.name == name), None)
    if found is None:
        found = next((m for m in available if name in m.stands_in_for), None)
    if found is None:
        names = ", ".join(m.name for m in available)
        text = f"{shown.repr(name)} is not installed; installed: {names}"
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


def _check_safety(values: Mapping[str, object], model: ModelInfo) -> None:
    if model.safe_by_construction or not values["enable_safety_checker"]:
        return
    version = str(values.get("safety_checker_version", ""))
    if model.checker(version) is None:
        raise SafetyCheckerUnavailable(version, model.safety_checker_versions)
