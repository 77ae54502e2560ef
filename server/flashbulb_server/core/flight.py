"""The frames of a session that are being drawn, and the order in which they are answered. Pure.

They are answered in the order of their numbers: one that ends early waits for those before it.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.errors import FlashbulbError

T = TypeVar("T")


class DropReason(StrEnum):
    """Why a frame is not drawn."""

    SUPERSEDED = "SUPERSEDED"
    OVERFLOW = "OVERFLOW"
    INVALID = "INVALID"
    FAILED = "FAILED"
    SIMILAR = "SIMILAR"


@dataclass(frozen=True, slots=True)
class Frame:
    """A valid input: its number, what to draw, and when it came."""

    frame_id: int
    spec: GenerationSpec
    arrived: float


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How a frame ended: with its picture, or with the reason why there is none, after `step` steps."""

    picture: T | None = None
    reason: DropReason | None = None
    step: int = 0
    error: FlashbulbError | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the caller is told of a frame now. `superseded`, of a picture: frames that newer ones replaced since the last picture."""

    frame: Frame
    outcome: Outcome[T]
    superseded: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a drawn picture came from: a spec without its picture, and that picture's thumbnail. Known by identity."""

    spec: GenerationSpec
    thumbnail: bytes


@dataclass(slots=True, eq=False)
class Seat(Generic[T]):
    """A frame in hand. `look`: once its picture was looked at; `like`: the look that it was compared with."""

    frame: Frame
    taken: float
    outcome: Outcome[T] | None = None
    look: Look | None = None
    like: Look | None = None

    @property
    def shows(self) -> bool:
        """Whether a picture comes of it, as far as is known."""
        return self.outcome is None or self.outcome.picture is not None


class Flight(Generic[T]):
    """Frames in hand, at most as many as whoever adds them allows."""

    def __init__(self) -> None:
        self._seats: list[Seat[T]] = []

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """In the order of their numbers."""
        return tuple(seat.frame for seat in self._seats)

    @property
    def drawing(self) -> list[Seat[T]]:
        """Those that have not ended."""
        return [seat for seat in self._seats if seat.outcome is None]

    @property
    def showing(self) -> list[Seat[T]]:
        """Those that show a picture, now or later."""
        return [seat for seat in self._seats if seat.shows]

    def add(self, frame: Frame, now: float) -> None:
        """Takes a frame in hand."""
        insort(self._seats, Seat(frame, now), key=lambda seat: seat.frame.frame_id)

    def of(self, frame: Frame) -> Seat[T]:
        """The seat of a frame in hand."""
        return next(seat for seat in self._seats if seat.frame is frame)

    def remove(self, frame: Frame) -> None:
        """Forgets a frame in hand."""
        self._seats.remove(self.of(frame))

    def before(self, seat: Seat[T]) -> Seat[T] | None:
        """The last one before a seat that shows a picture."""
        earlier = [other for other in self.showing if other.frame.frame_id < seat.frame.frame_id]
        return earlier[-1] if earlier else None

    def newer(self, frame: Frame) -> bool:
        """Whether something newer than a frame is drawn, or looks like what is."""
        similar = DropReason.SIMILAR
        return any(
            seat.shows or (seat.outcome is not None and seat.outcome.reason is similar)
            for seat in self._seats
            if seat.frame.frame_id > frame.frame_id
        )

    def pop_ended(self, before: int | None) -> Seat[T] | None:
        """The first one, if it has ended and its number is smaller than `before`."""
        if not self._seats or self._seats[0].outcome is None:
            return None
        if before is not None and self._seats[0].frame.frame_id > before:
            return None
        return self._seats.pop(0)
