"""What happens to requests, as it happens. Live on core subjects; kept for an hour in the stream EVENTS, previews excepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.requests import LogLine, State
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.scan import scan
from flashbulb_server.messaging.topology import EVENTS
from flashbulb_server.wire.records import Event, decode_event, encode_event

_KINDS: dict[type, str] = {State: "state", LogLine: "log", Progress: "progress"}


class EventBus:
    """Publishes and follows events."""

    def __init__(self, nc: Client, js: JetStreamContext) -> None:
        self._nc = nc
        self._js = js

    async def publish(self, request_id: str, event: Event) -> None:
        """Sends an event to whoever follows. Never waits for anyone, and never fails: the record is the truth."""
        kind = _KINDS.get(type(event.body))
        subject = f"events.{request_id}.{kind}" if kind else f"previews.{request_id}"
        try:
            await self._nc.publish(subject, encode_event(event))
        except nats.errors.Error:
            return

    @asynccontextmanager
    async def follow(self, request_id: str, *, previews: bool, limit: int = 256) -> AsyncIterator[Follower]:
        """Follows a request from now on. At most `limit` events wait; the oldest are dropped first, previews before all."""
        follower = Follower(limit)
        with unavailable():
            subscriptions = [await self._nc.subscribe(f"events.{request_id}.*", cb=follower.take)]
            if previews:
                subscriptions.append(await self._nc.subscribe(f"previews.{request_id}", cb=follower.take))
        try:
            yield follower
        finally:
            for subscription in subscriptions:
                if not self._nc.is_closed:
                    await subscription.unsubscribe()

    async def listen(self, request_id: str, kinds: Sequence[str]) -> Ear:
        """Hears that something of these kinds happens to a request (`state`, `log`), from now on, until it is closed.

        Raises StoreUnavailable.
        """
        ear = Ear(self._nc)
        with unavailable():
            for kind in kinds:
                ear.subscriptions.append(await self._nc.subscribe(f"events.{request_id}.{kind}", cb=ear.hear))
        return ear

    async def backlog(self, request_id: str, after_sequence: int = 0, kind: str = "*") -> list[Event]:
        """Events that are kept and come after a sequence, in order. Empty if there are none. Raises StoreUnavailable."""
        subject = f"events.{request_id}.{kind}"
        decoded = [decode_event(found.data) async for found in scan(self._nc, EVENTS, subject)]
        events = [event for event in decoded if event is not None and event.sequence > after_sequence]
        return sorted(events, key=lambda event: event.sequence)

    async def last_progress(self, request_id: str) -> Progress | None:
        """The newest step that is kept. Raises StoreUnavailable."""
        try:
            with unavailable():
                message = await self._js.get_last_msg(EVENTS, f"events.{request_id}.progress", direct=True)
        except NotFoundError:
            return None
        event = decode_event(message.data or b"")
        return event.body if event is not None and isinstance(event.body, Progress) else None


@dataclass(slots=True, eq=False)
class Ear:
    """Whether something was `heard` since that was last set to False; what it was, does not matter."""

    nc: Client
    heard: bool = False
    subscriptions: list[Subscription] = field(default_factory=list)

    async def hear(self, message: Msg) -> None:
        """Callback of the subscriptions."""
        self.heard = True

    async def close(self) -> None:
        """Hears no more."""
        for subscription in self.subscriptions:
            if not self.nc.is_closed:
                await subscription.unsubscribe()


class Follower:
    """A bounded mailbox of one watch."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[Event] = []
        self._arrived = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """Callback of the subscription."""
        event = decode_event(message.data)
        if event is None:
            return
        if isinstance(event.body, PreviewImage):
            # Only the newest preview of each picture is worth showing.
            self._waiting = [
                e
                for e in self._waiting
                if not (isinstance(e.body, PreviewImage) and e.body.image_index == event.body.image_index)
            ]
        self._waiting.append(event)
        if len(self._waiting) > self._limit:
            dropped = next((i for i, e in enumerate(self._waiting) if isinstance(e.body, PreviewImage)), 0)
            del self._waiting[dropped]
        self._arrived.set()

    def drain(self) -> list[Event]:
        """All that waits."""
        waiting, self._waiting = self._waiting, []
        return waiting

    async def next(self, seconds: float) -> Event | None:
        """The next event, or None after so many seconds."""
        if not self._waiting:
            self._arrived.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self._waiting.pop(0)
