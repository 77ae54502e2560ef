"""What is said in a realtime session, both ways, before any transport."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.core.fields import Kind
from flashbulb_server.core.flight import DropReason
from flashbulb_server.core.generation import GenerationSpec, PreviewImage
from flashbulb_server.core.realtime import FramePolicy
from flashbulb_server.errors import FieldViolation, FlashbulbError

MAX_IN_FLIGHT = 4


def option_problems(endpoint: str, in_flight: int, threshold: float | None) -> list[FieldViolation]:
    """What is wrong with a session's options, whatever transport they came by."""
    problems: list[FieldViolation] = []
    if not 1 <= in_flight <= MAX_IN_FLIGHT:
        problems.append(FieldViolation("max_frames_in_flight", f"must be from 1 to {MAX_IN_FLIGHT}"))
    if threshold is None:
        return problems
    if not 0 <= threshold <= 1:
        problems.append(FieldViolation("similar_image_threshold", "must be from 0 to 1"))
    elif all(field.kind is not Kind.SOURCE for field in ENDPOINTS[endpoint].fields):
        problems.append(FieldViolation("similar_image_threshold", f"{endpoint} takes no picture to compare"))
    return problems


class CloseReason(StrEnum):
    """Why a session ends."""

    CLIENT = "CLIENT"
    IDLE = "IDLE"
    DRAINING = "DRAINING"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    NO_WORKER = "NO_WORKER"


@dataclass(frozen=True, slots=True)
class Opening:
    """How a caller wants its session. `problems`: what is wrong with it apart from the values.

    `resumable`: whether the caller can come back to it once it breaks off.
    """

    endpoint: str
    values: dict[str, object]
    max_fps: float | None = None
    policy: FramePolicy = FramePolicy.NEWEST
    max_waiting: int = 16
    previews: bool = False
    resume_token: str = ""
    resumable: bool = True
    problems: tuple[FieldViolation, ...] = ()
    max_in_flight: int = 1
    similar_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class InputFrame:
    """What a caller changed. `endpoint` None: nothing but the number. `problem`: why the changes cannot be read."""

    frame_id: int
    endpoint: str | None
    changes: dict[str, object]
    problem: FlashbulbError | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The newest frame that was shown."""

    frame_id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a pong."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is open. `defaults` None: something required comes with the frames."""

    session_id: str
    resume_token: str
    defaults: GenerationSpec | None
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture. `age`: seconds from the frame's arrival to now; `superseded`: frames dropped since the last picture."""

    frame_id: int
    output: GenerationOutput
    age: float
    superseded: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that is not drawn, after `step` steps."""

    frame_id: int
    reason: DropReason
    step: int = 0
    error: FlashbulbError | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a ping; 0 is a heartbeat."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The session ends. `retry_after` None: no use in trying."""

    reason: CloseReason
    message: str
    retry_after: float | None = None


Incoming = InputFrame | Ack | Ping
Outgoing = Opened | Picture | Dropped | PreviewImage | Pong | Closed
