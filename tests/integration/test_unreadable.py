"""A message that nobody can read, of every kind there is, among two hundred good requests: they are drawn, and it is set aside."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from flashbulb_server.app.api import api
from flashbulb_server.app.worker import worker
from flashbulb_server.config import HttpSettings, QueueSettings, Settings, WebhookSettings
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.messaging.connection import connect
from flashbulb_server.wire.records import Job, encode_job
from tests.driving import SECONDS, Caller, State, refusal
from tests.integration.stage import GARBAGE, eventually
from tests.receiver import Receiver
from tests.service import apple, stubs
from tests.sleeping_pipeline import SleepingPipeline

pytestmark = [pytest.mark.integration, pytest.mark.slow]
GOOD = 200
WITH_WEBHOOK = 20
AT_ONCE = 25
OWNER, KEY = "test", "test:test-secret"
KEY_OF_A_CALL = "once"


@dataclass
class Service:
    """An api and a worker as their roles are wired, in this process, and a connection of the test's own to their NATS."""

    settings: Settings
    nc: Client
    js: JetStreamContext
    me: Caller
    jobs: list[str] = field(default_factory=list)

    async def see(self, message: Msg) -> None:
        """Callback: a job was published."""
        self.jobs.append(message.subject)

    def job_subject(self, request_id: str) -> str:
        """Where the job of a request would stand, as jobs of today are named."""
        return f"{self.jobs[0].rpartition('.')[0]}.{request_id}"

    async def worker_id(self) -> str:
        """The worker's."""
        info = await self.js.stream_info("KV_workers", subjects_filter="$KV.workers.*")
        [subject] = info.state.subjects or {}
        return subject.rpartition(".")[2]

    async def dead(self) -> Mapping[str, int]:
        """How many dead letters there are of each kind."""
        try:
            info = await self.js.stream_info("DEAD", subjects_filter="dead.>")
        except NotFoundError:
            return {}
        kinds: Counter[str] = Counter()
        for subject, count in (info.state.subjects or {}).items():
            kinds[subject.split(".")[1]] += count
        return kinds

    async def left(self, stream: str) -> int:
        """Messages in a stream."""
        return (await self.js.stream_info(stream)).state.messages

    async def draw(self, count: int, *, webhook: str = "") -> list[str]:
        """Submits so many good requests; gives their ids."""
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> str:
            async with limit:
                hook = webhook if number < WITH_WEBHOOK // 2 else ""
                return (await self.me.submit(apple(seed=number, num_inference_steps=1), webhook_url=hook)).request_id

        return list(await asyncio.gather(*(one(number) for number in range(count))))

    async def succeeded(self, ids: list[str]) -> None:
        """Waits until they have all succeeded."""

        async def all_of_them() -> bool:
            states = {r.request_id: r.state for r in (await self.me.page(page_size=200)).requests}
            return all(states.get(request_id) == State.STATE_SUCCEEDED for request_id in ids)

        await eventually(all_of_them, 60)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    chosen = settings.model_copy(
        update={
            "queue": QueueSettings(janitor_seconds=0.2, lease_seconds=2),
            "webhooks": WebhookSettings(allow_private_targets=True, lease_seconds=2),
            "http": HttpSettings(listen="127.0.0.1:0"),
        }
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(chosen, lambda _: {"sleeping": SleepingPipeline()}))
        addresses = await stack.enter_async_context(api(chosen))
        nc = await stack.enter_async_context(connect(chosen.nats, name="test"))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(addresses.grpc))
        service = Service(chosen, nc, nc.jetstream(), Caller(stubs(channel), KEY))
        await nc.subscribe("jobs.>", cb=service.see)
        await nc.flush()
        yield service


async def a_job(service: Service) -> None:
    await service.js.publish(service.job_subject(new_request_id(time.time())), GARBAGE)


async def a_record(service: Service) -> None:
    """The record of a request whose job can be read."""
    request_id = new_request_id(time.time())
    await service.js.publish(f"$KV.requests.{OWNER}.{request_id}", GARBAGE)
    job = Job(request_id, OWNER, time.time() + 600, "sleeping", 1)
    await service.js.publish(service.job_subject(request_id), encode_job(job))
    await eventually(lambda: _has(service, "record"))
    told = await refusal(service.me.status(request_id))
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "DATA_UNREADABLE")
    assert request_id not in await service.me.listed()


async def a_webhook(service: Service) -> None:
    await service.js.publish(f"webhooks.{new_request_id(time.time())}", GARBAGE)


async def a_cancellation(service: Service) -> None:
    answer = await service.nc.request(f"workers.{await service.worker_id()}.cancel", GARBAGE, timeout=SECONDS)
    assert not answer.data, "nothing was stopped"


async def a_worker(service: Service) -> None:
    await service.js.publish("$KV.workers.other", GARBAGE)


async def a_model(service: Service) -> None:
    await service.js.publish("$KV.models.6f74686572", GARBAGE)


async def an_advisory(service: Service) -> None:
    await service.js.publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS.gone", GARBAGE)
    await eventually(lambda: _is_empty(service, "LOST"))


async def an_idempotency_key(service: Service) -> None:
    token = hashlib.sha256(KEY_OF_A_CALL.encode()).hexdigest()
    await service.js.publish(f"$KV.idempotency.{OWNER}.{token}", GARBAGE)
    told = await refusal(service.me.submit(idempotency_key=KEY_OF_A_CALL))
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "DATA_UNREADABLE")


async def a_ring(service: Service) -> None:
    """The keys that webhooks are signed with; they are read when an api starts."""
    await service.js.publish("$KV.signing.ring", GARBAGE)


KINDS: Mapping[str, Callable[[Service], Awaitable[None]]] = {
    "job": a_job,
    "record": a_record,
    "webhook": a_webhook,
    "cancel": a_cancellation,
    "worker": a_worker,
    "model": a_model,
    "advisory": an_advisory,
    "key": an_idempotency_key,
    "ring": a_ring,
}


async def _is(service: Service, wanted: Mapping[str, int]) -> bool:
    return await service.dead() == wanted


async def _has(service: Service, kind: str) -> bool:
    return kind in await service.dead()


async def _is_empty(service: Service, stream: str) -> bool:
    return await service.left(stream) == 0


async def test_two_hundred_are_drawn_and_one_of_each_kind_is_set_aside(settings: Settings) -> None:
    async with open_service(settings) as service, Receiver() as receiver:
        drawn = await service.draw(GOOD // 2, webhook=receiver.url)
        for send in KINDS.values():
            await send(service)
            drawn += await service.draw(GOOD // 4 // len(KINDS))
        drawn += await service.draw(GOOD - len(drawn), webhook=receiver.url)
        await service.succeeded(drawn)
        assert len(set(drawn)) == GOOD
        await receiver.wait_for(WITH_WEBHOOK)
        async with api(service.settings):  # one that starts now finds what lies there
            await eventually(lambda: _is(service, dict.fromkeys(KINDS, 1)))
            for stream in ("JOBS", "WEBHOOKS", "LOST"):
                await eventually(lambda stream=stream: _is_empty(service, stream))
        await service.succeeded([(await service.me.submit()).request_id])
        assert await service.dead() == dict.fromkeys(KINDS, 1)
