"""Results and errors as fal's clients read them: the JSON of an output, and the one table from errors to HTTP statuses and bodies.

Answers of the gateway and bodies of webhooks are made here. Knows no web framework.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashbulb_server import errors
from flashbulb_server.core.generation import DrawnImage, GenerationResult
from flashbulb_server.core.requests import Failure

INVALID_STATUS = 422
_ERROR_URL = "https://docs.fal.ai/errors#"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a class of errors is told: HTTP status, and fal's name of the error's type."""

    status: int
    error_type: str


KINDS: Mapping[type[errors.FlashbulbError], Kind] = {
    errors.InvalidRequest: Kind(INVALID_STATUS, "value_error"),
    errors.BadImage: Kind(INVALID_STATUS, "image_load_error"),
    errors.Unauthenticated: Kind(401, "unauthorized"),
    errors.Forbidden: Kind(403, "forbidden"),
    errors.NotFound: Kind(404, "not_found"),
    errors.RequestNotFinished: Kind(400, "bad_request"),
    errors.NoWebhook: Kind(400, "no_webhook"),
    errors.IdempotencyKeyReused: Kind(INVALID_STATUS, "idempotency_key_reused"),  # 409 would be sent again, ten times
    errors.EndpointUnavailable: Kind(404, "endpoint_unavailable"),
    errors.SafetyCheckerUnavailable: Kind(INVALID_STATUS, "feature_not_supported"),
    errors.QueueFull: Kind(429, "queue_full"),
    errors.WorkersBusy: Kind(429, "concurrent_requests_limit"),
    errors.TooManySessions: Kind(429, "concurrent_requests_limit"),
    errors.TooManyCalls: Kind(429, "concurrent_requests_limit"),
    errors.NoWorker: Kind(503, "runner_scheduling_failure"),
    errors.StoreUnavailable: Kind(503, "internal_error"),
    errors.NewerRelease: Kind(503, "internal_error"),
    errors.Draining: Kind(503, "runner_disconnected"),
    errors.RequestCancelled: Kind(499, "client_cancelled"),
    errors.StartTimeout: Kind(504, "request_timeout"),
    errors.EngineFailed: Kind(500, "runner_server_error"),
    errors.WorkerLost: Kind(500, "runner_disconnected"),  # all attempts are used up: 503 would have it asked for again
    errors.DataUnreadable: Kind(500, "internal_error"),
}
FAULT = Kind(500, "internal_error")
"""An error that nobody expected."""

_PLACES: Mapping[str, tuple[str, ...]] = {
    "start_timeout": ("header", "x-fal-request-timeout"),
    "runner_hint": ("header", "x-fal-runner-hint"),
    "idempotency_key": ("header", "idempotency-key"),
    "webhook_url": ("query", "fal_webhook"),
    "max_waiting": ("query", "fal_max_queue_length"),
    "keep": ("header", "x-fal-object-lifecycle-preference"),
}
"""Where a caller put what is no field of an input."""


def kind_of(error_class: type[errors.FlashbulbError]) -> Kind:
    """The kind of the nearest class in the table. StopIteration if none is there."""
    return next(KINDS[base] for base in error_class.__mro__ if base in KINDS)


def output_json(result: GenerationResult) -> dict[str, object]:
    """The output of a request whose pictures have links, or bytes where they were asked for (`sync_mode`) and fit."""
    spec = result.spec
    output: dict[str, object] = {
        "images": [image_json(image, inline=spec.sync_mode) for image in result.images],
        "timings": dict(result.timings),
        "seed": spec.seed,
        "has_nsfw_concepts": list(result.has_nsfw_concepts),
        "prompt": spec.prompt,
        "model_name": spec.model_name,
        "fidelity": result.fidelity,
        "backend": result.backend,
    }
    if spec.request_id:
        output["request_id"] = spec.request_id
    return output


def image_json(image: DrawnImage, *, inline: bool) -> dict[str, object]:
    """A picture: its bytes as a data URI if they are here and wanted or there is no link, else its link."""
    data = image.content and (inline or not image.url)
    return {
        "url": data_uri(image.content, image.content_type) if data else image.url,
        "width": image.width,
        "height": image.height,
        "content_type": image.content_type,
        "file_size": image.size_bytes,
    }


