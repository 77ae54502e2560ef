"""A realtime session without any transport: which frame is drawn next, which are dropped, and when. Pure; `now` is monotonic seconds.

1. A frame is numbered by the caller; numbers grow. It holds only what changed: the session keeps the values.
2. NEWEST keeps one frame waiting; a newer one takes its place. RECENT keeps up to `max_waiting`, and the oldest makes room for one more.
   ALL keeps up to `max_waiting` and refuses more.
3. A frame in hand that is obsolete is worth stopping, unless frames come faster than pictures can be drawn: then each would be stopped in
   its turn and nothing would ever be shown.
4. Several frames may be in hand at once. They start one share of a picture's time after another, so that they stand at different steps
   and pictures come one by one, and are answered in the order of core.flight.
"""

from __future__ import annotations

import copy
from bisect import insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic

from flashbulb_server.core.flight import Answer, DropReason, Flight, Frame, Outcome, Seat, T
from flashbulb_server.core.generation import GenerationSpec, SourceImage
from flashbulb_server.core.similarity import Comparison, Similarity

_GAP_SHARE = 0.3
"""Share of the newest gap between frames in their mean: the last three count for two thirds."""
_HASTY_FRAMES = 3
"""So many gaps in a row make a pace; before that, a newer frame stops the one in hand."""
_MAX_HELD = 16
"""Frames that ended without a picture and wait to be answered, beyond those that are drawn at once."""
_MAX_AHEAD = 4
"""Pictures on the way to a caller that acknowledges what it shows; what more may be drawn at once comes on top."""


