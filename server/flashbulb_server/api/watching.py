"""Watching a request: from what is stored now, through what happens, to its terminal state.

Follows first, reads the record second, so that nothing falls between. Events may be lost (a slow reader, a restarted NATS); the
record is read again whenever it was quiet, so the terminal state is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from flashbulb_server.api.queueing import Queueing, RequestView
from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.ids import is_request_id
from flashbulb_server.core.requests import LogLine, State
from flashbulb_server.errors import Draining, RequestNotFound, StoreUnavailable
from flashbulb_server.messaging.events import EventBus, Follower
from flashbulb_server.wire.records import Event

HEARTBEAT_SECONDS = 15.0
_QUIET_SECONDS = 1.0  # then the record is read again: position while queued, truth while running
_OUTAGE_SECONDS = 60.0  # a store that is away for longer ends the watch


@dataclass(frozen=True, slots=True)
class Watch:
    """What to send: events after a sequence, log lines, previews."""

    after_sequence: int = 0
    logs: bool = False
    previews: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One message of a watch. `body` None is a heartbeat; `sequence` 0 is not kept. `time` in unix seconds."""

    sequence: int
    time: float
    body: RequestView | LogLine | Progress | PreviewImage | None


class Watching:
    """The use-case."""

    def __init__(self, queueing: Queueing, events: EventBus, *, clock: Callable[[], float]) -> None:
        self._queueing = queueing
        self._events = events
        self._clock = clock
        self._draining = False

    def drain(self) -> None:
        """Ends every watch within a second with Draining, so that callers resume on another server."""
        self._draining = True

    async def watch(self, owner: str, request_id: str, wish: Watch) -> AsyncGenerator[Seen, None]:
        """Everything that happens, until the terminal state. Raises RequestNotFound, StoreUnavailable, Draining."""
        if not is_request_id(request_id):  # it becomes part of a subject, where `>` would hear everybody's events
            raise RequestNotFound(request_id)
        async with self._events.follow(request_id, previews=wish.previews) as follower:
            view = await self._queueing.status(owner, request_id, logs=wish.logs)
            if not view.request.state.terminal:
                yield self._snapshot(view, kept=False)
            last = wish.after_sequence
            for event in await self._missed(view, wish):
                last = event.sequence
                yield Seen(event.sequence, event.time, _body(event))
            if view.request.state.terminal:
                for event in _rest(follower, wish, last):
                    yield Seen(event.sequence, event.time, _body(event))
                yield self._snapshot(view, kept=True)
                return
            async for seen in self._live(owner, view, wish, follower, last):
                yield seen

    async def _missed(self, view: RequestView, wish: Watch) -> list[Event]:
        if view.request.attempt == 0:
            return []
        events = await self._events.backlog(view.request.request_id, wish.after_sequence)
        return [event for event in events if _wanted(event, wish) and not isinstance(event.body, State)]

    async def _live(
        self, owner: str, view: RequestView, wish: Watch, follower: Follower, last: int
    ) -> AsyncGenerator[Seen, None]:
        sent = self._clock()
        while True:
            if self._draining:
                raise Draining
            event = await follower.next(_QUIET_SECONDS)
            if event is not None and not isinstance(event.body, State):
                if (isinstance(event.body, PreviewImage) or event.sequence > last) and _wanted(event, wish):
                    last = max(last, event.sequence)
                    sent = self._clock()
                    yield Seen(event.sequence, event.time, _body(event))
                continue
            fresh = await self._read_again(owner, view.request.request_id, logs=wish.logs)
            if fresh.request.state.terminal:  # it may have ended before its first event was looked at
                for event in _rest(follower, wish, last):
                    last = max(last, event.sequence)
                    yield Seen(event.sequence, event.time, _body(event))
            if _differs(fresh, view):
                kept = fresh.request.sequence > last
                last = max(last, fresh.request.sequence if kept else 0)
                sent = self._clock()
                yield self._snapshot(fresh, kept=kept)
                if fresh.request.state.terminal:
                    return
            elif self._clock() - sent >= HEARTBEAT_SECONDS:
                sent = self._clock()
                yield Seen(0, sent, None)
            view = fresh

    async def _read_again(self, owner: str, request_id: str, *, logs: bool) -> RequestView:
        deadline = self._clock() + _OUTAGE_SECONDS
        while True:
            try:
                view = await self._queueing.status(owner, request_id)
                if logs and view.request.state.terminal:
                    view = replace(view, logs=view.request.logs)
                return view
            except StoreUnavailable:
                if self._clock() >= deadline:
                    raise
                await asyncio.sleep(0.2)

    def _snapshot(self, view: RequestView, *, kept: bool) -> Seen:
        """`kept` False before the watch has caught up: its sequence must not hide events that are still to come."""
        return Seen(view.request.sequence if kept else 0, self._clock(), view)


def _rest(follower: Follower, wish: Watch, last: int) -> list[Event]:
    """What waits when the record is terminal: all that is still to come, since a worker tells everything before it records the end."""
    return [
        event
        for event in follower.drain()
        if not isinstance(event.body, State)
        and (isinstance(event.body, PreviewImage) or event.sequence > last)
        and _wanted(event, wish)
    ]


def _wanted(event: Event, wish: Watch) -> bool:
    if isinstance(event.body, LogLine):
        return wish.logs
    return not isinstance(event.body, PreviewImage) or wish.previews


def _body(event: Event) -> LogLine | Progress | PreviewImage:
    assert not isinstance(event.body, State)  # callers turn states into snapshots
    return event.body


def _differs(fresh: RequestView, seen: RequestView) -> bool:
    """Whether a caller should hear of it: another state, attempt or position. Progress has events of its own."""
    a, b = fresh.request, seen.request
    return (a.state, a.attempt, fresh.position) != (b.state, b.attempt, seen.position)
