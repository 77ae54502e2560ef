"""The work queue. The api publishes, counts and removes jobs; a worker leases them, keeps the lease alive, and settles it last."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header, RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from flashbulb_server.config import QueueSettings
from flashbulb_server.core.requests import Priority
from flashbulb_server.errors import QueueFull
from flashbulb_server.messaging.connection import REQUEST_SECONDS, WRONG_LAST_SEQUENCE, unavailable
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind, Letter
from flashbulb_server.messaging.lease import Lease
from flashbulb_server.messaging.pledges import Pledges
from flashbulb_server.messaging.scan import Found, scan
from flashbulb_server.messaging.topology import JOBS, JOBS_ROOT, Pool, ensure_consumers
from flashbulb_server.wire.records import Job, decode_job, encode_job
from flashbulb_server.wire.unreadable import Unreadable

_MAX_MESSAGES_EXCEEDED = 10077
_NO_SUCH_MESSAGE = (10043, 10057)  # gone before it was looked for, or while
_LOW_SHARE = 8  # every eighth lease looks at the low priority first
_IDLE_POLL_SECONDS = 1.0  # a redelivery rings no doorbell
_STORED_SECONDS = 0.2  # longest wait for a job that was announced
_ANSWER_SECONDS = 1.0  # longest wait for the answer to a pull; the server gives it at once, unless it dies meanwhile


class JobQueue:
    """The api's side of the queue. Every method raises StoreUnavailable when NATS does not answer.

    Each model has its queues: positions and counts are those of the job's own, and no other model's jobs are in them.
    """

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        settings: QueueSettings,
        *,
        worker_class: str,
        dead: DeadLetters | None = None,
    ) -> None:
        self._nc = nc
        self._dead = dead or DeadLetters(js)
        self._js = js
        self._settings = settings
        self._class = worker_class
        self._opened: set[Pool] = set()

    def _pool(self, model_name: str) -> Pool:
        return Pool(self._class, model_name)

    async def open_pool(self, model_name: str) -> None:
        """Makes the queues of a model, so that an autoscaler sees them before the first job; once is enough."""
        pool = self._pool(model_name)
        if pool not in self._opened:
            await ensure_consumers(self._js, self._settings, pool)
            self._opened.add(pool)

    async def publish(self, job: Job, priority: Priority) -> bool:
        """Adds a job; adds nothing while it waits or is leased already. Gives whether it was added. Raises QueueFull."""
        await self.open_pool(job.model_name)
        try:
            with unavailable():
                await self._publish(self._pool(job.model_name).subject(priority, job.request_id), job)
        except APIError as err:
            if err.err_code not in WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    async def _publish(self, subject: str, job: Job) -> None:
        try:
            await self._js.publish(
                subject, encode_job(job), stream=JOBS, headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
            )
        except APIError as err:  # here: JetStream's code for it is that of an unavailable server
            if err.err_code == _MAX_MESSAGES_EXCEEDED:
                raise QueueFull(self._settings.max_requests) from err
            raise

    async def position(self, job: Job, priority: Priority) -> int | None:
        """Jobs for the same model that will be leased before this one; None if no such job waits or runs.

        Exact: what the consumer has still to deliver, less what lies behind the job.
        """
        pool = self._pool(job.model_name)
        message = await self._find(job, priority)
        if message is None:
            return None
        behind = await self._behind(message.seq or 0, pool.subject(priority))
        pending = await self._pending(pool, priority)
        ahead = max(0, pending - behind - 1)
        return ahead if priority is Priority.NORMAL else ahead + await self._pending(pool, Priority.NORMAL)

    async def waiting(self, model_name: str) -> int:
        """Jobs for a model that no worker has leased yet."""
        return sum([await self._pending(self._pool(model_name), priority) for priority in Priority])

    async def exists(self, job: Job, priority: Priority) -> bool:
        """Whether the job waits or is leased, and can be read."""
        message = await self._find(job, priority)
        if message is None:
            return False
        return await self._read(Found(message.seq or 0, message.subject or "", message.data or b"")) is not None

    async def remove(self, job: Job) -> None:
        """Takes a job out, leased or not. Idempotent.

        By sequence: after a purge by subject, the consumers' counts of what is pending, and so positions, would be wrong.
        """
        for priority in Priority:
            if (message := await self._find(job, priority)) is not None:
                await self.delete(message.seq or 0)

    async def _find(self, job: Job, priority: Priority) -> RawStreamMsg | None:
        try:
            with unavailable():
                return await self._js.get_last_msg(
                    JOBS, self._pool(job.model_name).subject(priority, job.request_id), direct=True
                )
        except NotFoundError:
            return None

    async def jobs(self) -> AsyncIterator[Job]:
        """Every job that waits or is leased and can be read, oldest first."""
        async for found in scan(self._nc, JOBS, f"{JOBS_ROOT}.>"):
            if (job := await self._read(found)) is not None:
                yield job

    async def unparted(self) -> AsyncIterator[tuple[int, Priority, Job]]:
        """(sequence, priority, job) of those that a release which did not part jobs by model has queued; no worker of this one takes them."""
        for priority in Priority:
            async for found in scan(self._nc, JOBS, f"{JOBS_ROOT}.{self._class}.{priority}.*"):
                if (job := await self._read(found)) is not None:
                    yield found.sequence, priority, job

    async def delete(self, sequence: int) -> None:
        """Takes out what stands at a sequence of the stream. Idempotent."""
        try:
            with unavailable():
                await self._js.delete_msg(JOBS, sequence)
        except APIError as err:
            if err.err_code not in _NO_SUCH_MESSAGE:  # settled or removed meanwhile
                raise

    async def at(self, sequence: int) -> Job | None:
        """The job at a sequence of the stream, or None if it is gone, or cannot be read."""
        try:
            with unavailable():
                message = await self._js.get_msg(JOBS, seq=sequence, direct=True)
        except NotFoundError:
            return None
        return await self._read(Found(sequence, message.subject or "", message.data or b""))

    async def _read(self, found: Found) -> Job | None:
        try:
            return decode_job(found.data)
        except Unreadable as err:
            if await self._dead.set_aside(Letter(Kind.JOB, found.subject, found.data, found.sequence), err):
                await self.delete(found.sequence)
            return None

    async def _pending(self, pool: Pool, priority: Priority) -> int:
        await self.open_pool(pool.model_name)
        with unavailable():
            info = await self._js.consumer_info(JOBS, pool.consumer(priority))
        return info.num_pending or 0

    async def _behind(self, sequence: int, subject: str) -> int:
        """Messages of the subject after a sequence: JetStream counts them for every direct get."""
        query = json.dumps({"seq": sequence, "next_by_subj": subject, "batch": 1}).encode()
        with unavailable():
            reply = await self._nc.request(f"$JS.API.DIRECT.GET.{JOBS}", query, timeout=REQUEST_SECONDS)
        return int((reply.headers or {}).get("Nats-Num-Pending", 0))


class JobLease(Lease):
    """A job that this worker holds. `attempt` counts deliveries from 1."""

    def __init__(self, message: Msg, pledges: Pledges) -> None:
        super().__init__(message)
        self.job = decode_job(message.data)
        self.attempt = message.metadata.num_delivered
        self._pledge = pledges.of(message.metadata.sequence.stream, message.reply)

    async def renew(self) -> None:
        """As of a lease."""
        self._pledge.write(self._message.reply)
        await super().renew()

    async def done(self) -> None:
        """As of a lease."""
        await super().done()
        self._pledge.drop()

    async def give_back(self, delay: float = 0.0) -> None:
        """As of a lease."""
        self._pledge.drop()
        await super().give_back(delay)


class JobConsumer:
    """The worker's side of the queue: takes the jobs for the worker's models.

    Normal jobs go before low ones, for whichever model; at equal priority the models take turns.
    """

    def __init__(self, nc: Client, pools: Sequence[Pool], dead: DeadLetters, pledges: Pledges) -> None:
        self._nc = nc
        self._turn = 0
        inbox = nc.new_inbox()
        self._lines = {
            priority: deque(
                _Line(pool, priority, f"{inbox}.{priority}.{i}", dead, pledges) for i, pool in enumerate(pools)
            )
            for priority in Priority
        }
        self._by_doorbell = {(line.pool.token, line.priority): line for lines in self._lines.values() for line in lines}
        self._ring_heard = asyncio.Event()
        self._looked = -math.inf

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        nc: Client,
        pools: Sequence[Pool],
        dead: DeadLetters | None = None,
        pledges: Pledges | None = None,
    ) -> AsyncIterator[JobConsumer]:
        """Listens for new jobs, and for the answers to its pulls. The pools' consumers must exist."""
        consumer = cls(nc, pools, dead or DeadLetters(nc.jetstream()), pledges or Pledges(None))
        subscriptions = []
        with unavailable():
            for line in consumer._by_doorbell.values():
                subscriptions.append(await nc.subscribe(line.pool.subject(line.priority), cb=consumer._on_ring))
                subscriptions.append(await nc.subscribe(line.inbox, cb=line.take))
        try:
            yield consumer
        finally:
            for subscription in subscriptions:
                if not nc.is_closed:
                    await subscription.unsubscribe()

    async def next(self) -> JobLease | None:
        """The next job, or None after about a second without one.

        Do not cancel it: a job that is on its way would wait for the next call, and might lose its lease by then.
        """
        self._turn += 1
        self._look_again()
        order = list(Priority) if self._turn % _LOW_SHARE else list(reversed(Priority))
        for priority in order:
            if lease := await self._first(priority):
                return lease
        if not any(line.rung for line in self._by_doorbell.values()):
            self._ring_heard.clear()
            try:
                async with asyncio.timeout(_IDLE_POLL_SECONDS):
                    await self._ring_heard.wait()
            except TimeoutError:
                return None
        return await self._awaited()

    def _look_again(self) -> None:
        """A redelivery rings no doorbell, and a ring may be missed: from time to time every line is taken to have a job."""
        now = time.monotonic()
        if now - self._looked >= _IDLE_POLL_SECONDS:
            self._looked = now
            for line in self._by_doorbell.values():
                line.promising = True

    async def _first(self, priority: Priority) -> JobLease | None:
        """A job of that priority that is there. The model that gave it is asked last the next time."""
        lines = self._lines[priority]
        for line in list(lines):
            if line.promising and (lease := await line.pull(self._nc)):
                lines.remove(line)
                lines.append(line)
                return lease
        return None

    async def _awaited(self) -> JobLease | None:
        """A job that was announced: the doorbell rings when it is published, which may be a moment before it is stored."""
        for lines in self._lines.values():
            for line in list(lines):
                if line.rung and (lease := await line.pull(self._nc, seconds=_STORED_SECONDS)):
                    return lease
        return None

    async def _on_ring(self, message: Msg) -> None:
        _, _, token, priority, _ = message.subject.split(".")
        self._by_doorbell[token, Priority(priority)].ring()
        self._ring_heard.set()


