"""The job loop: leases from the queue what the engine has room for, and takes each request through to its terminal state.

Order for one job: lease, record RUNNING, draw, store the pictures, record, event, and settle the lease last. Whatever happens between,
the job either comes to a terminal record or goes back to the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from flashbulb_server.config import QueueSettings
from flashbulb_server.core import requests
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import GenerationResult
from flashbulb_server.core.pipeline import Sources
from flashbulb_server.core.requests import Failure, IllegalChange, LogLevel, Request, State
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import (
    DataUnreadable,
    EngineFailed,
    FlashbulbError,
    NewerRelease,
    RequestCancelled,
    RequestNotFound,
    StartTimeout,
    StoreUnavailable,
    WorkerLost,
    WorkersBusy,
)
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Stopped
from flashbulb_server.messaging.jobs import JobConsumer, JobLease
from flashbulb_server.messaging.records import RequestRecords
from flashbulb_server.messaging.webhooks import WebhookQueue
from flashbulb_server.wire.records import Event
from flashbulb_server.worker.delivery import Delivery, Origin
from flashbulb_server.worker.drawing import Drawing
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.inputs import Inputs
from flashbulb_server.worker.journal import Journal

_FILES_WAIT = (
    600.0  # seconds that inputs and finished pictures wait for a file store that is away; then the request fails
)
_RECORD_WAIT = (
    60.0  # seconds to keep trying to write the outcome; then the lease is lost anyway and the job is another worker's
)
_RETRY_SECONDS = 0.2
_NEWER_DOUBLINGS = 6  # a request of a newer release is tried again after 2, 4, 8 … 64 s, perhaps by a worker of that
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _LeaseLost(Exception):
    """Another worker has started the request meanwhile."""


class _NotHere(Exception):
    """This worker cannot draw it, or nothing any more; another one may."""


@dataclass(slots=True, eq=False)
class _Active:
    """A job in hand. `ended` is set when its record is terminal or the job was given back."""

    lease: JobLease
    request: Request | None = None
    drawing: Drawing | None = None
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)
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
    inputs: Inputs
    delivery: Delivery
    webhooks: WebhookQueue


class JobLoop:
    """Works on jobs until it is stopped. `clock` gives unix seconds."""

    def __init__(self, desk: Desk, settings: QueueSettings, *, worker_id: str, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._settings = settings
        self._worker_id = worker_id
        self._models = frozenset(model.name for model in desk.engine.models)
        self._clock = clock
        self._active: dict[str, _Active] = {}
        self._room = asyncio.Event()
        self._stopping = False

    async def run(self, *, drain_seconds: float, stop: asyncio.Event) -> None:
        """Leases and works until `stop`; then finishes what it holds for so long, and gives the rest back."""
        async with task_group() as tasks:
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
                if (held := self._active.get(lease.job.request_id)) is not None:
                    # Redelivered although it is in hand: an outage kept the lease from being renewed. Giving it back would only
                    # use up its deliveries; the newest delivery is the one to renew and settle from now on.
                    held.lease = lease
                    continue
                if self._stopping:
                    await lease.give_back()
                    continue
                active = self._active[lease.job.request_id] = _Active(lease)
                active.task = tasks.create_task(self._work(active))
            await self._drain(drain_seconds)

    async def stop_request(self, request_id: str) -> Stopped:
        """Cancels a request that is in hand, at the next step or while something is fetched or stored for it; answers when its record says so."""
        active = self._active.get(request_id)
        if active is None:
            return Stopped(False, 0, 0)
        if not active.cancelled:
            active.cancelled = True
            if active.drawing is not None and not active.drawing.outcome.done():
                active.drawing.cancel()
            else:  # its inputs are being fetched, or its pictures stored
                active.abandoned.set()
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
            async with task_group() as tasks:
                tasks.create_task(self._renew(active, renewing))
                try:
                    await self._complete(active)
                finally:
                    renewing.set()
        finally:
            active.ended.set()
            self._active.pop(active.lease.job.request_id, None)
            self._room.set()

    async def _renew(self, active: _Active, done: asyncio.Event) -> None:
        while not done.is_set():
            try:
                async with asyncio.timeout(self._settings.lease_seconds / 4):
                    await done.wait()
            except TimeoutError:
                await active.lease.renew()

    async def _complete(self, active: _Active) -> None:
        """Brings the job to its end, or gives it back. Cancelled, it gives it back too, unless the request was what was cancelled."""
        request_id = active.lease.job.request_id
        try:
            if await self._start(active):
                async with Journal.open(self._desk.events, active.started, clock=self._clock) as journal:
                    await self._attempt(active, journal)
            await active.lease.done()
        except _LeaseLost:
            _log.warning("request is another worker's by now", extra={"request_id": request_id})
        except (StoreUnavailable, _NotHere) as err:
            _log.warning("job given back", extra={"request_id": request_id, "problem": str(err)})
            await active.lease.give_back(delay=1.0)
        except NewerRelease as err:
            _log.warning("job left to a newer release", extra={"request_id": request_id, "problem": str(err)})
            await active.lease.give_back(delay=2.0 ** min(active.lease.attempt, _NEWER_DOUBLINGS))
        except asyncio.CancelledError:
            await active.lease.give_back()
            raise

    async def _start(self, active: _Active) -> bool:
        """Records RUNNING. False if there is nothing to draw any more."""
        job = active.lease.job

        def change(request: Request) -> Request:
            if request.spec.model_name not in self._models:
                raise _NotHere(f"{request.spec.model_name} is not loaded here")
            now = self._clock()
            if requests.overdue(request, now):
                failure = Failure.of(StartTimeout(request.start_deadline - request.create_time))
                return requests.expire(request, failure, now=now, keep=self._settings.keep_seconds)
            if request.attempt >= (1 if request.no_retry else self._settings.max_attempts):
                failure = Failure.of(WorkerLost(request.attempt))
                return requests.fail(request, failure, now=now, keep=self._settings.keep_seconds)
            return requests.start(request, worker_id=self._worker_id, now=now)

        try:
            _, active.request = await self._desk.records.change(job.owner, job.request_id, change)
        except (RequestNotFound, IllegalChange, DataUnreadable):
            return False
        await self._announce(active.request)
        return active.request.state is State.RUNNING

    async def _attempt(self, active: _Active, journal: Journal) -> None:
        """Draws, stores and records. A cancellation is recorded at once, also where fetching or storing takes its time to stop."""
        request = active.started
        async with task_group() as tasks:
            outcome = tasks.create_task(self._outcome(active, journal))
            asked = tasks.create_task(active.abandoned.wait())
            try:
                await asyncio.wait((outcome, asked), return_when=asyncio.FIRST_COMPLETED)
                if outcome.done():
                    change = outcome.result()
                else:
                    outcome.cancel()
                    done = request.total_steps if active.drawing is not None else 0
                    change = self._cancellation(RequestCancelled(done, request.total_steps), journal)
                await self._end(active, change, journal)
            finally:
                asked.cancel()
        if active.started.state is State.CANCELLED:
            with suppress(StoreUnavailable):  # the sweeper finds what is left
                await self._desk.delivery.discard(request.spec, Origin(request.owner, request.request_id))

    async def _outcome(self, active: _Active, journal: Journal) -> Callable[[Request], Request]:
        """Draws and stores the pictures; gives the change to make in the record. Raises _NotHere."""
        request = active.started
        journal.log(f"started by worker {self._worker_id}, attempt {request.attempt}")
        if asked := request.spec.asked_model:
            journal.log(f"{asked} is not installed here: {request.spec.model_name} draws, as a stand-in", LogLevel.WARN)
        try:
            result = await self._draw(active, journal)
        except RequestCancelled as err:
            return self._cancellation(err, journal)
        except FlashbulbError as err:
            if self._desk.engine.broken:  # this process is about to be replaced; the request is not to blame
                raise _NotHere from err
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
        sources = await _patiently(lambda: self._desk.inputs.gather(request.spec, request.owner), _FILES_WAIT)
        active.drawing = await self._admitted(active, journal, sources)
        drawn = await active.drawing.result()
        journal.log(f"drawn in {drawn.timings.get('inference', 0.0):.3f} s")
        origin = Origin(request.owner, request.request_id)
        return await _patiently(lambda: self._desk.delivery.store(drawn, request.spec, origin), _FILES_WAIT)

    async def _admitted(self, active: _Active, journal: Journal, sources: Sources | None) -> Drawing:
        """The drawing, once the engine takes it: direct calls may have filled it since the job was leased."""
        while True:
            if active.cancelled:
                raise RequestCancelled(0, active.started.total_steps)
            try:
                return self._desk.engine.start(
                    active.started.spec,
                    sources=sources,
                    work_class=WorkClass.QUEUED,
                    owner=active.started.owner,
                    on_progress=journal.progress,
                    on_preview=journal.preview,
                )
            except WorkersBusy:
                await asyncio.sleep(_RETRY_SECONDS)

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
        await journal.flush()  # first: whoever reads the terminal record has been sent every event before it
        try:
            _, active.request = await _patiently(
                lambda: self._desk.records.change(job.owner, job.request_id, change), _RECORD_WAIT
            )
        except IllegalChange as err:
            if not err.request.state.terminal:
                raise _LeaseLost from err
            active.request = err.request  # ended by somebody else, or by us in a try whose answer was lost
        except (RequestNotFound, DataUnreadable):
            return
        active.ended.set()
        await self._announce(active.started)

    async def _announce(self, request: Request) -> None:
        time = request.end_time or request.start_time
        await self._desk.events.publish(request.request_id, Event(request.sequence, time, request.state))
        try:
            await self._desk.webhooks.publish(request)  # if it has ended and has one
        except StoreUnavailable:  # the janitor of an api finds it
            _log.warning("webhook not queued yet", extra={"request_id": request.request_id})
        _log.info(
            "request %s", request.state.lower(), extra={"request_id": request.request_id, "attempt": request.attempt}
        )


async def _patiently(attempt: Callable[[], Awaitable[_T]], seconds: float) -> _T:
    """Again and again while a store is away: what is drawn should not be drawn twice."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            return await attempt()
        except StoreUnavailable:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(_RETRY_SECONDS)
