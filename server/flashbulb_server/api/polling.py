"""Status for callers that ask again and again: what was read a moment ago is answered again until something is heard to have happened.

1. A request that is asked for is followed. Its record is read again after every change of state, and after every log line where those
   are wanted.
2. Positions and progress move without an event, and an event may be lost: so it is read again after a while in any case. How long, depends
   on how many requests are asked for: the store is read some hundred times a second at most, however many callers ask.
3. Callers who ask for the same at the same time share one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from flashbulb_server.api.queueing import Queueing, RequestView
from flashbulb_server.core.ids import is_request_id
from flashbulb_server.errors import NewerRelease, RequestNotFound, StoreUnavailable
from flashbulb_server.messaging.events import Ear, EventBus

_LEAST_SECONDS = 0.5  # between two reads of one request
_GRACE_SECONDS = 1.0  # that the last answer is given again while the next one is read
_READS_PER_SECOND = 100
_TERMINAL_SECONDS = 30.0
_IDLE_SECONDS = 5.0  # without being asked for, after which a request is not followed any more
_OUTAGE_SECONDS = 60.0  # that the last answer is given again while the store is away
_MOST = 20_000

_Key = tuple[str, str, bool]


@dataclass(slots=True, eq=False)
class Snapshot:
    """A request as it was read. What a transport made of it may be used again while it is `fresh`."""

    view: RequestView
    read_at: float
    asked_at: float
    good_until: float = 0.0
    ear: Ear | None = None
    changed: bool = False


class Polling:
    """The use-case. `clock` gives monotonic seconds."""

    def __init__(self, queueing: Queueing, events: EventBus, *, clock: Callable[[], float]) -> None:
        self._queueing = queueing
        self._events = events
        self._clock = clock
        self._snapshots: dict[_Key, Snapshot] = {}
        self._locks: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()
        self._swept = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, queueing: Queueing, events: EventBus, *, clock: Callable[[], float]) -> AsyncIterator[Polling]:
        """Follows while the context is open."""
        polling = cls(queueing, events, clock=clock)
        try:
            yield polling
        finally:
            for snapshot in polling._snapshots.values():
                await polling._forget(snapshot)

    async def status(self, owner: str, request_id: str, *, logs: bool = False) -> Snapshot:
        """The request now, or a moment ago. Raises RequestNotFound, StoreUnavailable."""
        if not is_request_id(request_id):  # it becomes part of a subject, where `>` would hear everybody's events
            raise RequestNotFound(request_id)
        key = (owner, request_id, logs)
        found = self._snapshots.get(key)
        if found is None or not self.fresh(found):
            lock = self._locks.setdefault(key, asyncio.Lock())
            async with lock:
                found = self._snapshots.get(key)
                if found is None or not self.fresh(found):
                    found = await self._read(key, found)
        found.asked_at = self._clock()
        return found

    def fresh(self, snapshot: Snapshot) -> bool:
        """Whether it may be answered again."""
        if snapshot.changed or (snapshot.ear is not None and snapshot.ear.heard):
            return False
        return self._clock() < snapshot.good_until

    def touch(self, snapshot: Snapshot) -> None:
        """It was answered again."""
        snapshot.asked_at = self._clock()

    def forget(self, request_id: str) -> None:
        """What was just done to a request is seen by the next who asks, without waiting for the event."""
        for (_, known, _), snapshot in self._snapshots.items():
            if known == request_id:
                snapshot.changed = True

    async def _read(self, key: _Key, last: Snapshot | None) -> Snapshot:
        owner, request_id, logs = key
        await self._sweep()
        if last is not None:
            if last.changed or (last.ear is not None and last.ear.heard):
                last.changed = True  # somebody may have heard of it: nobody gets the old state from here on
            else:
                last.good_until = self._clock() + _GRACE_SECONDS  # for others, unless something is heard meanwhile
        ear = last.ear if last else None
        try:
            if ear is None:
                ear = await self._events.listen(request_id, ("state", "log") if logs else ("state",))
            ear.heard = False
            read_at, view = self._clock(), await self._queueing.status(owner, request_id, logs=logs)
        except BaseException as err:
            away = (
                isinstance(err, StoreUnavailable | NewerRelease)
                and last
                and self._clock() < last.read_at + _OUTAGE_SECONDS
            )
            if not away or last is None:
                self._snapshots.pop(key, None)
                if ear is not None:
                    await ear.close()
                raise
            read_at, view = last.read_at, last.view  # holds for a while: fal's clients give up at the first 503
        now = self._clock()
        if last is not None:
            last.changed = True  # answers that were made of it end with it
        snapshot = self._snapshots[key] = Snapshot(view, read_at, asked_at=now, ear=ear)
        if view.request.state.terminal:
            await self._forget(snapshot)
            owing = view.request.owes_webhook  # its delivery goes on, and is told
            snapshot.good_until = now + (_LEAST_SECONDS if owing else _TERMINAL_SECONDS)
        else:
            snapshot.good_until = now + max(_LEAST_SECONDS, len(self._snapshots) / _READS_PER_SECOND)
        return snapshot

    async def _sweep(self) -> None:
        """Forgets what nobody asks for any more."""
        now = self._clock()
        if now - self._swept < 1.0 and len(self._snapshots) < _MOST:
            return
        self._swept = now
        idle = [k for k, s in self._snapshots.items() if now - s.asked_at > _IDLE_SECONDS]
        for key in idle or list(self._snapshots)[: max(0, len(self._snapshots) - _MOST)]:
            await self._forget(self._snapshots.pop(key))

    async def _forget(self, snapshot: Snapshot) -> None:
        ear, snapshot.ear = snapshot.ear, None
        if ear is not None:
            await ear.close()
