"""What no caller asks for: expires overdue requests, repairs records without a job or with a webhook that nobody queued, ends requests
whose workers were all lost.

Records of a newer release are left to the janitors of that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from flashbulb_server.api.queueing import Queueing
from flashbulb_server.api.stores import Stores, job_of
from flashbulb_server.config import QueueSettings
from flashbulb_server.core import requests
from flashbulb_server.core.requests import Failure, IllegalChange, Request, State
from flashbulb_server.errors import (
    DataUnreadable,
    FlashbulbError,
    NewerRelease,
    QueueFull,
    RequestNotFound,
    StoreUnavailable,
    WorkerLost,
)
from flashbulb_server.messaging.dead_letters import Kind
from flashbulb_server.messaging.lost import LostJobs

_ORPHAN_SECONDS = 10.0  # a submission writes the record and then the job; after so long it has died between them
_log = logging.getLogger(__name__)


class Janitor:
    """Runs beside the api; several replicas do no harm. `clock` gives unix seconds."""

    def __init__(
        self,
        stores: Stores,
        queueing: Queueing,
        lost: LostJobs,
        settings: QueueSettings,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._stores = stores
        self._queueing = queueing
        self._lost = lost
        self._settings = settings
        self._clock = clock
        self._scanned = 0
        self._young: dict[str, Request] = {}
        self._owing: dict[str, Request] = {}
        self._dead_letters = {Kind.JOB: 0, Kind.WEBHOOK: 0}  # up to where they were looked at

    async def run(self) -> None:
        """Cleans until it is cancelled."""
        while True:
            try:
                await self.clean()
            except FlashbulbError as err:
                _log.warning("cleaning put off", extra={"reason": err.reason})
            await asyncio.sleep(self._settings.janitor_seconds)

    async def clean(self) -> None:
        """One round. Raises StoreUnavailable."""
        await self._end_lost()
        await self._expire_overdue()
        await self._adopt_unparted()
        await self._look_at_records()
        await self._repair_orphans()
        await self._repair_webhooks()
        await self._look_at_dead_letters()

    async def _end_lost(self) -> None:
        async for lost in self._lost.waiting():
            job = await self._stores.jobs.at(lost.sequence)
            if job is not None:
                failure = Failure.of(WorkerLost(self._settings.max_attempts))
                try:
                    _, failed = await self._stores.records.change(
                        job.owner,
                        job.request_id,
                        lambda r, f=failure: requests.fail(r, f, now=self._clock(), keep=self._settings.keep_seconds),  # type: ignore[misc]
                    )
                    await self._queueing.settle(failed)
                    _log.error("request failed: workers lost", extra={"request_id": job.request_id})
                except (IllegalChange, RequestNotFound, DataUnreadable):
                    await self._stores.jobs.remove(job)
                except NewerRelease:
                    lost.leave()

    async def _expire_overdue(self) -> None:
        now = self._clock()
        async for job in self._stores.jobs.jobs():
            if job.start_deadline <= now:
                try:
                    await self._queueing.current(job.owner, job.request_id)
                except (RequestNotFound, DataUnreadable):
                    await self._stores.jobs.remove(job)
                except NewerRelease:
                    continue

    async def _adopt_unparted(self) -> None:
        """Jobs that a release which did not part them by model has queued go to the queues of their models, unless its workers hold them."""
        live = {worker.worker_id for worker in self._stores.fleet.workers()}
        async for sequence, priority, job in self._stores.jobs.unparted():
            try:
                request = await self._queueing.current(job.owner, job.request_id)
            except (RequestNotFound, DataUnreadable):
                await self._stores.jobs.delete(sequence)
                continue
            except NewerRelease:
                continue
            if request.state is State.RUNNING and request.worker_id in live:
                continue
            if not request.state.terminal:
                await self._stores.jobs.publish(job_of(request), priority)
            await self._stores.jobs.delete(sequence)

    async def _look_at_records(self) -> None:
        """Every record is looked at once after it was last written, which is when it can have been left without a job or a webhook's message."""
        async for stored in self._stores.records.written_after(self._scanned):
            self._scanned = stored.revision
            self._look_at(stored.request)

    async def _look_at_dead_letters(self) -> None:
        """A job, or a webhook's message, that could not be read has left its request without one."""
        for kind, seen in self._dead_letters.items():
            async for sequence, stored in self._stores.records.bereft(kind, seen):
                self._dead_letters[kind] = sequence
                if stored is not None:
                    self._look_at(stored.request)

    def _look_at(self, request: Request) -> None:
        self._young.pop(request.request_id, None)
        self._owing.pop(request.request_id, None)
        if request.state is State.QUEUED:
            self._young[request.request_id] = request
        elif request.owes_webhook:
            self._owing[request.request_id] = request

    async def _repair_webhooks(self) -> None:
        now = self._clock()
        for request in [r for r in self._owing.values() if now - r.end_time >= _ORPHAN_SECONDS]:
            if await self._stores.webhooks.holds(request):
                del self._owing[request.request_id]
            elif await self._stores.webhooks.publish(request):
                del self._owing[request.request_id]
                _log.warning("webhook that nobody queued repaired", extra={"request_id": request.request_id})
            # Else JetStream takes it for one that it had a moment ago, and that was set aside: again in the next round.

    async def _repair_orphans(self) -> None:
        now = self._clock()
        for request in [r for r in self._young.values() if now - r.create_time >= _ORPHAN_SECONDS]:
            if await self._repair(request):
                del self._young[request.request_id]

    async def _repair(self, request: Request) -> bool:
        """Whether nothing is left to be done. Else what could not be read stands where its job should, about to be set aside."""
        if await self._stores.jobs.exists(job_of(request), request.priority):
            return True
        try:
            fresh = await self._queueing.current(request.owner, request.request_id)
        except (RequestNotFound, DataUnreadable, NewerRelease):
            return True
        if fresh.state is not State.QUEUED:
            return True
        try:
            added = await self._stores.jobs.publish(job_of(fresh), fresh.priority)
        except QueueFull as err:
            raise StoreUnavailable("queue") from err
        if added:
            _log.warning("request without a job repaired", extra={"request_id": request.request_id})
        return added
