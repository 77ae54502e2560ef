"""Every error a caller can meet. Knows no status codes: each transport has its own table.

    FlashbulbError
    ├── InvalidRequest            mend the named fields
    ├── BadImage                  give another picture
    ├── Unauthenticated           give a key
    │   ├── KeyMissing
    │   ├── KeyUnknown
    │   └── TokenInvalid
    ├── Forbidden                 give another key
    │   └── TokenForbids
    ├── NotFound                  nothing to wait for
    │   ├── RequestNotFound
    │   └── FileNotFound
    ├── Precondition              do something else first
    │   ├── RequestNotFinished
    │   ├── IdempotencyKeyReused
    │   ├── NoWebhook
    │   ├── EndpointUnavailable
    │   └── SafetyCheckerUnavailable
    ├── Busy                      wait, then try again
    │   ├── QueueFull
    │   ├── WorkersBusy
    │   ├── TooManySessions
    │   └── TooManyCalls
    ├── Unavailable               try again
    │   ├── NoWorker
    │   ├── StoreUnavailable
    │   ├── NewerRelease
    │   └── Draining
    ├── RequestEnded              the request has no pictures
    │   ├── RequestCancelled
    │   └── StartTimeout
    └── ServerFault               tell the operator
        ├── EngineFailed
        ├── WorkerLost
        └── DataUnreadable

`reason` is the name of a `flashbulb.v1.ErrorReason` without its prefix; `metadata` holds every variable part of the message (AIP-193).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field. `field` is its path in the input, such as `image_size.width` or `loras[1].scale`.

    `type` names the kind of mistake as pydantic and fal do; `limits` are the numbers or names that were to be kept to, such as `{"ge": 1}`.
    They say in parts what `description` says in words, and are no part of what makes two violations equal.
    """

    field: str
    description: str
    type: str = dataclasses.field(default="value_error", compare=False)
    limits: Mapping[str, object] = dataclasses.field(default_factory=dict, compare=False)


class FlashbulbError(Exception):
    """Base of all errors with a reason. `retry_after` is the seconds to wait before trying again, if that can help."""

    reason: ClassVar[str]

    def __init__(
        self, message: str, *, metadata: Mapping[str, str] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class InvalidRequest(FlashbulbError):
    """Fields are bad; `violations` names each."""

    reason = "INVALID_INPUT"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class BadImage(FlashbulbError):
    """A picture that was given cannot be had (`type` is then file_download_error) or read. `field` is its path in the input."""

    reason = "BAD_IMAGE"

    def __init__(self, field: str, problem: str, type: str = "image_load_error") -> None:
        super().__init__(f"{field}: {problem}", metadata={"field": field, "problem": problem, "type": type})


class Unauthenticated(FlashbulbError):
    """The caller is not known."""


class KeyMissing(Unauthenticated):
    """No key was given, or it has the wrong form."""

    reason = "KEY_MISSING"

    def __init__(self) -> None:
        super().__init__("a key is required: metadata `authorization: Key <id>:<secret>`")


class KeyUnknown(Unauthenticated):
    """The key is not known. Says nothing of whether the id or the secret is wrong."""

    reason = "KEY_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("the key is not known")


class TokenInvalid(Unauthenticated):
    """The token is forged, broken or expired."""

    reason = "TOKEN_INVALID"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the token is not valid: {problem}", metadata={"problem": problem})


class Forbidden(FlashbulbError):
    """The caller is known, but may not do this."""


class TokenForbids(Forbidden):
    """The token is not good for this."""

    reason = "TOKEN_FORBIDS"

    def __init__(self, wanted: str, allowed: Sequence[str]) -> None:
        names = ", ".join(sorted(allowed)) or "nothing"
        super().__init__(
            f"the token is good for {names}, not for {wanted}", metadata={"wanted": wanted, "allowed": names}
        )


class NotFound(FlashbulbError):
    """What was named does not exist, or belongs to another key."""


class RequestNotFound(NotFound):
    """No such request."""

    reason = "REQUEST_NOT_FOUND"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"no request {request_id!r}", metadata={"request_id": request_id})


class FileNotFound(NotFound):
    """No such file."""

    reason = "FILE_NOT_FOUND"

    def __init__(self, uri: str) -> None:
        super().__init__(f"no file {uri!r}", metadata={"uri": uri})


class Precondition(FlashbulbError):
    """The call is well formed but cannot be served as things stand."""


class RequestNotFinished(Precondition):
    """The result was asked for before the terminal state."""

    reason = "REQUEST_NOT_FINISHED"

    def __init__(self, request_id: str, state: str) -> None:
        super().__init__(
            f"request {request_id!r} is {state}; wait for its terminal state",
            metadata={"request_id": request_id, "state": state},
        )


class IdempotencyKeyReused(Precondition):
    """The idempotency key was used with another input."""

    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"the idempotency key belongs to request {request_id!r}, which has another input",
            metadata={"request_id": request_id},
        )


