"""The life of a request as a state machine. Pure: no clock, no store; times are unix seconds and come as arguments.

1. A record changes only through the functions here, and only along TRANSITIONS.
2. A terminal state never changes. Beside it, the delivery of the webhook goes on.
3. `attempt` fences workers: only the worker that started the latest attempt may finish it.
4. Sequences of events grow within a request: those of attempt k lie in [k * 2^20, (k + 1) * 2^20), the terminal one is the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from flashbulb_server.core.generation import GenerationResult, GenerationSpec
from flashbulb_server.core.webhooks import DeliveryState, Webhook
from flashbulb_server.errors import FlashbulbError

MAX_LOG_LINES = 100
_SEQUENCES_PER_ATTEMPT = 1 << 20


class State(StrEnum):
    """States of a request."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def terminal(self) -> bool:
        """Whether it never changes again."""
        return self not in (State.QUEUED, State.RUNNING)


class Change(StrEnum):
    """What can happen to a request."""

    START = "START"
    SUCCEED = "SUCCEED"
    FAIL = "FAIL"
    CANCEL = "CANCEL"
    EXPIRE = "EXPIRE"
    DELIVER = "DELIVER"


TRANSITIONS: Mapping[tuple[State, Change], State] = {
    (State.QUEUED, Change.START): State.RUNNING,
    (State.QUEUED, Change.FAIL): State.FAILED,
    (State.QUEUED, Change.CANCEL): State.CANCELLED,
    (State.QUEUED, Change.EXPIRE): State.EXPIRED,
    (State.RUNNING, Change.START): State.RUNNING,  # redelivered after a worker was lost
    (State.RUNNING, Change.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Change.FAIL): State.FAILED,
    (State.RUNNING, Change.CANCEL): State.CANCELLED,
    (State.SUCCEEDED, Change.DELIVER): State.SUCCEEDED,
    (State.FAILED, Change.DELIVER): State.FAILED,
    (State.CANCELLED, Change.DELIVER): State.CANCELLED,
    (State.EXPIRED, Change.DELIVER): State.EXPIRED,
}


class Priority(StrEnum):
    """Order in which requests are started."""

    NORMAL = "normal"
    LOW = "low"


class LogLevel(StrEnum):
    """How serious a log line is."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a request's log; `time` in unix seconds."""

    time: float
    level: LogLevel
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no pictures. `reason` names a flashbulb.v1.ErrorReason."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: FlashbulbError) -> Failure:
        """The failure that an error describes."""
        return cls(error.reason, error.message, error.metadata)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it is stored. Times in unix seconds, 0 = not yet. Exactly one of `result`, `failure` is set in a terminal state."""

    request_id: str
    owner: str
    spec: GenerationSpec
    state: State
    priority: Priority
    create_time: float
    start_deadline: float
    runner_hint: str = ""
    start_time: float = 0.0
    end_time: float = 0.0
    expire_time: float = 0.0
    attempt: int = 0
    worker_id: str = ""
    sequence: int = 1
    steps_done: int = 0
    total_steps: int = 0
    logs: tuple[LogLine, ...] = ()
    result: GenerationResult | None = None
    failure: Failure | None = None
    webhook: Webhook | None = None
    no_retry: bool = False
    keep: float = 0.0  # seconds that the outcome is kept at most; 0 for as long as the server does

    @property
    def owes_webhook(self) -> bool:
        """Whether it has ended and its webhook is still to be delivered."""
        return self.state.terminal and self.webhook is not None and self.webhook.state is DeliveryState.PENDING


class IllegalChange(Exception):
    """The change is not legal in the request's state, or comes from a worker that lost its lease."""

    def __init__(self, request: Request, change: Change) -> None:
        super().__init__(f"{change} in state {request.state} (attempt {request.attempt})")
        self.request = request
        self.change = change


def start(request: Request, *, worker_id: str, now: float) -> Request:
    """A worker starts the next attempt."""
    attempt = request.attempt + 1
    return replace(
        request,
        state=_next(request, Change.START),
        worker_id=worker_id,
        attempt=attempt,
        start_time=now,
        sequence=attempt * _SEQUENCES_PER_ATTEMPT,
        total_steps=request.spec.steps,
    )


def succeed(
    request: Request, result: GenerationResult, *, attempt: int, now: float, keep: float, logs: tuple[LogLine, ...] = ()
) -> Request:
    """The worker of `attempt` has stored the pictures. `keep` is how many seconds the request is remembered."""
    _fence(request, attempt, Change.SUCCEED)
    ended = _end(request, Change.SUCCEED, now, keep, logs)
    return replace(ended, result=result, steps_done=request.total_steps)


def fail(
    request: Request,
    failure: Failure,
    *,
    now: float,
    keep: float,
    attempt: int | None = None,
    logs: tuple[LogLine, ...] = (),
) -> Request:
    """It failed. `attempt` None: no worker is left to tell."""
    if attempt is not None:
        _fence(request, attempt, Change.FAIL)
    return replace(_end(request, Change.FAIL, now, keep, logs), failure=failure)


def cancel(
    request: Request, failure: Failure, *, now: float, keep: float, steps_done: int = 0, logs: tuple[LogLine, ...] = ()
) -> Request:
    """It was cancelled after `steps_done` steps."""
    return replace(_end(request, Change.CANCEL, now, keep, logs), failure=failure, steps_done=steps_done)


def expire(request: Request, failure: Failure, *, now: float, keep: float) -> Request:
    """It was not started in time."""
    return replace(_end(request, Change.EXPIRE, now, keep, ()), failure=failure)


def deliver(request: Request, change: Callable[[Webhook], Webhook]) -> Request:
    """The delivery of its webhook went on, or begins anew."""
    if request.webhook is None:
        raise IllegalChange(request, Change.DELIVER)
    return replace(request, state=_next(request, Change.DELIVER), webhook=change(request.webhook))


def overdue(request: Request, now: float) -> bool:
    """Whether it waited longer than it may."""
    return request.state is State.QUEUED and now >= request.start_deadline


def step_sequence(attempt: int, count: int) -> int:
    """Sequence of the event number `count` (from 1) of an attempt."""
    return attempt * _SEQUENCES_PER_ATTEMPT + min(count, _SEQUENCES_PER_ATTEMPT - 2)


def _next(request: Request, change: Change) -> State:
    target = TRANSITIONS.get((request.state, change))
    if target is None:
        raise IllegalChange(request, change)
    return target


def _fence(request: Request, attempt: int, change: Change) -> None:
    if request.attempt != attempt:
        raise IllegalChange(request, change)


def _end(request: Request, change: Change, now: float, keep: float, logs: tuple[LogLine, ...]) -> Request:
    if request.keep and request.webhook is None:  # a webhook is made of the record, for as long as it is tried
        keep = min(keep, request.keep)
    return replace(
        request,
        state=_next(request, change),
        end_time=now,
        expire_time=now + keep,
        sequence=(request.attempt + 1) * _SEQUENCES_PER_ATTEMPT - 1,
        logs=logs[-MAX_LOG_LINES:],
    )
