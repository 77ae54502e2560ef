"""The work queue. The api publishes, counts and removes jobs; a worker leases them, keeps the lease alive, and settles it last."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from flashbulb_server.core.requests import Priority
from flashbulb_server.errors import QueueFull
from flashbulb_server.messaging.connection import REQUEST_SECONDS, unavailable
from flashbulb_server.messaging.scan import scan
from flashbulb_server.messaging.topology import JOBS, consumer_name, job_subject
from flashbulb_server.wire.records import Job, decode_job, encode_job

_MAX_MESSAGES_EXCEEDED = 10077
_LOW_SHARE = 8  # every eighth lease looks at the low priority first
_IDLE_POLL_SECONDS = 1.0  # a redelivery rings no doorbell


class JobQueue:
    """The api's side of the queue. Every method raises StoreUnavailable when NATS does not answer."""

    def __init__(self, nc: Client, js: JetStreamContext, *, limit: int, worker_class: str = "default") -> None:
        self._nc = nc
        self._js = js
        self._limit = limit
        self._class = worker_class

    async def publish(self, job: Job, priority: Priority) -> None:
        """Adds a job; again with the same id adds nothing (within JetStream's window of two minutes). Raises QueueFull."""
        try:
            with unavailable():
                await self._js.publish(
                    job_subject(self._class, priority, job.request_id),
                    encode_job(job),
                    stream=JOBS,
                    headers={Header.MSG_ID: job.request_id},
                )
        except APIError as err:
            if err.err_code == _MAX_MESSAGES_EXCEEDED:
                raise QueueFull(self._limit) from err
            raise

    async def position(self, request_id: str, priority: Priority) -> int | None:
        """Jobs that will be leased before this one; None if no such job waits or runs.

        Exact: what the consumer has still to deliver, less what lies behind the job.
        """
        subject = job_subject(self._class, priority, request_id)
        try:
            with unavailable():
                message = await self._js.get_last_msg(JOBS, subject, direct=True)
        except NotFoundError:
            return None
        behind = await self._behind(message.seq or 0, job_subject(self._class, priority, "*"))
        pending = await self._pending(priority)
        ahead = max(0, pending - behind - 1)
        return ahead if priority is Priority.NORMAL else ahead + await self._pending(Priority.NORMAL)

    async def exists(self, request_id: str, priority: Priority) -> bool:
        """Whether the job waits or is leased."""
        try:
            with unavailable():
                await self._js.get_last_msg(JOBS, job_subject(self._class, priority, request_id), direct=True)
        except NotFoundError:
            return False
        return True

    async def remove(self, request_id: str) -> None:
        """Takes a job out, leased or not. Idempotent."""
        with unavailable():
            await self._js.purge_stream(JOBS, subject=f"jobs.*.*.{request_id}")

    async def jobs(self) -> AsyncIterator[Job]:
        """Every job that waits or is leased, oldest first."""
        async for _, data in scan(self._nc, JOBS, "jobs.>"):
            yield decode_job(data)

    async def at(self, sequence: int) -> Job | None:
        """The job at a sequence of the stream, or None if it is gone."""
        try:
            with unavailable():
                message = await self._js.get_msg(JOBS, seq=sequence, direct=True)
        except NotFoundError:
            return None
        return decode_job(message.data or b"")

    async def _pending(self, priority: Priority) -> int:
        with unavailable():
            info = await self._js.consumer_info(JOBS, consumer_name(self._class, priority))
        return info.num_pending or 0

    async def _behind(self, sequence: int, subject: str) -> int:
        """Messages of the subject after a sequence: JetStream counts them for every direct get."""
        query = json.dumps({"seq": sequence, "next_by_subj": subject, "batch": 1}).encode()
        with unavailable():
            reply = await self._nc.request(f"$JS.API.DIRECT.GET.{JOBS}", query, timeout=REQUEST_SECONDS)
        return int((reply.headers or {}).get("Nats-Num-Pending", 0))


class Lease:
    """A job that this worker holds. `attempt` counts deliveries from 1. Settle it exactly once: `done`, or `give_back`."""

    def __init__(self, message: Msg) -> None:
        self._message = message
        self.job = decode_job(message.data)
        self.attempt = message.metadata.num_delivered

    async def renew(self) -> None:
        """Says that the worker is alive; must come more often than the lease lasts. Never fails: an outage may cost the lease."""
        with suppress(nats.errors.Error):
            await self._message.in_progress()

    async def done(self) -> None:
        """Takes the job out of the queue. Comes last, after everything it stands for is stored. Raises StoreUnavailable."""
        with unavailable():
            await self._message.ack_sync(timeout=REQUEST_SECONDS)

    async def give_back(self, delay: float = 0.0) -> None:
        """Lets another worker have it, after `delay` seconds. Never fails: if it does not get through, the lease runs out by itself."""
        with suppress(nats.errors.Error):
            await self._message.nak(delay=delay or None)


class JobConsumer:
    """The worker's side of the queue."""

    def __init__(self, nc: Client, js: JetStreamContext, worker_class: str) -> None:
        self._nc = nc
        self._js = js
        self._class = worker_class
        self._turn = 0
        self._rung: asyncio.Queue[Priority] = asyncio.Queue(maxsize=1)
        self._subscriptions: dict[Priority, JetStreamContext.PullSubscription] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, nc: Client, js: JetStreamContext, worker_class: str) -> AsyncIterator[JobConsumer]:
        """Binds to the consumers and listens for new jobs."""
        consumer = cls(nc, js, worker_class)
        with unavailable():
            for priority in Priority:
                consumer._subscriptions[priority] = await js.pull_subscribe_bind(
                    durable=consumer_name(worker_class, priority), stream=JOBS
                )
            doorbell = await nc.subscribe(f"jobs.{worker_class}.*.*", cb=consumer._ring)
        try:
            yield consumer
        finally:
            await doorbell.unsubscribe()

    async def next(self) -> Lease | None:
        """The next job by priority, or None after about a second without one.

        Do not cancel it: a fetch that was cancelled leaves a pull behind that swallows the next job until its lease ends.
        """
        self._turn += 1
        order = list(Priority) if self._turn % _LOW_SHARE else list(reversed(Priority))
        for priority in order:
            if lease := await self._fetch(priority, 0.005):
                return lease
        try:
            priority = await asyncio.wait_for(self._rung.get(), _IDLE_POLL_SECONDS)
        except TimeoutError:
            return None
        # The doorbell is rung when a job is published, which may be a moment before it is stored.
        return await self._fetch(priority, 0.2)

    async def _fetch(self, priority: Priority, seconds: float) -> Lease | None:
        try:
            messages = await self._subscriptions[priority].fetch(1, timeout=seconds)
        except (nats.errors.Error, TimeoutError, APIError):
            return None
        return Lease(messages[0]) if messages else None

    async def _ring(self, message: Msg) -> None:
        if not self._rung.full():
            self._rung.put_nowait(Priority(message.subject.split(".")[2]))
