"""Every error of this package, and the one table that makes them of what the server sends.

    FlashbulbError
    ├── InvalidInput                     mend the fields named in `violations`
    │   ├── UnknownField                 a field that the endpoint does not have
    │   └── BadImage                     give another picture
    ├── ConfigurationError               mend the key, the host, or install what is missing
    ├── AuthenticationError              give a key that the server knows
    ├── NotFound                         nothing to wait for
    │   ├── RequestNotFound
    │   └── FileNotFound
    ├── NotFinished                      wait for the request's terminal state
    ├── Conflict                         the server's state forbids it
    │   ├── IdempotencyKeyReused         take another idempotency key
    │   └── NoWebhook                    submit with a `webhook_url`
    ├── EndpointUnavailable              install a model that runs the endpoint
    │   └── SafetyCheckerUnavailable     install it, or switch it off
    ├── Busy                             try again after `retry_after` seconds
    │   ├── QueueFull
    │   └── WorkersBusy
    ├── Unavailable                      the service does not answer; try again
    ├── DeadlineExceeded                 the time that the caller gave is over
    ├── RequestEnded                     the request has no pictures
    │   ├── RequestFailed
    │   ├── RequestCancelled
    │   └── RequestExpired               not started within its start timeout
    ├── SessionEnded                     open another realtime session
    ├── DownloadFailed                   the link of a picture does not work (any more)
    └── ServerError                      tell the operator

Every error has `reason` (a `flashbulb.v1.ErrorReason` without its prefix, empty where the server gave none), `code` (the name of the
gRPC status, empty where the error was found before a call), `metadata` (the variable parts of the message) and `retry_after`
(seconds; None where the server named none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "flashbulb"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field. `field` is its path in the input, such as `image_size.width`."""

    field: str
    description: str


class FlashbulbError(Exception):
    """Base of all errors of this package."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)


class InvalidInput(FlashbulbError, ValueError):
    """Fields are bad; `violations` names each. Nothing was stored."""


class UnknownField(InvalidInput, TypeError):
    """A field that the endpoint does not have; the message names close ones."""


class BadImage(InvalidInput):
    """A picture that was given cannot be fetched or read; `metadata["field"]` names its field. In the queue it ends the request."""


class ConfigurationError(FlashbulbError):
    """The client cannot work as it is set up."""


class AuthenticationError(FlashbulbError):
    """The server does not know the key, or got none."""


class NotFound(FlashbulbError):
    """What was named does not exist, or belongs to another key."""


class RequestNotFound(NotFound):
    """No such request."""


class FileNotFound(NotFound):
    """No such file."""


class NotFinished(FlashbulbError):
    """The result was asked for before the terminal state; `metadata["state"]` is the state."""


class Conflict(FlashbulbError):
    """The call is well formed but cannot be served as things stand."""


class IdempotencyKeyReused(Conflict):
    """The idempotency key was used with another input; `metadata["request_id"]` is that request."""


class NoWebhook(Conflict):
    """The request was submitted without a webhook."""


class EndpointUnavailable(FlashbulbError):
    """No installed model runs the endpoint."""


class SafetyCheckerUnavailable(EndpointUnavailable):
    """The model needs a safety checker that is not installed."""


class Busy(FlashbulbError):
    """There is no room now."""


class QueueFull(Busy):
    """The queue holds as many requests as it may."""


class WorkersBusy(Busy):
    """Workers are full, or the deadline cannot be met."""


class Unavailable(FlashbulbError):
    """The service, or a part of it, does not answer."""


class DeadlineExceeded(FlashbulbError, TimeoutError):
    """The time that the caller gave is over. `metadata["request_id"]` names the request that was cancelled for it, if any."""


class RequestEnded(FlashbulbError):
    """The request ended without pictures."""


class RequestFailed(RequestEnded):
    """Drawing failed."""


class RequestCancelled(RequestEnded):
    """The request was cancelled."""


class RequestExpired(RequestEnded):
    """The request was not started within its start timeout."""


class SessionEnded(FlashbulbError):
    """The realtime session is over; `reason` says why: CLIENT, IDLE, or another `flashbulb.v1.CloseReason`."""


class DownloadFailed(FlashbulbError):
    """A picture's link does not answer with the picture. Links expire; `result` makes new ones."""


