"""The one table from errors to gRPC codes, the rich status that carries an error's parts (AIP-193), and the way back.

Knows google.rpc's messages but not the grpc package: workers, records and the api all speak of errors this way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from flashbulb_server import errors
from flashbulb_server.core.requests import Failure
from flashbulb_server.wire.times import from_duration, to_duration

DOMAIN = "flashbulb"
INTERNAL_REASON = "INTERNAL"
_COUNT = re.compile(r"[0-9]{1,9}")
_MAX_TEXT_BYTES = 512  # a status travels in trailers, of which gRPC clients take 8 KiB

CODES: Mapping[type[errors.FlashbulbError], int] = {
    errors.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    errors.BadImage: code_pb2.INVALID_ARGUMENT,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Forbidden: code_pb2.PERMISSION_DENIED,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.Precondition: code_pb2.FAILED_PRECONDITION,
    errors.Busy: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.RequestCancelled: code_pb2.CANCELLED,
    errors.StartTimeout: code_pb2.DEADLINE_EXCEEDED,
    errors.ServerFault: code_pb2.INTERNAL,
}


def code_of(error_class: type[errors.FlashbulbError]) -> int:
    """The google.rpc.Code of the nearest class in the table. StopIteration if none is there."""
    return next(CODES[base] for base in error_class.__mro__ if base in CODES)


def to_status(error: errors.FlashbulbError) -> status_pb2.Status:
    """The rich status: ErrorInfo always, BadRequest and RetryInfo where they apply. Long texts are cut."""
    status = _status(code_of(type(error)), error.message, error.reason, error.metadata)
    if isinstance(error, errors.InvalidRequest):
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=_cut(violation.description))
        _attach(status, bad)
    if error.retry_after is not None:
        _attach(status, error_details_pb2.RetryInfo(retry_delay=to_duration(error.retry_after)))
    return status


def fault_status() -> status_pb2.Status:
    """The status of an error that nobody expected: the caller learns nothing of it."""
    return _status(code_pb2.INTERNAL, "a fault of the server", INTERNAL_REASON, {})


def failure_status(failure: Failure) -> status_pb2.Status:
    """The status of a request that ended without pictures."""
    known = _LEAVES.get(failure.reason)
    return _status(code_of(known) if known else code_pb2.INTERNAL, failure.message, failure.reason, failure.metadata)


def from_status(status: status_pb2.Status) -> errors.FlashbulbError:
    """The error that another role of this service sent. EngineFailed if it is none of ours, or cannot be read."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    try:
        for detail in status.details:
            for message in (info, bad, retry):
                detail.Unpack(message)
    except DecodeError:
        return errors.EngineFailed()
    leaf = _LEAVES.get(info.reason)
    if leaf is None:
        return errors.EngineFailed()
    if leaf is errors.InvalidRequest:
        violations = [errors.FieldViolation(v.field, v.description) for v in bad.field_violations]
        return errors.InvalidRequest(violations)
    if leaf is errors.RequestCancelled:
        counts = [_COUNT.fullmatch(info.metadata[name]) for name in ("step", "total_steps")]
        return errors.RequestCancelled(*(int(count[0]) if count else 0 for count in counts))
    error = leaf.__new__(leaf)
    wait = from_duration(retry.retry_delay) if retry.HasField("retry_delay") else None
    errors.FlashbulbError.__init__(error, status.message, metadata=info.metadata, retry_after=wait)
    return error


def _status(code: int, message: str, reason: str, metadata: Mapping[str, str]) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=_cut(message))
    short = {key: _cut(value) for key, value in metadata.items()}
    _attach(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=short))
    if reason == errors.BadImage.reason:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=short.get("field", ""), description=short.get("problem", ""))
        _attach(status, bad)
    return status


def _cut(text: str) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= _MAX_TEXT_BYTES else data[:_MAX_TEXT_BYTES].decode(errors="ignore") + "…"


def _attach(status: status_pb2.Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def _leaves(error_class: type[errors.FlashbulbError]) -> list[type[errors.FlashbulbError]]:
    below = error_class.__subclasses__()
    return [leaf for child in below for leaf in _leaves(child)] if below else [error_class]


_LEAVES = {leaf.reason: leaf for leaf in _leaves(errors.FlashbulbError)}
