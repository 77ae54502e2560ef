"""Puts a request into the queue: its idempotency key, its inline files, its record, its job, in that order.

Any call may die between two of them, and any number of calls may carry one key at once. What was acknowledged is never taken back:

1. A record is forgotten only by the call that made it, and only while nobody has confirmed it. Whoever else acknowledges a request that
   is still queued confirms its record first.
2. A key is released only by the call that claimed it, and only while nobody has kept it. Whoever makes the record of a request that
   another call has claimed the key for keeps it first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from flashbulb_server.api.sources import InlineFiles, InlineSources, inline_files
from flashbulb_server.api.stores import Stores, job_of
from flashbulb_server.config import QueueSettings
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.ids import created_at, new_request_id
from flashbulb_server.core.requests import Request, State
from flashbulb_server.core.submission import Submission
from flashbulb_server.core.webhooks import Webhook
from flashbulb_server.errors import IdempotencyKeyReused, QueueFull, RequestNotFound
from flashbulb_server.messaging.records import Binding, RevisionConflict


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a new request is to stand: its id, and the key that it was made under, if any."""

    request_id: str
    binding: Binding | None = None


class Submitting:
    """The use-case. `clock` gives unix seconds."""

    def __init__(
        self, stores: Stores, sources: InlineSources, settings: QueueSettings, *, clock: Callable[[], float]
    ) -> None:
        self._stores = stores
        self._sources = sources
        self._settings = settings
        self._clock = clock

    async def submit(
        self, owner: str, spec: GenerationSpec, submission: Submission, *, digest: bytes
    ) -> tuple[Request, bool]:
        """Queues a valid spec. Gives the request, and whether its idempotency key had made it before.

        `digest` is that of the input as it was given. Raises QueueFull, IdempotencyKeyReused, InvalidRequest (an inline picture cannot
        be read), StoreUnavailable.
        """
        inline = await self._sources.read(spec)
        found = await self._place(owner, submission, digest)
        if isinstance(found, Request):
            return found, True
        now = self._clock()
        request = self._new_request(owner, found.request_id, spec, submission, now)
        # The time in the id, not now: a submission that is repeated under its idempotency key names the same files.
        expire_time = created_at(found.request_id) + request.start_deadline - now + self._settings.keep_seconds
        files = inline_files(spec, owner, found.request_id, inline, expire_time=expire_time)
        if submission.max_waiting is not None:
            await self._check_room(request, submission.max_waiting, found)
        await self._sources.store(files)
        return await self._enqueue(replace(request, spec=files.spec), files, found)

    async def _place(self, owner: str, submission: Submission, digest: bytes) -> _Place | Request:
        """A place for a new request, or the request that the key has made."""
        fresh = _Place(new_request_id(self._clock()))
        if not submission.idempotency_key:
            return fresh
        token = hashlib.sha256(submission.idempotency_key.encode()).hexdigest()
        while True:
            binding = await self._stores.keys.claim(owner, token, fresh.request_id, digest)
            if binding.digest != digest:
                raise IdempotencyKeyReused(binding.request_id)
            if binding.claimed:
                return replace(fresh, binding=binding)
            if request := await self._resume(owner, binding.request_id):
                return request
            # Claimed by a call that has not made its record yet, was refused, or died.
            if await self._stores.keys.keep(binding):
                return _Place(binding.request_id, binding)

    async def _resume(self, owner: str, request_id: str) -> Request | None:
        """The request that another call has made, queued if it is not yet; None if there is none (any more). Raises QueueFull."""
        while True:
            try:
                stored = await self._stores.records.get(owner, request_id)
                if stored.request.state is not State.QUEUED:
                    return stored.request
                await self._stores.jobs.publish(job_of(stored.request), stored.request.priority)
                return (await self._stores.records.confirm(stored)).request
            except RevisionConflict:
                continue
            except RequestNotFound:
                return None

    async def _enqueue(self, request: Request, files: InlineFiles, place: _Place) -> tuple[Request, bool]:
        while True:
            try:
                stored = await self._stores.records.create(request)
                break
            except RevisionConflict:  # another call with the same key was faster
                if resumed := await self._resume(request.owner, request.request_id):
                    return resumed, True
        try:
            await self._stores.jobs.publish(job_of(request), request.priority)
        except QueueFull:
            if await self._stores.records.forget(stored):
                await self._give_up(place, files)
                raise
            if resumed := await self._resume(request.owner, request.request_id):
                return resumed, True
            raise
        return request, False

    async def _check_room(self, request: Request, limit: int, place: _Place) -> None:
        if await self._stores.jobs.waiting(request.spec.model_name) >= limit:
            await self._give_up(place, None)
            raise QueueFull(limit)

    async def _give_up(self, place: _Place, files: InlineFiles | None) -> None:
        """Undoes what a refused submission has done, unless another call goes on from it; the sweeper finds files that are left then."""
        alone = place.binding is None or await self._stores.keys.release(place.binding)
        if alone and files is not None:
            await self._sources.discard(files)

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