class ServerError(FlashbulbError):
    """A fault of the server."""


# The reason decides; where the server gave none that is known here, the gRPC status does. No reason has the name of a status, except
# INTERNAL, which means the same in both.
CLASSES: Mapping[str, type[FlashbulbError]] = {
    # Reasons.
    "INVALID_INPUT": InvalidInput,
    "BAD_IMAGE": BadImage,
    "KEY_MISSING": AuthenticationError,
    "KEY_UNKNOWN": AuthenticationError,
    "REQUEST_NOT_FOUND": RequestNotFound,
    "FILE_NOT_FOUND": FileNotFound,
    "REQUEST_NOT_FINISHED": NotFinished,
    "IDEMPOTENCY_KEY_REUSED": IdempotencyKeyReused,
    "NO_WEBHOOK": NoWebhook,
    "QUEUE_FULL": QueueFull,
    "WORKERS_BUSY": WorkersBusy,
    "NO_WORKER": Unavailable,
    "ENDPOINT_UNAVAILABLE": EndpointUnavailable,
    "SAFETY_CHECKER_UNAVAILABLE": SafetyCheckerUnavailable,
    "STORE_UNAVAILABLE": Unavailable,
    "ENGINE_FAILED": RequestFailed,
    "WORKER_LOST": RequestFailed,
    "REQUEST_CANCELLED": RequestCancelled,
    "START_TIMEOUT": RequestExpired,
    "DRAINING": Unavailable,
    "NEWER_RELEASE": Unavailable,
    "DATA_UNREADABLE": ServerError,
    "INTERNAL": ServerError,
    "TOO_MANY_SESSIONS": Busy,
    "TOO_MANY_CALLS": Busy,
    "TOKEN_INVALID": AuthenticationError,
    "TOKEN_FORBIDS": AuthenticationError,
    # gRPC statuses. CANCELLED without a reason is a call that a server or a proxy dropped, not a cancelled request.
    "CANCELLED": Unavailable,
    "UNKNOWN": ServerError,
    "INVALID_ARGUMENT": InvalidInput,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": Conflict,
    "PERMISSION_DENIED": AuthenticationError,
    "RESOURCE_EXHAUSTED": Busy,
    "FAILED_PRECONDITION": Conflict,
    "ABORTED": Conflict,
    "OUT_OF_RANGE": InvalidInput,
    "UNIMPLEMENTED": ServerError,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": ServerError,
    "UNAUTHENTICATED": AuthenticationError,
}

_CODE_NAMES: Mapping[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


def from_call(error: grpc.aio.AioRpcError) -> FlashbulbError:
    """The error that a call ended with."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # a proxy changed the status or its message; the details say nothing reliable then
        status = None
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    return from_status(status)


def from_status(status: status_pb2.Status) -> FlashbulbError:
    """The error that a google.rpc.Status describes. Details of unknown types are ignored."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    fields = error_details_pb2.BadRequest()
    retry_after = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(fields.DESCRIPTOR):
            detail.Unpack(fields)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    code = _CODE_NAMES.get(status.code, "UNKNOWN")
    reason = info.reason if info.domain == DOMAIN else ""
    return CLASSES.get(reason, CLASSES.get(code, ServerError))(
        status.message or code,
        code=code,
        reason=reason,
        metadata=dict(info.metadata),
        retry_after=retry_after,
        violations=[FieldViolation(v.field, v.description) for v in fields.field_violations],
    )


def from_outcome(status: status_pb2.Status) -> FlashbulbError:
    """Why a request has no pictures: a RequestEnded, or InvalidInput where the input itself turned out bad (a link to no picture)."""
    error = from_status(status)
    if isinstance(error, RequestEnded | InvalidInput):
        return error
    return RequestFailed(
        error.message, code=error.code, reason=error.reason, metadata=error.metadata, violations=error.violations
    )