class _Line:
    """The jobs of one pool and priority. `promising`: there may be one; `rung`: jobs that were announced and did not come here yet."""

    def __init__(self, pool: Pool, priority: Priority, inbox: str, dead: DeadLetters, pledges: Pledges) -> None:
        self._dead = dead
        self._lease = partial(JobLease, pledges=pledges)
        self.pool = pool
        self.priority = priority
        self.inbox = inbox
        self.promising = True
        self.rung = 0
        self._answers: asyncio.Queue[Msg] = asyncio.Queue()

    def ring(self) -> None:
        """A job was published."""
        self.promising = True
        self.rung += 1

    async def take(self, message: Msg) -> None:
        """An answer to a pull."""
        self._answers.put_nowait(message)

    async def pull(self, nc: Client, seconds: float = 0.0) -> JobLease | None:
        """A job that can be read, which may be up to `seconds` in coming.

        Not nats-py's fetch: it gives up by its own clock, and leaves a job that comes a moment later lying without anyone to renew it.
        """
        lease = await self._pulled(nc, seconds)
        if lease is not None:
            self.rung = max(0, self.rung - 1)
        elif seconds:
            self.rung = 0  # others have had them
        return lease

    async def _pulled(self, nc: Client, seconds: float) -> JobLease | None:
        while (message := await self._answer(nc, seconds)) is not None:
            if (lease := await self._dead.opened(Kind.JOB, message, self._lease)) is not None:
                return lease
        return None

    async def _answer(self, nc: Client, seconds: float) -> Msg | None:
        while not self._answers.empty():  # late ones
            if message := _job_in(self._answers.get_nowait()):
                return message
        if not nc.is_connected:  # or all pulls of an outage would be served when it ends
            return None
        pull = {"batch": 1, "expires": int(seconds * 1e9)} if seconds else {"batch": 1, "no_wait": True}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{self.pool.consumer(self.priority)}"
        self.promising = False  # before the answer comes: a job that is published meanwhile rings
        try:
            await nc.publish(subject, json.dumps(pull).encode(), reply=self.inbox)
            async with asyncio.timeout(seconds + _ANSWER_SECONDS):
                message = _job_in(await self._answers.get())
        except (nats.errors.Error, TimeoutError):
            return None
        self.promising = self.promising or message is not None
        return message


def _job_in(message: Msg) -> Msg | None:
    """The answer to a pull, if it is a job: a status says that there is none."""
    return None if "Status" in (message.headers or {}) else message
