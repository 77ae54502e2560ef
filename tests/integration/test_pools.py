"""Jobs reach workers by model: who takes what, in which turn, and the positions of each model's own jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flashbulb_server.core.requests import Priority
from flashbulb_server.messaging.jobs import JobConsumer, JobLease
from flashbulb_server.messaging.topology import Pool, ensure_consumers
from flashbulb_server.wire.records import Job
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import CLASS, Queue, make_job, open_queue

pytestmark = pytest.mark.integration
NORMAL, LOW = Priority.NORMAL, Priority.LOW
A, B = "my/a", "my/b"


@pytest.fixture
async def queue(nats_server: RunningNats) -> AsyncIterator[Queue]:
    await forget_streams(nats_server)
    async with open_queue(nats_server) as opened:
        yield opened


@asynccontextmanager
async def consumer_of(queue: Queue, *models: str) -> AsyncIterator[JobConsumer]:
    pools = [Pool(CLASS, model) for model in models]
    for pool in pools:
        await ensure_consumers(queue.js, queue.settings, pool)
    async with JobConsumer.open(queue.nc, pools) as consumer:
        yield consumer


async def publish(queue: Queue, model: str, count: int, priority: Priority = NORMAL) -> list[Job]:
    jobs = [make_job(model=model) for _ in range(count)]
    for job in jobs:
        await queue.jobs.publish(job, priority)
    return jobs


async def take_all(consumer: JobConsumer) -> list[JobLease]:
    """Everything that is there, settled at once."""
    found = []
    while lease := await consumer.next():
        await lease.done()
        found.append(lease)
    return found


async def test_a_job_only_goes_to_a_worker_that_has_its_model(queue: Queue) -> None:
    of_a, of_b = await publish(queue, A, 20), await publish(queue, B, 20)
    async with consumer_of(queue, A) as first, consumer_of(queue, B) as second:
        taken_a, taken_b = await asyncio.gather(take_all(first), take_all(second))
    assert [lease.job.request_id for lease in taken_a] == [job.request_id for job in of_a]
    assert [lease.job.request_id for lease in taken_b] == [job.request_id for job in of_b]
    assert {lease.attempt for lease in taken_a + taken_b} == {1}


async def test_positions_count_the_jobs_of_the_own_model(queue: Queue) -> None:
    await publish(queue, A, 7)
    of_b = await publish(queue, B, 3)
    low = (await publish(queue, B, 1, LOW))[0]
    await publish(queue, A, 2)
    assert [await queue.jobs.position(job, NORMAL) for job in of_b] == [0, 1, 2]
    assert await queue.jobs.position(low, LOW) == 3
    assert (await queue.jobs.waiting(A), await queue.jobs.waiting(B)) == (9, 4)


async def test_models_take_turns_and_normal_jobs_go_before_low_ones_of_any_model(queue: Queue) -> None:
    await publish(queue, A, 4)
    await publish(queue, B, 2)
    await publish(queue, B, 1, LOW)
    async with consumer_of(queue, A, B) as consumer:
        order = [(lease.job.model_name) for lease in await take_all(consumer)]
    assert order == [A, B, A, B, A, A, B]


async def test_one_model_s_flood_does_not_keep_another_s_job_waiting(queue: Queue) -> None:
    await publish(queue, A, 30)
    async with consumer_of(queue, A, B) as consumer:
        await (await anext_lease(consumer)).done()
        await publish(queue, B, 1)
        order = [(await anext_lease(consumer)).job.model_name for _ in range(2)]
    assert B in order


async def test_a_new_job_of_any_model_rings(queue: Queue) -> None:
    async with consumer_of(queue, A, B) as consumer:
        assert await consumer.next() is None
        for model in (B, A, B):
            waiting = asyncio.ensure_future(consumer.next())  # in its wait by the time that the job comes
            await asyncio.sleep(0.05)
            (job,) = await publish(queue, model, 1)
            async with asyncio.timeout(0.5):  # not the second that a look takes
                lease = await waiting
            assert lease is not None and lease.job.request_id == job.request_id
            await lease.done()


async def test_jobs_wait_for_a_model_that_no_worker_has_yet(queue: Queue) -> None:
    (job,) = await publish(queue, A, 1)
    async with consumer_of(queue, B) as other:
        assert await other.next() is None
    assert await queue.jobs.position(job, NORMAL) == 0
    async with consumer_of(queue, A) as able:
        assert (await anext_lease(able)).job.request_id == job.request_id


@pytest.mark.parametrize(
    "name", ["flashbulb/tiny", "a.b", "a b", "a-b", "a_b", "a/b", "modèle/é", "x" * 300, "x" * 301, "*", ">", "a.*"]
)
async def test_any_name_of_a_model_makes_a_queue_of_its_own(queue: Queue, name: str) -> None:
    await publish(queue, "another", 1)
    (job,) = await publish(queue, name, 1)
    async with consumer_of(queue, name) as consumer:
        assert [lease.job.request_id for lease in await take_all(consumer)] == [job.request_id]


def test_no_two_names_share_a_token() -> None:
    names = ["a/b", "a-b", "a.b", "a b", "A/b", "x" * 64, "x" * 65, "x" * 66, "a/b-c14cddc0"]
    assert len({Pool(CLASS, name).token for name in names}) == len(names)


async def anext_lease(consumer: JobConsumer) -> JobLease:
    async with asyncio.timeout(10):
        while (lease := await consumer.next()) is None:
            pass
    return lease