class FramePolicy(StrEnum):
    """What happens to frames that come faster than they are drawn."""

    NEWEST = "newest"
    RECENT = "recent"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the sessions of a server. `no_worker_seconds`: a session waits so long for a worker before it is closed."""

    per_key: int
    idle_seconds: float
    heartbeat_seconds: float = 15.0
    no_worker_seconds: float = 60.0


@dataclass(slots=True, eq=False)
class Pace:
    """Mean spans in seconds, 0 before any: between frames that come, and of drawing one."""

    gap: float = 0.0
    gaps: int = 0
    drawing: float = 0.0

    def frame_came(self, gap: float) -> None:
        """A frame came so long after the one before. A pause longer than drawing three pictures begins anew."""
        if self.drawing and gap > 3 * self.drawing:
            self.gap, self.gaps = 0.0, 0
            return
        self.gap = gap if not self.gaps else self.gap + _GAP_SHARE * (gap - self.gap)
        self.gaps += 1

    def drawn(self, seconds: float) -> None:
        """A picture took so long."""
        self.drawing = seconds if not self.drawing else self.drawing + _GAP_SHARE * (seconds - self.drawing)

    def hasty(self, places: int) -> bool:
        """Whether frames come faster than pictures, of which `places` are drawn at once, or may do so while none has been drawn yet."""
        return self.gaps >= _HASTY_FRAMES and (not self.drawing or self.gap < self.drawing / places)


class Session(Generic[T]):
    """The state of one session. `max_fps`: most pictures a second, None for any. T is what a picture is to whoever draws.

    `max_in_flight`: frames drawn at once. `similar_threshold`: as in core.similarity; None: every frame is drawn.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        policy: FramePolicy = FramePolicy.NEWEST,
        max_waiting: int = 16,
        max_fps: float | None = None,
        max_in_flight: int = 1,
        similar_threshold: float | None = None,
    ) -> None:
        self.values = dict(values)
        self.policy = policy
        self.max_in_flight = max_in_flight
        self.last_frame_id = 0
        self._max_waiting = max_waiting
        self._interval = 1 / max_fps if max_fps else 0.0
        self._similar_threshold = similar_threshold
        self._next_start = 0.0
        self._superseded = 0
        self._waiting: deque[Frame] = deque()
        self._connect()

    def _connect(self) -> None:
        """What holds for one connection only."""
        self._flight: Flight[T] = Flight()
        self._pace = Pace()
        self._similarity = None if self._similar_threshold is None else Similarity(self._similar_threshold)
        self._last_arrival: float | None = None
        self._acked: int | None = None
        self._sent_ids: deque[int] = deque(maxlen=64)

    def merge(self, changes: Mapping[str, object]) -> dict[str, object]:
        """The values with changes over them; nothing is kept yet."""
        return {**self.values, **changes}

    def add(
        self, frame_id: int, values: Mapping[str, object], spec: GenerationSpec, now: float
    ) -> list[tuple[int, DropReason]]:
        """A frame came whose values are valid. Gives the frames that are dropped for it, or itself if there is no room."""
        if self._last_arrival is not None:
            self._pace.frame_came(now - self._last_arrival)
        self._last_arrival = now
        self.last_frame_id = frame_id
        if self.policy is FramePolicy.ALL and len(self._waiting) >= self._max_waiting:
            return [(frame_id, DropReason.OVERFLOW)]
        self.values = dict(values)
        kept = 0 if self.policy is FramePolicy.NEWEST else self._max_waiting - 1
        dropped: list[tuple[int, DropReason]] = []
        while len(self._waiting) > kept:
            dropped.append((self._waiting.popleft().frame_id, DropReason.SUPERSEDED))
        self._superseded += len(dropped)
        self._waiting.append(Frame(frame_id, spec, now))
        return dropped

    def to_stop(self) -> Frame | None:
        """The frame in hand that should stop for what waits: where no place is free, the newest, for which the least was done."""
        if self.policy is not FramePolicy.NEWEST or not self._waiting or self._has_room:
            return None
        drawing = self._flight.drawing
        return drawing[-1].frame if drawing and not self._pace.hasty(self._places) else None

    def take(self, now: float) -> Frame | None:
        """The frame to draw now, if there is one and its time has come."""
        if self.ready_in(now) != 0:
            return None
        frame = self._waiting.popleft()
        self._flight.add(frame, now)
        late = now - self._next_start
        # A start that is a little late does not delay those after it; after a pause the spans begin anew.
        self._next_start = (self._next_start if late < self._interval / 2 else now) + self._interval
        return frame

    def ready_in(self, now: float) -> float | None:
        """Seconds until the next frame may be taken; None until a frame or an acknowledgement comes, or a frame in hand has ended."""
        if not self._waiting or not self._has_room:
            return None
        showing = self._flight.showing
        if self._acked is not None and self._on_the_way() + len(showing) >= _MAX_AHEAD + self.max_in_flight - 1:
            return None
        wait = self._next_start - now if self._interval else 0.0
        if showing:
            wait = max(wait, showing[-1].taken + self._pace.drawing / self.max_in_flight - now)
        return max(0.0, wait)

    def comparison(self, frame: Frame) -> Comparison | None:
        """What the picture of a frame in hand is to be compared with before it is drawn, if that is wanted."""
        if self._similarity is None:
            return None
        seat = self._flight.of(frame)
        return self._similarity.comparison(seat, self._flight.before(seat))

    def seen(self, frame: Frame, thumbnail: bytes) -> None:
        """The picture of a frame in hand is not similar."""
        if self._similarity is not None:
            self._similarity.seen(self._flight.of(frame), thumbnail)

    def ended(self, frame: Frame, outcome: Outcome[T], now: float) -> list[Answer[T]]:
        """A frame in hand has ended. Gives what may be answered now, in order."""
        seat = self._flight.of(frame)
        seat.outcome = outcome
        if outcome.picture is not None:
            self._pace.drawn(now - seat.taken)
        elif outcome.reason is DropReason.SIMILAR and self._similarity is not None:
            self._similarity.skipped()
        return self._release()

    def put_back(self, frame: Frame, now: float) -> list[Answer[T]]:
        """A frame in hand could not be drawn through no fault of its own: it is next again, or is dropped if there is a newer one."""
        if self._obsolete(frame):
            return self.ended(frame, Outcome(reason=DropReason.SUPERSEDED), now)
        self._flight.remove(frame)
        self._wait_again(frame)
        return self._release()

    def _release(self) -> list[Answer[T]]:
        answers: list[Answer[T]] = []
        while (seat := self._flight.pop_ended(self._waiting[0].frame_id if self._waiting else None)) is not None:
            outcome = seat.outcome
            assert outcome is not None, "it has ended"
            similar = outcome.reason is DropReason.SIMILAR
            if similar and self._similarity is not None and not self._similarity.holds(seat):
                if not self._obsolete(seat.frame):
                    self._wait_again(seat.frame)
                    continue
                outcome = Outcome(reason=DropReason.SUPERSEDED)
            answers.append(Answer(seat.frame, outcome, self._count(seat, outcome)))
        return answers

    def _count(self, seat: Seat[T], outcome: Outcome[T]) -> int:
        """Notes an answer. Gives the frames that were superseded, for a picture."""
        self._superseded += outcome.reason is DropReason.SUPERSEDED
        if outcome.picture is None:
            return 0
        if self._similarity is not None:
            self._similarity.shown(seat)
        self._sent_ids.append(seat.frame.frame_id)
        superseded, self._superseded = self._superseded, 0
        return superseded

    def _obsolete(self, frame: Frame) -> bool:
        return self.policy is FramePolicy.NEWEST and (bool(self._waiting) or self._flight.newer(frame))

    def _wait_again(self, frame: Frame) -> None:
        insort(self._waiting, frame, key=lambda waiting: waiting.frame_id)

    @property
    def in_hand(self) -> tuple[Frame, ...]:
        """Frames that were taken and are not answered, in the order in which they will be."""
        return self._flight.frames

    @property
    def inline_bytes(self) -> int:
        """Size of the pictures that it holds: among the values, and in frames that wait or are in hand. Each counts once."""
        values = [item for value in self.values.values() for item in (value if isinstance(value, list) else (value,))]
        held = [value for value in values if isinstance(value, SourceImage)]
        held += [source for frame in (*self._waiting, *self.in_hand) for source in frame.spec.sources.values()]
        once = {id(source): source for source in held if source.inline}
        return sum(len(source.content) + len(source.uri) for source in once.values())

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in hand."""
        return not self._flight and not self._waiting

    def stalled(self, now: float) -> bool:
        """Whether nothing more is drawn until the caller says something."""
        return not self._flight.drawing and self.ready_in(now) is None

    def ack(self, frame_id: int) -> None:
        """The caller has shown a frame; from the first acknowledgement on, it sets the pace."""
        self._acked = max(self._acked or 0, frame_id)

    def successor(self) -> Session[T]:
        """The session as another connection goes on with it: what waits or is in hand here waits there."""
        other = copy.copy(self)
        frames = [*self.in_hand, *self._waiting]
        frames.sort(key=lambda frame: frame.frame_id)
        other._waiting = deque(frames[-1:] if self.policy is FramePolicy.NEWEST else frames)
        other._superseded += len(frames) - len(other._waiting)
        other._connect()
        return other

    def forget_acks(self) -> None:
        """The caller has closed its side: it will acknowledge nothing more."""
        self._acked = None
        self._sent_ids.clear()

    @property
    def _places(self) -> int:
        """Frames that may be in hand now: one until it is known how far apart they should start."""
        return self.max_in_flight if self._pace.drawing else 1

    @property
    def _has_room(self) -> bool:
        return len(self._flight.showing) < self._places and len(self._flight) < self.max_in_flight + _MAX_HELD

    def _on_the_way(self) -> int:
        return sum(frame_id > (self._acked or 0) for frame_id in self._sent_ids)
