"""The queue's use-cases: submit, status, result, cancel, list. Transports translate; the state machine decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from flashbulb_server.api.results import Results
from flashbulb_server.api.sources import InlineSources
from flashbulb_server.api.stand_ins import log_stand_in
from flashbulb_server.api.stores import Stores, job_of
from flashbulb_server.api.submitting import Submitting
from flashbulb_server.config import QueueSettings
from flashbulb_server.core import requests
from flashbulb_server.core.eta import WorkerPace, in_turns, queued_eta, running_eta
from flashbulb_server.core.generation import GenerationResult, GenerationSpec, Progress
from flashbulb_server.core.ids import is_request_id
from flashbulb_server.core.requests import Failure, IllegalChange, LogLine, Request, State
from flashbulb_server.core.submission import Page, Submission
from flashbulb_server.errors import (
    DataUnreadable,
    NewerRelease,
    RequestCancelled,
    RequestNotFinished,
    RequestNotFound,
    StartTimeout,
    StoreUnavailable,
)
from flashbulb_server.messaging.records import RevisionConflict, Stored
from flashbulb_server.wire.records import Event

CANCEL_SECONDS = 10.0  # a worker answers after the step it is in; the longest step known is a few seconds on a CPU
_LIST_BATCH = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request as its owner sees it. `position`: requests before it; `eta` in seconds from now."""

    request: Request
    position: int | None = None
    eta: float | None = None
    progress: Progress | None = None
    logs: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class CancelReceipt:
    """What a cancellation found and did."""

    previous_state: State
    request: Request
    stopped_at_step: int
    saved_steps: int