def data_uri(content: bytes, content_type: str) -> str:
    """The bytes as an address (RFC 2397)."""
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


def failure_json(failure: Failure) -> tuple[int, dict[str, object]]:
    """HTTP status and body of a request that ended without pictures."""
    leaf = _LEAVES.get(failure.reason)
    kind = kind_of(leaf) if leaf else FAULT
    if leaf is errors.BadImage:
        field, problem = failure.metadata.get("field", ""), failure.metadata.get("problem", failure.message)
        return kind.status, detail_list(
            failure.message, [detail(_loc(field), problem, failure.metadata.get("type", kind.error_type))]
        )
    if kind.status == INVALID_STATUS:
        return kind.status, detail_list(failure.message, [detail(("body",), failure.message, kind.error_type)])
    return kind.status, plain(failure.message, kind.error_type)


def error_json(error: errors.FlashbulbError, given: object = None) -> tuple[int, dict[str, object]]:
    """HTTP status and body of an error. `given`: the input as it came, of which the bad parts are quoted."""
    kind = kind_of(type(error))
    match error:
        case errors.InvalidRequest():
            return kind.status, detail_list(error.message, [_violation(v, given) for v in error.violations])
        case errors.IdempotencyKeyReused():
            return kind.status, detail_list(
                error.message, [detail(_PLACES["idempotency_key"], error.message, kind.error_type)]
            )
        case errors.SafetyCheckerUnavailable():
            return kind.status, detail_list(
                error.message, [detail(("body", "enable_safety_checker"), error.message, kind.error_type)]
            )
        case errors.RequestNotFinished():
            return kind.status, {**plain(error.message, kind.error_type), "detail": "Request is still in progress"}
        case errors.RequestNotFound():
            return kind.status, {"status": "NOT_FOUND", **plain(error.message, kind.error_type)}
        case errors.Unavailable() if error.retry_after is None:
            # What was begun would be drawn, and paid for, a second time: a status that no client sends again.
            return FAULT.status, plain(error.message, kind.error_type)
    return failure_json(Failure.of(error))


def plain(message: str, error_type: str) -> dict[str, object]:
    """The body of an error that is not about a field."""
    return {"detail": message, "error_type": error_type, "message": message}


def detail_list(message: str, details: Sequence[dict[str, object]]) -> dict[str, object]:
    """The body of an error about fields."""
    return {"detail": list(details), "message": message}


def detail(
    loc: Sequence[str | int], msg: str, error_type: str, context: Mapping[str, object] | None = None
) -> dict[str, object]:
    """What is wrong with one field."""
    entry: dict[str, object] = {"loc": list(loc), "msg": msg, "type": error_type, "url": _ERROR_URL + error_type}
    if context:
        entry["ctx"] = dict(context)
    return entry


def _violation(violation: errors.FieldViolation, given: object) -> dict[str, object]:
    loc = _loc(violation.field)
    entry = detail(loc, violation.description, violation.type, violation.limits)
    if loc[0] == "body" and violation.type != "missing":
        found = _found(given, loc[1:])
        if found is not None:
            entry["input"] = found
    return entry


def _loc(path: str) -> tuple[str | int, ...]:
    if path in _PLACES:
        return _PLACES[path]
    return ("body", *(int(part) if part.isdecimal() else part for part in _PARTS.findall(path)))


_PARTS = re.compile(r"[^.\[\]]+")
_LONGEST_QUOTE = 200


def _found(given: object, path: Sequence[str | int]) -> object:
    """The bad part of an input, if it is short enough to be quoted; None otherwise."""
    for part in path:
        if isinstance(given, Mapping) and part in given:
            given = given[str(part)]
        elif isinstance(given, list) and isinstance(part, int) and part < len(given):
            given = given[part]
        else:
            return None
    if isinstance(given, float) and not math.isfinite(given):  # as JSON has no word for it
        return None
    return given if isinstance(given, int | float | str) and len(str(given)) <= _LONGEST_QUOTE else None


def _leaves(error_class: type[errors.FlashbulbError]) -> list[type[errors.FlashbulbError]]:
    below = error_class.__subclasses__()
    return [leaf for child in below for leaf in _leaves(child)] if below else [error_class]


_LEAVES = {leaf.reason: leaf for leaf in _leaves(errors.FlashbulbError)}