class NoWebhook(Precondition):
    """The request was submitted without a webhook."""

    reason = "NO_WEBHOOK"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id!r} has no webhook", metadata={"request_id": request_id})


class EndpointUnavailable(Precondition):
    """No installed model runs the endpoint."""

    reason = "ENDPOINT_UNAVAILABLE"

    def __init__(self, endpoint: str, available: Sequence[str]) -> None:
        names = ", ".join(sorted(available)) or "none"
        super().__init__(
            f"no installed model runs endpoint {endpoint!r}; available: {names}",
            metadata={"endpoint": endpoint, "available": names},
        )


class SafetyCheckerUnavailable(Precondition):
    """The model needs a safety checker that is not installed. `version` empty: any would do."""

    reason = "SAFETY_CHECKER_UNAVAILABLE"

    def __init__(self, version: str, installed: Sequence[str]) -> None:
        names, wanted = ", ".join(installed) or "none", f"safety checker {version!r}" if version else "a safety checker"
        super().__init__(
            f"{wanted} is not installed (installed: {names}); set enable_safety_checker to false to draw without one",
            metadata={"version": version, "installed": names},
        )


class Busy(FlashbulbError):
    """There is no room now."""


class QueueFull(Busy):
    """The queue holds as many requests as it may."""

    reason = "QUEUE_FULL"

    def __init__(self, limit: int, retry_after: float = 5.0) -> None:
        super().__init__(
            f"the queue is full ({limit} requests)", metadata={"limit": str(limit)}, retry_after=retry_after
        )


class WorkersBusy(Busy):
    """Workers are full, or the caller's deadline cannot be met."""

    reason = "WORKERS_BUSY"

    def __init__(self, message: str = "all workers are busy", *, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class TooManySessions(Busy):
    """The key has as many realtime sessions as it may."""

    reason = "TOO_MANY_SESSIONS"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the key has {limit} sessions already", metadata={"limit": str(limit)}, retry_after=5.0)


class TooManyCalls(Busy):
    """The server serves as many calls as it may."""

    reason = "TOO_MANY_CALLS"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the server serves {limit} calls already", metadata={"limit": str(limit)}, retry_after=1.0)


class Unavailable(FlashbulbError):
    """A part of the service does not answer."""


class NoWorker(Unavailable):
    """No worker answers."""

    reason = "NO_WORKER"

    def __init__(self, message: str = "no worker answers", *, retry_after: float | None = 2.0) -> None:
        super().__init__(message, retry_after=retry_after)


class StoreUnavailable(Unavailable):
    """The queue or the file store does not answer. `store` is `queue` or `files`."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self, store: str, *, retry_after: float = 1.0) -> None:
        super().__init__(f"the store of {store} does not answer", metadata={"store": store}, retry_after=retry_after)


class NewerRelease(Unavailable):
    """A newer release of the server wrote it, in words that this one does not know; another process may be of that release."""

    reason = "NEWER_RELEASE"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is of a newer release of the server", metadata={"what": what}, retry_after=5.0)


class Draining(Unavailable):
    """The server shuts down; another one may answer."""

    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("the server shuts down", retry_after=1.0)


class RequestEnded(FlashbulbError):
    """The request ended without pictures, and not by a fault."""


class RequestCancelled(RequestEnded):
    """The request was cancelled at `step` of `total_steps`."""

    reason = "REQUEST_CANCELLED"

    def __init__(self, step: int = 0, total_steps: int = 0) -> None:
        super().__init__(
            f"cancelled at step {step} of {total_steps}",
            metadata={"step": str(step), "total_steps": str(total_steps)},
        )
        self.step = step
        self.total_steps = total_steps


class StartTimeout(RequestEnded):
    """The request was not started in time."""

    reason = "START_TIMEOUT"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not started within {seconds:g} s", metadata={"start_timeout": f"{seconds:g}"})


class ServerFault(FlashbulbError):
    """A fault of the server."""


class EngineFailed(ServerFault):
    """Drawing failed."""

    reason = "ENGINE_FAILED"

    def __init__(self, message: str = "drawing failed") -> None:
        super().__init__(message)


class WorkerLost(ServerFault):
    """Every worker that started the request was lost."""

    reason = "WORKER_LOST"

    def __init__(self, attempts: int) -> None:
        super().__init__(f"{attempts} workers were lost while drawing it", metadata={"attempts": str(attempts)})


class DataUnreadable(ServerFault):
    """What is stored, or was sent by another part of the server, is damaged."""

    reason = "DATA_UNREADABLE"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} cannot be read", metadata={"what": what})


class Misconfigured(Exception):
    """The operator must mend the settings; no caller ever meets this. Each of `problems` is a line that names the variable to mend."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        super().__init__("; ".join(self.problems))
