"""The job loop: leases from the queue what the engine has room for, and takes each request through to its terminal state.

Order for one job: lease, record RUNNING, draw, store the pictures, record, event, and settle the lease last. Whatever happens between,
the job either comes to a terminal record or goes back to the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from flashbulb_server.config import QueueSettings
from flashbulb_server.core import requests
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import GenerationResult
from flashbulb_server.core.requests import Failure, IllegalChange, LogLevel, Request, State
from flashbulb_server.errors import (
    EngineFailed,
    FlashbulbError,
    RequestCancelled,
    RequestNotFound,
    StartTimeout,
    StoreUnavailable,
    WorkersBusy,
)
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Stopped
from flashbulb_server.messaging.jobs import JobConsumer, Lease
from flashbulb_server.messaging.records import RequestRecords
from flashbulb_server.wire.records import Event
from flashbulb_server.worker.delivery import Delivery, Origin
from flashbulb_server.worker.drawing import Drawing
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.journal import Journal

_STORE_PATIENCE = 60.0  # seconds that finished pictures wait for a store that is away, before the job goes back
_RETRY_SECONDS = 0.2
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _LeaseLost(Exception):
    """Another worker has started the request meanwhile."""


@dataclass(slots=True, eq=False)
class _Active:
    """A job in hand. `ended` is set when its record is terminal or the job was given back."""

    lease: Lease
    request: Request | None = None
    drawing: Drawing | None = None
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def started(self) -> Request:
        """The request, once it is RUNNING here."""
        assert self.request is not None
        return self.request


@dataclass(frozen=True, slots=True)
class Desk:
    """What the job loop works with."""

    consumer: JobConsumer
    records: RequestRecords
    events: EventBus
    engine: StepEngine
    delivery: Delivery


class JobLoop:
    """Works on jobs until it is stopped. `clock` gives unix seconds."""

    def __init__(self, desk: Desk, settings: QueueSettings, *, worker_id: str, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._settings = settings
        self._worker_id = worker_id
        self._clock = clock
        self._active: dict[str, _Active] = {}
        self._room = asyncio.Event()
        self._stopping = False

    async def run(self, *, drain_seconds: float, stop: asyncio.Event) -> None:
        """Leases and works until `stop`; then finishes what it holds for so long, and gives the rest back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._stop_when(stop))
            while not self._stopping:
                self._room.clear()
                if self._pictures() >= self._desk.engine.capacity:
                    await self._room.wait()
                    continue
                # Not cancelled by stop(): see JobConsumer.next.
                lease = await self._desk.consumer.next()
                if lease is None:
                    continue
                if self._stopping or lease.job.request_id in self._active:
                    await lease.give_back()
                    continue
                active = self._active[lease.job.request_id] = _Active(lease)
                active.task = tasks.create_task(self._work(active))
            await self._drain(drain_seconds)

    async def stop_request(self, request_id: str) -> Stopped:
        """Cancels a request that is in hand, at the next step or while it is being stored; answers when its record says so."""
        active = self._active.get(request_id)
        if active is None:
            return Stopped(False, 0, 0)
        if not active.cancelled:
            active.cancelled = True
            if active.drawing is not None and not active.drawing.outcome.done():
                active.drawing.cancel()
            elif active.drawing is not None and active.task is not None:
                active.task.cancel()
        await active.ended.wait()
        request = active.request
        if request is None or request.state is not State.CANCELLED:
            return Stopped(False, 0, 0)
        return Stopped(True, request.steps_done, request.total_steps)

    def _pictures(self) -> int:
        return sum(active.lease.job.num_images for active in self._active.values())

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        self._room.set()

    async def _drain(self, seconds: float) -> None:
        tasks = [active.task for active in self._active.values() if active.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    async def _work(self, active: _Active) -> None:
        renewing = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew(active.lease, renewing))
                try:
                    await self._complete(active)
                finally:
                    renewing.set()
        finally:
            active.ended.set()
            self._active.pop(active.lease.job.request_id, None)
            self._room.set()

    async def _renew(self, lease: Lease, done: asyncio.Event) -> None:
        while not done.is_set():
            try:
                await asyncio.wait_for(done.wait(), self._settings.lease_seconds / 4)
            except TimeoutError:
                try:
                    await lease.renew()
                except StoreUnavailable:
                    _log.warning("lease not renewed", extra={"request_id": lease.job.request_id})

    async def _complete(self, active: _Active) -> None:
        """Brings the job to its end, or gives it back. Cancelled, it gives it back too, unless the request was what was cancelled."""
        lease = active.lease
        try:
            if await self._start(active):
                async with Journal.open(self._desk.events, active.started, clock=self._clock) as journal:
                    await self._attempt(active, journal)
            await lease.done()
        except _LeaseLost:
            _log.warning("request is another worker's by now", extra={"request_id": lease.job.request_id})
        except (StoreUnavailable, WorkersBusy) as err:
            # Not settled: it comes back to some worker when the lease runs out, should giving back not get through.
            _log.warning("job given back", extra={"request_id": lease.job.request_id, "reason": err.reason})
            await lease.give_back(delay=1.0)
        except asyncio.CancelledError:
            await lease.give_back()
            raise

    async def _start(self, active: _Active) -> bool:
        """Records RUNNING. False if there is nothing to draw any more."""
        job = active.lease.job

        def change(request: Request) -> Request:
            now = self._clock()
            if requests.overdue(request, now):
                failure = Failure.of(StartTimeout(request.start_deadline - request.create_time))
                return requests.expire(request, failure, now=now, keep=self._settings.keep_seconds)
            return requests.start(request, worker_id=self._worker_id, now=now)

        try:
            _, active.request = await self._desk.records.change(job.owner, job.request_id, change)
        except (RequestNotFound, IllegalChange):
            return False
        await self._announce(active.request)
        return active.request.state is State.RUNNING

    async def _attempt(self, active: _Active, journal: Journal) -> None:
        """Draws, stores and records."""
        request = active.started
        try:
            await self._end(active, await self._outcome(active, journal), journal)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not active.cancelled or task is None:
                raise
            task.uncancel()
            step = active.drawing.step if active.drawing is not None else 0
            await self._end(active, self._cancellation(RequestCancelled(step, request.total_steps), journal), journal)
        if active.request is not None and active.request.state is State.CANCELLED:
            await self._desk.delivery.discard(request.spec, Origin(request.owner, request.request_id))

    async def _outcome(self, active: _Active, journal: Journal) -> Callable[[Request], Request]:
        """Draws and stores the pictures; gives the change to make in the record. Raises StoreUnavailable, WorkersBusy."""
        request = active.started
        journal.log(f"started by worker {self._worker_id}, attempt {request.attempt}")
        try:
            result = await self._draw(active, journal)
        except RequestCancelled as err:
            return self._cancellation(err, journal)
        except (StoreUnavailable, WorkersBusy):
            raise
        except FlashbulbError as err:
            return self._failure(err, request, journal)
        except Exception:  # noqa: BLE001  # whatever it was, the request must come to an end
            _log.exception("drawing failed", extra={"request_id": request.request_id})
            return self._failure(EngineFailed(), request, journal)
        journal.log(f"stored {len(result.images)} picture(s)")
        keep = self._settings.keep_seconds
        return lambda r: requests.succeed(
            r, result, attempt=request.attempt, now=self._clock(), keep=keep, logs=journal.lines
        )

    async def _draw(self, active: _Active, journal: Journal) -> GenerationResult:
        request = active.started
        if active.cancelled:  # between the lease and here
            raise RequestCancelled(0, request.total_steps)
        active.drawing = self._desk.engine.start(
            request.spec, work_class=WorkClass.QUEUED, on_progress=journal.progress, on_preview=journal.preview
        )
        drawn = await active.drawing.result()
        journal.log(f"drawn in {drawn.timings.get('inference', 0.0):.3f} s")
        origin = Origin(request.owner, request.request_id)
        return await self._patiently(lambda: self._desk.delivery.store(drawn, request.spec, origin))

    def _cancellation(self, error: RequestCancelled, journal: Journal) -> Callable[[Request], Request]:
        journal.log(error.message)
        return lambda r: requests.cancel(
            r,
            Failure.of(error),
            now=self._clock(),
            keep=self._settings.keep_seconds,
            steps_done=error.step,
            logs=journal.lines,
        )

    def _failure(self, error: FlashbulbError, request: Request, journal: Journal) -> Callable[[Request], Request]:
        journal.log(error.message, LogLevel.ERROR)
        return lambda r: requests.fail(
            r,
            Failure.of(error),
            now=self._clock(),
            keep=self._settings.keep_seconds,
            attempt=request.attempt,
            logs=journal.lines,
        )

    async def _end(self, active: _Active, change: Callable[[Request], Request], journal: Journal) -> None:
        """Records the terminal state and tells who watches. Raises _LeaseLost if another worker has the request by now."""
        job = active.lease.job
        try:
            _, active.request = await self._patiently(
                lambda: self._desk.records.change(job.owner, job.request_id, change)
            )
        except IllegalChange as err:
            if not err.request.state.terminal:
                raise _LeaseLost from err
            active.request = err.request  # ended by somebody else, or by us in a try whose answer was lost
        except RequestNotFound:
            return
        await journal.flush()
        await self._announce(active.started)

    async def _announce(self, request: Request) -> None:
        time = request.end_time or request.start_time
        await self._desk.events.publish(request.request_id, Event(request.sequence, time, request.state))
        _log.info(
            "request %s", request.state.lower(), extra={"request_id": request.request_id, "attempt": request.attempt}
        )

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Again and again while a store is away, for a minute: pictures that are drawn should not be drawn twice."""
        deadline = asyncio.get_running_loop().time() + _STORE_PATIENCE
        while True:
            try:
                return await attempt()
            except (StoreUnavailable, ExceptionGroup) as err:
                away = err if isinstance(err, StoreUnavailable) else _only_store(err)
                if asyncio.get_running_loop().time() >= deadline:
                    raise away from err
                await asyncio.sleep(_RETRY_SECONDS)


def _only_store(group: ExceptionGroup[Exception]) -> StoreUnavailable:
    """The StoreUnavailable of several puts at once. Raises the group if anything else happened."""
    away, other = group.split(StoreUnavailable)
    if other is not None or away is None:
        raise group
    return StoreUnavailable("files")
