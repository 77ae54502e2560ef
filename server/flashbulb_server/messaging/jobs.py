"""The work queue. The api publishes, counts and removes jobs; a worker leases them, keeps the lease alive, and settles it last."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from flashbulb_server.core.requests import Priority
from flashbulb_server.errors import QueueFull
from flashbulb_server.messaging.connection import REQUEST_SECONDS, unavailable
from flashbulb_server.messaging.lease import Lease
from flashbulb_server.messaging.scan import scan
from flashbulb_server.messaging.topology import JOBS, consumer_name, job_subject
from flashbulb_server.wire.records import Job, decode_job, encode_job

_MAX_MESSAGES_EXCEEDED = 10077
_NO_SUCH_MESSAGE = (10043, 10057)  # gone before it was looked for, or while
_LOW_SHARE = 8  # every eighth lease looks at the low priority first
_IDLE_POLL_SECONDS = 1.0  # a redelivery rings no doorbell
_ANSWER_SECONDS = 1.0  # longest wait for the answer to a pull; the server gives it at once, unless it dies meanwhile


class JobQueue:
    """The api's side of the queue. Every method raises StoreUnavailable when NATS does not answer."""

    def __init__(self, nc: Client, js: JetStreamContext, *, limit: int, worker_class: str = "default") -> None:
        self._nc = nc
        self._js = js
        self._limit = limit
        self._class = worker_class

    async def publish(self, job: Job, priority: Priority) -> None:
        """Adds a job; again with the same id adds nothing (within JetStream's window of two minutes). Raises QueueFull."""
        with unavailable():
            try:
                await self._js.publish(
                    job_subject(self._class, priority, job.request_id),
                    encode_job(job),
                    stream=JOBS,
                    headers={Header.MSG_ID: job.request_id},
                )
            except APIError as err:  # inside: JetStream's code for it is that of an unavailable server
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

    async def waiting(self) -> int:
        """Jobs that no worker has leased yet."""
        return sum([await self._pending(priority) for priority in Priority])

    async def exists(self, request_id: str, priority: Priority) -> bool:
        """Whether the job waits or is leased."""
        try:
            with unavailable():
                await self._js.get_last_msg(JOBS, job_subject(self._class, priority, request_id), direct=True)
        except NotFoundError:
            return False
        return True

    async def remove(self, request_id: str) -> None:
        """Takes a job out, leased or not. Idempotent.

        By sequence: after a purge by subject, the consumers' counts of what is pending, and so positions, would be wrong.
        """
        for priority in Priority:
            with unavailable():
                try:
                    message = await self._js.get_last_msg(
                        JOBS, job_subject(self._class, priority, request_id), direct=True
                    )
                    await self._js.delete_msg(JOBS, message.seq or 0)
                except NotFoundError:
                    continue
                except APIError as err:
                    if err.err_code not in _NO_SUCH_MESSAGE:  # settled or removed meanwhile
                        raise

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


class JobLease(Lease):
    """A job that this worker holds. `attempt` counts deliveries from 1."""

    def __init__(self, message: Msg) -> None:
        super().__init__(message)
        self.job = decode_job(message.data)
        self.attempt = message.metadata.num_delivered


class JobConsumer:
    """The worker's side of the queue."""

    def __init__(self, nc: Client, worker_class: str) -> None:
        self._nc = nc
        self._class = worker_class
        self._turn = 0
        self._rung: asyncio.Queue[Priority] = asyncio.Queue(maxsize=1)
        self._inbox = nc.new_inbox()
        self._answers: dict[Priority, asyncio.Queue[Msg]] = {priority: asyncio.Queue() for priority in Priority}

    @classmethod
    @asynccontextmanager
    async def open(cls, nc: Client, worker_class: str) -> AsyncIterator[JobConsumer]:
        """Listens for new jobs, and for the answers to its pulls."""
        consumer = cls(nc, worker_class)
        with unavailable():
            subscriptions = [await nc.subscribe(f"jobs.{worker_class}.*.*", cb=consumer._ring)]
            for priority in Priority:
                subscriptions.append(await nc.subscribe(f"{consumer._inbox}.{priority}", cb=consumer._take(priority)))
        try:
            yield consumer
        finally:
            for subscription in subscriptions:
                if not nc.is_closed:
                    await subscription.unsubscribe()

    async def next(self) -> JobLease | None:
        """The next job by priority, or None after about a second without one.

        Do not cancel it: a job that is on its way would wait for the next call, and might lose its lease by then.
        """
        self._turn += 1
        order = list(Priority) if self._turn % _LOW_SHARE else list(reversed(Priority))
        for priority in order:
            if lease := await self._pull(priority):
                return lease
        try:
            async with asyncio.timeout(_IDLE_POLL_SECONDS):
                priority = await self._rung.get()
        except TimeoutError:
            return None
        if priority is Priority.LOW and (lease := await self._pull(Priority.NORMAL)):
            return lease  # it has come as well by now, and goes first
        # The doorbell is rung when a job is published, which may be a moment before it is stored.
        return await self._pull(priority, seconds=0.2)

    async def _pull(self, priority: Priority, seconds: float = 0.0) -> JobLease | None:
        """A job, which may be up to `seconds` in coming.

        Not nats-py's fetch: it gives up by its own clock, and leaves a job that comes a moment later lying without anyone to renew it.
        """
        answers = self._answers[priority]
        while not answers.empty():  # late ones
            if lease := _lease(answers.get_nowait()):
                return lease
        if not self._nc.is_connected:  # or all pulls of an outage would be served when it ends
            return None
        pull = {"batch": 1, "expires": int(seconds * 1e9)} if seconds else {"batch": 1, "no_wait": True}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{consumer_name(self._class, priority)}"
        try:
            await self._nc.publish(subject, json.dumps(pull).encode(), reply=f"{self._inbox}.{priority}")
            async with asyncio.timeout(seconds + _ANSWER_SECONDS):
                return _lease(await answers.get())
        except (nats.errors.Error, TimeoutError):
            return None

    def _take(self, priority: Priority) -> Callable[[Msg], Awaitable[None]]:
        async def take(message: Msg) -> None:
            self._answers[priority].put_nowait(message)

        return take

    async def _ring(self, message: Msg) -> None:
        if not self._rung.full():
            self._rung.put_nowait(Priority(message.subject.split(".")[2]))


def _lease(message: Msg) -> JobLease | None:
    """The job in the answer to a pull, if it is one: a status says that there is none."""
    return None if "Status" in (message.headers or {}) else JobLease(message)
