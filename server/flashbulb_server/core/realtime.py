"""A realtime session without any transport: which frame is drawn next, which are dropped, and when. Pure; `now` is monotonic seconds.

1. A frame is numbered by the caller; numbers grow. It holds only what changed: the session keeps the values.
2. NEWEST keeps one frame waiting; a newer one takes its place. ALL keeps up to `max_waiting` and refuses more.
3. A frame in hand that is obsolete is worth stopping, unless frames come faster than pictures can be drawn: then each would be stopped in
   its turn and nothing would ever be shown.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from flashbulb_server.core.generation import GenerationSpec, SourceImage

_GAP_SHARE = 0.3
"""Share of the newest gap between frames in their mean: the last three count for two thirds."""
_HASTY_FRAMES = 3
"""So many gaps in a row make a pace; before that, a newer frame stops the one in hand."""
_MAX_AHEAD = 4
"""Pictures on the way to a caller that acknowledges what it shows."""


class FramePolicy(StrEnum):
    """What happens to frames that come faster than they are drawn."""

    NEWEST = "newest"
    ALL = "all"


class DropReason(StrEnum):
    """Why a frame is not drawn."""

    SUPERSEDED = "SUPERSEDED"
    OVERFLOW = "OVERFLOW"
    INVALID = "INVALID"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the sessions of a server. `no_worker_seconds`: a session waits so long for a worker before it is closed."""

    per_key: int
    idle_seconds: float
    heartbeat_seconds: float = 15.0
    no_worker_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Frame:
    """A valid input: its number, what to draw, and when it came."""

    frame_id: int
    spec: GenerationSpec
    arrived: float


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

    @property
    def hasty(self) -> bool:
        """Whether frames come faster than pictures can be drawn, or may do so while no picture has been drawn yet."""
        return self.gaps >= _HASTY_FRAMES and (not self.drawing or self.gap < self.drawing)


class Session:
    """The state of one session. `max_fps`: most pictures a second, None for any."""

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        policy: FramePolicy = FramePolicy.NEWEST,
        max_waiting: int = 16,
        max_fps: float | None = None,
    ) -> None:
        self.values = dict(values)
        self.policy = policy
        self.last_frame_id = 0
        self.in_hand: Frame | None = None
        self._max_waiting = max_waiting
        self._interval = 1 / max_fps if max_fps else 0.0
        self._waiting: deque[Frame] = deque()
        self._pace = Pace()
        self._last_arrival: float | None = None
        self._taken = 0.0
        self._next_start = 0.0
        self._superseded = 0
        self._sent = 0
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
        dropped: list[tuple[int, DropReason]] = []
        if self.policy is FramePolicy.NEWEST:
            dropped = [(frame.frame_id, DropReason.SUPERSEDED) for frame in self._waiting]
            self._superseded += len(dropped)
            self._waiting.clear()
        self._waiting.append(Frame(frame_id, spec, now))
        return dropped

    def stops_frame_in_hand(self) -> bool:
        """Whether what is being drawn should stop for what waits."""
        return (
            self.policy is FramePolicy.NEWEST
            and self.in_hand is not None
            and bool(self._waiting)
            and not self._pace.hasty
        )

    def take(self, now: float) -> Frame | None:
        """The frame to draw now, if there is one and its time has come."""
        if not self._waiting or self.in_hand is not None or self.ready_in(now) != 0:
            return None
        self.in_hand = self._waiting.popleft()
        self._taken = now
        late = now - self._next_start
        # A start that is a little late does not delay those after it; after a pause the spans begin anew.
        self._next_start = (self._next_start if late < self._interval / 2 else now) + self._interval
        return self.in_hand

    def ready_in(self, now: float) -> float | None:
        """Seconds until the next frame may be taken; None until a frame or an acknowledgement comes."""
        if not self._waiting or (self._acked is not None and self._on_the_way() >= _MAX_AHEAD):
            return None
        return max(0.0, self._next_start - now) if self._interval else 0.0

    def put_back(self) -> list[tuple[int, DropReason]]:
        """The frame in hand could not be drawn through no fault of its own: it is next again, or is dropped if a newer one waits."""
        frame, self.in_hand = self.in_hand, None
        if frame is None:
            return []
        if self.policy is FramePolicy.NEWEST and self._waiting:
            self._superseded += 1
            return [(frame.frame_id, DropReason.SUPERSEDED)]
        self._waiting.appendleft(frame)
        return []

    def stopped(self) -> None:
        """The frame in hand was stopped for a newer one."""
        self.in_hand = None
        self._superseded += 1

    def failed(self) -> None:
        """The frame in hand could not be drawn."""
        self.in_hand = None

    def drawn(self, now: float) -> int:
        """The frame in hand is ready to be sent. Gives the frames that were superseded since the last picture."""
        assert self.in_hand is not None
        self._pace.drawn(now - self._taken)
        self._sent += 1
        self._sent_ids.append(self.in_hand.frame_id)
        self.in_hand = None
        superseded, self._superseded = self._superseded, 0
        return superseded

    @property
    def inline_bytes(self) -> int:
        """Size of the pictures among the values."""
        return sum(len(value.content) for value in self.values.values() if isinstance(value, SourceImage))

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in hand."""
        return self.in_hand is None and not self._waiting

    def stalled(self, now: float) -> bool:
        """Whether nothing more is drawn until the caller says something."""
        return self.in_hand is None and self.ready_in(now) is None

    def ack(self, frame_id: int) -> None:
        """The caller has shown a frame; from the first acknowledgement on, it sets the pace."""
        self._acked = max(self._acked or 0, frame_id)

    def successor(self) -> Session:
        """The session as another connection goes on with it: what waits or is in hand here waits there."""
        other = copy.copy(self)
        other._waiting, other._sent_ids, other._pace = deque(self._waiting), deque(maxlen=64), Pace()
        other._acked = other._last_arrival = None
        other.put_back()
        return other

    def forget_acks(self) -> None:
        """The caller has closed its side: it will acknowledge nothing more."""
        self._acked = None
        self._sent_ids.clear()

    def _on_the_way(self) -> int:
        return sum(frame_id > (self._acked or 0) for frame_id in self._sent_ids)
