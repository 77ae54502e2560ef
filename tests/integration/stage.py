"""What the tests of the queue stand on: requests and jobs to put into it, and its parts opened on a running nats-server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from nats.aio.client import Client
from nats.js import JetStreamContext

from flashbulb.internal.v1 import record_pb2
from flashbulb_server.config import NatsSettings, QueueSettings
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.core.requests import Priority, Request, State
from flashbulb_server.messaging.connection import connect
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.jobs import JobQueue
from flashbulb_server.messaging.records import IdempotencyKeys, RequestRecords
from flashbulb_server.messaging.topology import Pool, ensure_consumers, ensure_topology, restore_topology
from flashbulb_server.messaging.webhooks import WebhookQueue
from flashbulb_server.wire.records import Job, encode_request
from tests.embedded import RunningNats
from tests.specs import make_spec

OWNER = "test"
CLASS = "default"
MODEL = "flashbulb/tiny"
POOL = Pool(CLASS, MODEL)


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue's parts on one connection."""

    nc: Client
    js: JetStreamContext
    settings: QueueSettings
    records: RequestRecords
    keys: IdempotencyKeys
    jobs: JobQueue
    events: EventBus
    webhooks: WebhookQueue


@asynccontextmanager
async def open_queue(server: RunningNats, settings: QueueSettings | None = None) -> AsyncIterator[Queue]:
    """Opens it as a role does; what is missing is made."""
    chosen = settings or QueueSettings()
    nats = NatsSettings(url=server.url, token=server.token)
    async with connect(nats, name="test", on_restored=partial(restore_topology, replicas=1)) as nc:
        js = nc.jetstream()
        await ensure_topology(js, chosen, replicas=1)
        await ensure_consumers(js, chosen, POOL)
        yield Queue(
            nc,
            js,
            chosen,
            RequestRecords(nc, js),
            IdempotencyKeys(nc, js),
            JobQueue(nc, js, chosen, worker_class=CLASS),
            EventBus(nc, js),
            WebhookQueue(js),
        )


def make_request(owner: str = OWNER, **values: object) -> Request:
    """A request that was submitted just now, with the given values changed."""
    now = time.time()
    request = Request(
        request_id=new_request_id(now),
        owner=owner,
        spec=make_spec(),
        state=State.QUEUED,
        priority=Priority.NORMAL,
        create_time=now,
        start_deadline=now + 3600,
        total_steps=4,
    )
    return replace(request, **values)


def make_job(request_id: str = "", num_images: int = 1, model: str = MODEL) -> Job:
    """A job, of a request that need not exist."""
    now = time.time()
    return Job(request_id or new_request_id(now), OWNER, now + 3600, model, num_images)


GARBAGE = b"\xff\xff\xff\xff"
"""Neither protobuf nor JSON."""


def record_subject(request: Request) -> str:
    """Where its record stands."""
    return f"$KV.requests.{request.owner}.{request.request_id}"


async def record_of(queue: Queue, request: Request) -> bytes:
    """The record as it is stored."""
    message = await queue.js.get_last_msg("KV_requests", record_subject(request), direct=True)
    return message.data or b""


async def put_record(queue: Queue, request: Request, data: bytes = GARBAGE) -> bytes:
    """Puts something in the place of its record."""
    await queue.js.publish(record_subject(request), data)
    return data


async def put_newer_record(queue: Queue, request: Request) -> bytes:
    """Puts a record in its place that a newer release has written: in a state that is not known here."""
    record = record_pb2.RequestRecord.FromString(encode_request(request))
    record.state = 99
    return await put_record(queue, request, record.SerializeToString())


async def dead(queue: Queue) -> dict[str, int]:
    """How many dead letters there are of each kind."""
    info = await queue.js.stream_info("DEAD", subjects_filter="dead.>")
    kinds: Counter[str] = Counter()
    for subject, count in (info.state.subjects or {}).items():
        kinds[subject.split(".")[1]] += count
    return dict(kinds)


async def eventually(condition: Callable[[], Awaitable[bool] | bool], seconds: float = 10.0) -> None:
    """Waits until a condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)
