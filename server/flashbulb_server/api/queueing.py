"""The queue's use-cases: submit, status, result, cancel, list. Transports translate; the state machine decides."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from flashbulb_server.api.results import Results
from flashbulb_server.api.sources import InlineSources, inline_files
from flashbulb_server.config import QueueSettings
from flashbulb_server.core import requests
from flashbulb_server.core.eta import WorkerPace, queued_eta, running_eta
from flashbulb_server.core.generation import GenerationResult, GenerationSpec, Progress
from flashbulb_server.core.ids import created_at, is_request_id, new_request_id
from flashbulb_server.core.requests import Failure, IllegalChange, LogLine, Request, State
from flashbulb_server.core.submission import Page, Submission
from flashbulb_server.core.webhooks import Webhook
from flashbulb_server.errors import (
    IdempotencyKeyReused,
    QueueFull,
    RequestCancelled,
    RequestNotFinished,
    RequestNotFound,
    StartTimeout,
    StoreUnavailable,
)
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.messaging.jobs import JobQueue
from flashbulb_server.messaging.records import IdempotencyKeys, RequestRecords, RevisionConflict, Stored
from flashbulb_server.messaging.webhooks import WebhookQueue
from flashbulb_server.wire.records import Event, Job

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


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the queue lives."""

    records: RequestRecords
    keys: IdempotencyKeys
    jobs: JobQueue
    events: EventBus
    fleet: Fleet
    webhooks: WebhookQueue


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
        self._sources = sources
        self._results = results
        self._settings = settings
        self._clock = clock

    async def submit(
        self, owner: str, spec: GenerationSpec, submission: Submission, *, digest: bytes
    ) -> tuple[Request, bool]:
        """Queues a valid spec. Gives the request, and whether the idempotency key had made it before.

        `digest` is that of the input as it was given. Raises QueueFull (nothing is kept), IdempotencyKeyReused, InvalidRequest
        (an inline picture cannot be read).
        """
        inline = await self._sources.read(spec)
        now = self._clock()
        request_id = new_request_id(now)
        token = hashlib.sha256(submission.idempotency_key.encode()).hexdigest() if submission.idempotency_key else ""
        if token:
            bound_id, bound_digest = await self._stores.keys.claim(owner, token, request_id, digest)
            if bound_digest != digest:
                raise IdempotencyKeyReused(bound_id)
            if bound_id != request_id:
                try:
                    return await self._resume(owner, bound_id), True
                except RequestNotFound:
                    request_id = bound_id  # claimed by a submission that died before its record
        if submission.max_waiting is not None:
            await self._check_room(submission.max_waiting, owner, token)
        request = self._new_request(owner, request_id, spec, submission, now)
        # The time in the id, not now: a submission that is repeated under its idempotency key names the same files.
        expire_time = created_at(request_id) + request.start_deadline - now + self._settings.keep_seconds
        files = inline_files(spec, owner, request_id, inline, expire_time=expire_time)
        await self._sources.store(files)
        request = replace(request, spec=files.spec)
        try:
            await self._stores.records.create(request)
        except RevisionConflict:
            try:
                return await self._resume(owner, request_id), True
            except RequestNotFound:  # the submission that was faster has been refused meanwhile
                raise QueueFull(self._settings.max_requests) from None
        try:
            await self._stores.jobs.publish(job_of(request), request.priority)
        except QueueFull:
            await self._stores.records.forget(owner, request_id)
            await self._sources.discard(files)
            if token:
                await self._stores.keys.release(owner, token)
            raise
        return request, False

    async def _check_room(self, limit: int, owner: str, token: str) -> None:
        if await self._stores.jobs.waiting() >= limit:
            if token:
                await self._stores.keys.release(owner, token)
            raise QueueFull(limit)

    def _new_request(
        self, owner: str, request_id: str, spec: GenerationSpec, submission: Submission, now: float
    ) -> Request:
        wait = self._settings.start_timeout_seconds if submission.start_timeout is None else submission.start_timeout
        return Request(
            request_id=request_id,
            owner=owner,
            spec=spec,
            state=State.QUEUED,
            priority=submission.priority,
            create_time=now,
            start_deadline=now + wait,
            runner_hint=submission.runner_hint,
            total_steps=spec.steps,
            no_retry=submission.no_retry,
            keep=0.0 if submission.keep is None else min(submission.keep, self._settings.keep_seconds),
            webhook=Webhook(submission.webhook_url) if submission.webhook_url else None,
        )

    async def _resume(self, owner: str, request_id: str) -> Request:
        """The request that an earlier submission made, which may have died before it published the job."""
        request = (await self._stores.records.get(owner, request_id)).request
        if request.state is State.QUEUED and not await self._stores.jobs.exists(request_id, request.priority):
            await self._stores.jobs.publish(job_of(request), request.priority)
        return request

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
        await self._stores.jobs.remove(ended.request_id)
        await self._stores.events.publish(ended.request_id, Event(ended.sequence, ended.end_time, ended.state))
        try:
            await self._stores.webhooks.publish(ended)
        except StoreUnavailable:  # the janitor finds it
            _log.warning("webhook not queued yet", extra={"request_id": ended.request_id})

    async def view(self, request: Request) -> RequestView:
        """Adds position, expected time and progress."""
        pictures = request.spec.num_images
        if request.state is State.QUEUED:
            position = await self._stores.jobs.position(request.request_id, request.priority)
            paces = [WorkerPace(w.seconds_per_image, w.in_flight) for w in self._stores.fleet.workers()]
            eta = None if position is None else queued_eta(position, pictures, paces)
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
        """The owner's requests, newest first, and the token of the next page or ""."""
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


def job_of(request: Request) -> Job:
    """The job that a request is queued as."""
    return Job(
        request.request_id, request.owner, request.start_deadline, request.spec.model_name, request.spec.num_images
    )
