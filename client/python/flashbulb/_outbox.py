"""The frames of a session that are not answered yet, and what a server must still be told. No I/O, no clock of its own.

1. A frame is sent as its difference to what the server has. After a new connection, or when a frame was refused, everything is sent,
   also of the frames that were sent before that was known.
2. `newest`: one frame waits, and a newer one takes its place. Otherwise all wait, up to a limit, and one more is refused.
3. A frame's number on the wire is new each time it is sent, for a server may refuse one that it knows; callers see their own.
4. At most `limit` frames are unanswered on the wire, so that a server which answers nothing costs no memory.
5. What a refused frame changed is taken back to the values that were last drawn, unless it was changed again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from flashbulb._errors import FlashbulbError
from flashbulb.v1 import input_pb2, realtime_pb2

WINDOW = 16
"""Frames that may be unanswered on the wire where only the newest counts."""

Values = Mapping[str, object]
"""Fields of an input by name, as protobuf has them."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame: the caller's number, all values of it, and when it was handed over (the caller's clock)."""

    frame_id: int
    values: Values
    time: float


def values_of(message: Message) -> dict[str, object]:
    """The fields of a message that are set."""
    return {field.name: value for field, value in message.ListFields()}


def input_of(member: str, values: Values) -> input_pb2.GenerationInput:
    """The input with these fields; `member` names its endpoint."""
    whole = input_pb2.GenerationInput()
    message: Message = getattr(whole, member)
    message.SetInParent()
    for name, value in values.items():
        field = cast("FieldDescriptor", message.DESCRIPTOR.fields_by_name[name])
        if field.is_repeated:
            getattr(message, name).extend(value)
        elif isinstance(value, Message):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return whole


class Outbox:
    """The unanswered frames of one session. `throttle` is the least span between two sends, in seconds."""

    def __init__(self, member: str, values: Values, *, newest: bool, limit: int, throttle: float) -> None:
        self._member = member
        self._newest = newest
        self._limit = WINDOW if newest else limit
        self._throttle = throttle
        self._wanted = dict(values)
        self._drawn = dict(values)
        self._known: Values = dict(values)  # to the server
        self._waiting: deque[Sent] = deque()
        self._flying: dict[int, Sent] = {}
        self._number = 0
        self._not_before = float("-inf")

    @property
    def values(self) -> Values:
        """The values of the next frame."""
        return self._wanted

    @property
    def unanswered(self) -> int:
        """Frames that wait here or were sent and not answered."""
        return len(self._waiting) + len(self._flying)

    def put(self, frame_id: int, changes: Values, now: float) -> list[int]:
        """Adds a frame. Answers with the frames that will not be sent for it; its own, if there is no room."""
        self._wanted |= changes
        frame = Sent(frame_id, dict(self._wanted), now)
        if self._newest:
            replaced = [waiting.frame_id for waiting in self._waiting]
            self._waiting.clear()
        elif self.unanswered >= self._limit:
            return [frame_id]
        else:
            replaced = []
        self._waiting.append(frame)
        return replaced

    def delay(self, now: float) -> float | None:
        """Seconds until a frame is to be sent; None: not before something changes."""
        if not self._waiting or len(self._flying) >= self._limit:
            return None
        return max(0.0, self._not_before - now)

    def take(self, now: float) -> realtime_pb2.InputFrame:
        """The next frame to send. Only when `delay` is 0."""
        frame = self._waiting.popleft()
        changed = {name: value for name, value in frame.values.items() if self._known.get(name) != value}
        self._number += 1
        self._flying[self._number] = frame
        self._known = frame.values
        self._not_before = now + self._throttle
        return realtime_pb2.InputFrame(frame_id=self._number, changes=input_of(self._member, changed))

    def adopt(self, values: Values) -> None:
        """Values that the server chose where there were none: they hold from now on, also at another server."""
        self._wanted = {**values, **self._wanted}
        self._drawn = {**values, **self._drawn}
        self._known = {**values, **self._known}

    def drawn(self, number: int) -> tuple[Sent | None, list[int]]:
        """The frame that a picture answers, None if none is known; and older ones, of which nothing more will be heard."""
        frame = self._flying.pop(number, None)
        if frame is None:
            return None, []
        self._drawn = dict(frame.values)
        silent = [other for other in self._flying if other < number]
        if silent:
            self._known = {}  # one may have been refused
        return frame, [self._flying.pop(other).frame_id for other in silent]

    def dropped(
        self, number: int, *, known: bool, error: FlashbulbError | None = None
    ) -> tuple[Sent | None, list[int]]:
        """The frame that was not drawn, None if none is known; and later ones that count no more. `known`: the server kept its changes.

        If it did not, frames that were sent as differences to it are sent again. With an error, the bad changes are taken back.
        """
        frame = self._flying.pop(number, None)
        if frame is None:
            return None, []
        old = [] if known else self._recall(number)
        if error is not None:
            self._take_back(frame, error)
        return frame, old

    def reopen(self) -> list[int]:
        """The connection is a new one: what was not answered is to be sent again. Answers with the frames that are not, being old."""
        self._not_before = float("-inf")
        return self._recall(0)

    def _recall(self, after: int) -> list[int]:
        later = [number for number in self._flying if number > after]
        frames = [*(self._flying.pop(number) for number in later), *self._waiting]
        self._known = {}
        keep = frames[-1:] if self._newest else frames
        self._waiting = deque(keep)
        return [frame.frame_id for frame in frames[: len(frames) - len(keep)]]

    def _take_back(self, frame: Sent, error: FlashbulbError) -> None:
        changed = {name for name, value in frame.values.items() if self._drawn.get(name) != value}
        named = {part for violation in error.violations for part in re.split(r"[.\[]", violation.field)}
        bad = changed & named or changed
        self._wanted = self._without(self._wanted, frame, bad)
        self._waiting = deque(Sent(w.frame_id, self._without(w.values, frame, bad), w.time) for w in self._waiting)

    def _without(self, values: Values, frame: Sent, bad: Iterable[str]) -> dict[str, object]:
        mended = dict(values)
        for name in bad:
            if mended.get(name) == frame.values[name]:
                mended.pop(name)
                if name in self._drawn:
                    mended[name] = self._drawn[name]
        return mended
