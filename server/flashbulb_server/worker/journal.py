"""What one attempt at a request tells: steps, log lines, previews, in order, without ever holding the attempt up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.requests import MAX_LOG_LINES, LogLevel, LogLine, Request, State, step_sequence
from flashbulb_server.core.tasks import task_group
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.wire.records import Event

_WAITING = 256


class Journal:
    """Callbacks may be called at any rate on the event loop: events beyond 256 that wait push out the oldest."""

    def __init__(self, events: EventBus, request: Request, clock: Callable[[], float]) -> None:
        self._events = events
        self._request = request
        self._clock = clock
        self._count = 0
        self._lines: list[LogLine] = []
        self._outbox: asyncio.Queue[Event] = asyncio.Queue(_WAITING)

    @classmethod
    @asynccontextmanager
    async def open(cls, events: EventBus, request: Request, *, clock: Callable[[], float]) -> AsyncIterator[Journal]:
        """Publishes in the background while the context is open."""
        journal = cls(events, request, clock)
        async with task_group() as tasks:
            sender = tasks.create_task(journal._send())
            try:
                yield journal
            finally:
                sender.cancel()

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """The log so far, the last 100 lines."""
        return tuple(self._lines[-MAX_LOG_LINES:])

    def log(self, message: str, level: LogLevel = LogLevel.INFO) -> None:
        """Writes a line."""
        line = LogLine(self._clock(), level, message)
        self._lines.append(line)
        self._put(line)

    def progress(self, progress: Progress) -> None:
        """A step was finished."""
        self._put(progress)

    def preview(self, preview: PreviewImage) -> None:
        """A preview was taken. It is not kept, so it takes no sequence."""
        self._enqueue(Event(0, self._clock(), preview))

    async def flush(self) -> None:
        """Waits until everything so far is sent."""
        await self._outbox.join()

    def _put(self, body: State | LogLine | Progress) -> None:
        self._count += 1
        self._enqueue(Event(step_sequence(self._request.attempt, self._count), self._clock(), body))

    def _enqueue(self, event: Event) -> None:
        if self._outbox.full():
            self._outbox.get_nowait()
            self._outbox.task_done()
        self._outbox.put_nowait(event)

    async def _send(self) -> None:
        while True:
            event = await self._outbox.get()
            await self._events.publish(self._request.request_id, event)
            self._outbox.task_done()