class Queueing:
    """The use-cases. `clock` gives unix seconds. Every method may raise StoreUnavailable."""

    def __init__(
        self,
        stores: Stores,
        sources: InlineSources,
        results: Results,
        settings: QueueSettings,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._stores = stores
        self._submitting = Submitting(stores, sources, settings, clock=clock)
        self._results = results
        self._settings = settings
        self._clock = clock

    async def submit(
        self, owner: str, spec: GenerationSpec, submission: Submission, *, digest: bytes
    ) -> tuple[Request, bool]:
        """As `Submitting.submit`."""
        request, again = await self._submitting.submit(owner, spec, submission, digest=digest)
        if not again:
            log_stand_in(request.spec, request_id=request.request_id)
        return request, again

    async def status(self, owner: str, request_id: str, *, logs: bool = False) -> RequestView:
        """The request now. Raises RequestNotFound."""
        request = await self.current(owner, request_id)
        lines = request.logs
        if logs and not request.state.terminal:
            events = await self._stores.events.backlog(request_id, kind="log")
            lines = tuple(event.body for event in events if isinstance(event.body, LogLine))
        return replace(await self.view(request), logs=lines if logs else ())

    async def current(self, owner: str, request_id: str) -> Request:
        """What is stored, expired first if it is overdue. Raises RequestNotFound."""
        if not is_request_id(request_id):
            raise RequestNotFound(request_id)
        stored = await self._stores.records.get(owner, request_id)
        if requests.overdue(stored.request, self._clock()):
            return await self.expire(stored.request)
        return stored.request

    async def expire(self, request: Request) -> Request:
        """Ends an overdue request, unless a worker starts it at the last moment."""
        failure = Failure.of(StartTimeout(request.start_deadline - request.create_time))
        try:
            _, expired = await self._stores.records.change(
                request.owner,
                request.request_id,
                lambda r: requests.expire(r, failure, now=self._clock(), keep=self._settings.keep_seconds),
            )
        except IllegalChange as err:
            return err.request
        await self.settle(expired)
        return expired

    async def settle(self, ended: Request) -> None:
        """After a request was ended without a worker: takes its job out, tells who watches, and makes its webhook due."""
        await self._stores.jobs.remove(job_of(ended))
        await self._stores.events.publish(ended.request_id, Event(ended.sequence, ended.end_time, ended.state))
        try:
            await self._stores.webhooks.publish(ended)
        except StoreUnavailable:  # the janitor finds it
            _log.warning("webhook not queued yet", extra={"request_id": ended.request_id})

    async def view(self, request: Request) -> RequestView:
        """Adds position, expected time and progress."""
        pictures = request.spec.num_images
        if request.state is State.QUEUED:
            position = await self._stores.jobs.position(job_of(request), request.priority)
            eta = None if position is None else await self._eta(request, position)
            return RequestView(request, position, eta)
        if request.state is State.RUNNING:
            found = await self._stores.events.last_progress(request.request_id)
            progress = found or Progress(0, request.total_steps)
            pace = next(
                (
                    WorkerPace(w.seconds_per_image, w.in_flight)
                    for w in self._stores.fleet.workers()
                    if w.worker_id == request.worker_id
                ),
                None,
            )
            elapsed = max(0.0, self._clock() - request.start_time)
            eta = running_eta(elapsed, progress.step, progress.total_steps, pictures, pace)
            return RequestView(request, None, eta, progress)
        return RequestView(request, progress=Progress(request.steps_done, request.total_steps))

    async def _eta(self, request: Request, position: int) -> float | None:
        """Of a queued request: the workers that have its model draw what is ahead of it, and take turns with their other models' jobs."""
        model = request.spec.model_name
        able = [w for w in self._stores.fleet.workers() if model in w.models]
        others = {other for worker in able for other in worker.models} - {model}
        waiting = await asyncio.gather(*(self._stores.jobs.waiting(other) for other in others))
        paces = [WorkerPace(w.seconds_per_image, w.in_flight) for w in able]
        return queued_eta(in_turns(position, waiting), request.spec.num_images, paces)

    async def result(self, owner: str, request_id: str) -> GenerationResult | Failure:
        """The outcome, with links made now. Raises RequestNotFound, RequestNotFinished."""
        request = await self.current(owner, request_id)
        if not request.state.terminal:
            raise RequestNotFinished(request_id, request.state)
        if request.result is None:
            return request.failure or Failure("INTERNAL", "the request ended without an outcome")
        return await self._results.present(request.result, seconds=max(1.0, request.expire_time - self._clock()))

    async def cancel(self, owner: str, request_id: str) -> CancelReceipt:
        """Stops a request in any state. Raises RequestNotFound.

        A running one is stopped by its worker, which knows the step; if the worker is gone, here.
        """
        while True:
            request = await self.current(owner, request_id)
            if request.state.terminal:
                return CancelReceipt(request.state, request, request.steps_done, 0)
            if request.state is State.RUNNING:
                stopped = await self._stores.fleet.cancel(request.worker_id, request_id, seconds=CANCEL_SECONDS)
                if stopped is not None and stopped.held:
                    after = await self.current(owner, request_id)
                    return CancelReceipt(request.state, after, stopped.step, stopped.total_steps - stopped.step)
            stored = await self._stores.records.get(owner, request_id)
            if stored.request.state is not request.state or stored.request.attempt != request.attempt:
                continue
            try:
                return await self._cancel_here(stored)
            except RevisionConflict:
                continue

    async def _cancel_here(self, stored: Stored) -> CancelReceipt:
        request = stored.request
        cancelled = requests.cancel(
            request,
            Failure.of(RequestCancelled(0, request.total_steps)),
            now=self._clock(),
            keep=self._settings.keep_seconds,
        )
        await self._stores.records.replace(stored, cancelled)
        await self.settle(cancelled)
        return CancelReceipt(request.state, cancelled, 0, request.total_steps)

    async def list(self, owner: str, page: Page) -> tuple[list[Request], str]:
        """The owner's requests, newest first, and the token of the next page or "". Those that cannot be read are left out."""
        ids = [i for i in await self._stores.records.ids(owner) if not page.before or i < page.before]
        found: list[Request] = []
        for start in range(0, len(ids), _LIST_BATCH):
            batch = ids[start : start + _LIST_BATCH]
            for request in await asyncio.gather(*(self._listed(owner, i) for i in batch)):
                if request is None or (page.states and request.state not in page.states):
                    continue
                found.append(request)
                if len(found) == page.size:
                    last = found[-1].request_id
                    return found, last if last != ids[-1] else ""
        return found, ""

    async def _listed(self, owner: str, request_id: str) -> Request | None:
        try:
            return await self.current(owner, request_id)
        except RequestNotFound:
            return None
        except (DataUnreadable, NewerRelease) as err:
            _log.warning("request left out of a list", extra={"request_id": request_id, "reason": err.reason})
            return None
