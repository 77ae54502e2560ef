"""The work queue on a real nats-server: leases, order, exact positions, and what a kill -9 leaves."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from flashbulb_server.config import QueueSettings
from flashbulb_server.core.requests import Priority
from flashbulb_server.errors import QueueFull, StoreUnavailable
from flashbulb_server.messaging.fleet import Fleet, Herald
from flashbulb_server.messaging.jobs import JobConsumer, JobLease
from flashbulb_server.messaging.lost import LostJobs
from flashbulb_server.messaging.records import Binding, Stored
from flashbulb_server.messaging.topology import ensure_consumers, ensure_topology
from flashbulb_server.wire.records import Announcement, Job
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import OWNER, POOL, Queue, eventually, make_job, make_request, open_queue
from tests.sleeping_pipeline import SleepingPipeline

pytestmark = pytest.mark.integration
NORMAL, LOW = Priority.NORMAL, Priority.LOW


@pytest.fixture
async def queue(nats_server: RunningNats) -> AsyncIterator[Queue]:
    await forget_streams(nats_server)
    async with open_queue(nats_server, QueueSettings(lease_seconds=1, max_attempts=3)) as opened:
        yield opened


@pytest.fixture
async def consumer(queue: Queue) -> AsyncIterator[JobConsumer]:
    async with JobConsumer.open(queue.nc, [POOL]) as opened:
        yield opened


async def next_lease(consumer: JobConsumer, seconds: float = 5.0) -> JobLease:
    """The next lease; fails if there is none for so long."""
    deadline = time.monotonic() + seconds
    while (lease := await consumer.next()) is None:
        assert time.monotonic() < deadline, "no job"
    return lease


async def publish(queue: Queue, count: int, priority: Priority = NORMAL) -> list[Job]:
    jobs = [make_job() for _ in range(count)]
    for job in jobs:
        await queue.jobs.publish(job, priority)
    return jobs


async def waiting(queue: Queue) -> list[str]:
    return [job.request_id async for job in queue.jobs.jobs()]


async def test_a_job_comes_as_it_was_published(queue: Queue, consumer: JobConsumer) -> None:
    job = make_job(num_images=3)
    await queue.jobs.publish(job, NORMAL)
    lease = await next_lease(consumer)
    assert (lease.job.request_id, lease.job.owner, lease.job.model_name) == (job.request_id, job.owner, job.model_name)
    assert lease.job.num_images == 3
    assert lease.job.start_deadline == pytest.approx(job.start_deadline, abs=1e-6)
    assert lease.attempt == 1
    await lease.done()
    assert await waiting(queue) == []


async def test_a_job_is_published_once(queue: Queue) -> None:
    job = make_job()
    for _ in range(3):
        await queue.jobs.publish(job, NORMAL)
    assert await waiting(queue) == [job.request_id]


async def test_a_full_queue_refuses_and_has_room_again(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)
    async with open_queue(nats_server, QueueSettings(max_requests=3)) as queue:
        jobs = await publish(queue, 2) + await publish(queue, 1, LOW)
        refused = make_job()
        with pytest.raises(QueueFull) as caught:
            await queue.jobs.publish(refused, LOW)
        assert caught.value.metadata == {"limit": "3"}
        await queue.jobs.remove(jobs[0])
        await queue.jobs.publish(refused, LOW)
        assert set(await waiting(queue)) == {jobs[1].request_id, jobs[2].request_id, refused.request_id}


async def test_a_renewed_lease_is_kept_and_one_that_is_not_goes_to_another_in_time(
    queue: Queue, consumer: JobConsumer
) -> None:
    renewed, dropped = await publish(queue, 2)
    kept, left = await next_lease(consumer), await next_lease(consumer)
    assert (kept.job.request_id, left.job.request_id) == (renewed.request_id, dropped.request_id)

    async def renew() -> None:
        while True:
            await kept.renew()
            await asyncio.sleep(0.25)

    async with asyncio.TaskGroup() as tasks:
        renewing = tasks.create_task(renew())
        started = time.monotonic()
        again = await next_lease(consumer)
        assert 0.5 < time.monotonic() - started < 3
        assert (again.job.request_id, again.attempt) == (dropped.request_id, 2)
        await again.done()
        while time.monotonic() - started < 2.2:  # two lease times
            assert await consumer.next() is None
        renewing.cancel()
    await kept.done()
    assert await waiting(queue) == []


async def test_a_job_that_was_given_back_comes_after_the_delay_in_time(queue: Queue, consumer: JobConsumer) -> None:
    (job,) = await publish(queue, 1)
    await (await next_lease(consumer)).give_back()
    second = await next_lease(consumer)
    assert second.attempt == 2
    await second.give_back(delay=0.6)
    started = time.monotonic()
    third = await next_lease(consumer)
    assert 0.5 < time.monotonic() - started < 2.5
    assert (third.job.request_id, third.attempt) == (job.request_id, 3)
    await third.done()


async def test_a_job_that_is_removed_while_leased_does_not_come_back(queue: Queue, consumer: JobConsumer) -> None:
    removed, other = await publish(queue, 2)
    lease = await next_lease(consumer)
    await queue.jobs.remove(removed)
    await queue.jobs.remove(removed)
    assert not await queue.jobs.exists(removed, NORMAL)
    await lease.renew()
    following = await next_lease(consumer)
    assert following.job.request_id == other.request_id
    await following.done()
    assert await consumer.next() is None
    await lease.done()  # harmless


async def test_a_stale_holder_s_settlement_does_not_disturb_the_new_holder(queue: Queue, consumer: JobConsumer) -> None:
    await publish(queue, 1)
    stale = await next_lease(consumer)
    fresh = await next_lease(consumer)  # a lease time later
    assert fresh.attempt == 2
    await stale.renew()
    await fresh.done()
    await stale.give_back()
    assert await consumer.next() is None
    assert await waiting(queue) == []


async def test_with_both_waiting_one_of_eight_is_low(queue: Queue, consumer: JobConsumer) -> None:
    low = [job.request_id for job in await publish(queue, 6, LOW)]
    normal = [job.request_id for job in await publish(queue, 24)]
    order = []
    for _ in range(30):
        lease = await next_lease(consumer)
        order.append(lease.job.request_id)
        await lease.done()
    assert [i for i in order if i in low] == low
    assert [i for i in order if i in normal] == normal
    kinds = "".join("l" if i in low else "n" for i in order)
    assert all(window.count("l") <= 1 for window in (kinds[i : i + 8] for i in range(20)))
    assert kinds[:24].count("l") == 3


async def test_a_low_job_does_not_wait_for_an_idle_worker(queue: Queue, consumer: JobConsumer) -> None:
    low = await publish(queue, 5, LOW)
    assert [(await next_lease(consumer)).job.request_id for _ in low] == [job.request_id for job in low]


async def test_waiting_without_jobs_ends_after_about_a_second_in_time(consumer: JobConsumer) -> None:
    started = time.monotonic()
    assert await consumer.next() is None
    assert 0.9 < time.monotonic() - started < 1.5


async def test_a_new_job_is_picked_up_at_once_in_time(queue: Queue, consumer: JobConsumer) -> None:
    took: list[float] = []

    async def work() -> None:
        for _ in range(20):
            lease = await next_lease(consumer)
            took.append(time.monotonic() - published)
            await lease.done()
            picked.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work())
        for number in range(20):
            picked = asyncio.Event()
            await asyncio.sleep(0.01 * (number % 5))  # at any moment of the consumer's round
            published = time.monotonic()
            await queue.jobs.publish(make_job(), LOW if number % 3 == 0 else NORMAL)
            await picked.wait()
    took.sort()
    assert took[len(took) // 2] < 0.05
    assert took[-1] < 0.5, took  # not the second that a poll takes


async def test_no_delivery_is_left_lying_when_the_event_loop_is_slow(queue: Queue, consumer: JobConsumer) -> None:
    """What is delivered must be seen, however late the loop comes to it: nobody would renew the lease of another one."""

    async def hold_up() -> None:
        while True:
            time.sleep(0.012)  # noqa: ASYNC251  # on purpose
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as tasks:
        busy = tasks.create_task(hold_up())
        for _ in range(10):
            await publish(queue, 1)
            await publish(queue, 1, LOW)
            first = await next_lease(consumer)
            held = [await queue.js.consumer_info("JOBS", POOL.consumer(priority)) for priority in Priority]
            assert sum(info.num_ack_pending or 0 for info in held) == 1
            await first.done()
            await (await next_lease(consumer)).done()
        busy.cancel()


async def test_several_consumers_share_the_jobs(queue: Queue) -> None:
    jobs = {job.request_id for job in await publish(queue, 40) + await publish(queue, 20, LOW)}
    done: list[str] = []

    async def work(consumer: JobConsumer) -> int:
        count = 0
        while len(done) < 60:
            if lease := await consumer.next():
                assert lease.attempt == 1
                done.append(lease.job.request_id)
                count += 1
                await lease.done()
        return count

    async with AsyncExitStack() as stack:
        consumers = [await stack.enter_async_context(JobConsumer.open(queue.nc, [POOL])) for _ in range(4)]
        counts = await asyncio.wait_for(asyncio.gather(*(work(consumer) for consumer in consumers)), 20)
    assert sorted(done) == sorted(jobs)
    assert all(counts)


@dataclass
class Model:
    """What the queue should hold: ids that were never leased, in order; ids that were."""

    queued: dict[Priority, list[str]] = field(default_factory=lambda: {NORMAL: [], LOW: []})
    leased: dict[str, tuple[Priority, JobLease]] = field(default_factory=dict)

    def position(self, request_id: str, priority: Priority) -> int | None:
        if request_id in self.leased:
            return 0 if priority is NORMAL else len(self.queued[NORMAL])
        if request_id not in self.queued[priority]:
            return None
        before = self.queued[priority].index(request_id)
        return before if priority is NORMAL else before + len(self.queued[NORMAL])


async def test_positions_are_exact(nats_server: RunningNats) -> None:
    """Against a model, through publications, leases, redeliveries, settlements and deletions in both priorities."""
    await forget_streams(nats_server)
    dice = random.Random(20)
    model = Model()
    settings = QueueSettings(lease_seconds=60, max_attempts=100)
    async with open_queue(nats_server, settings) as queue, JobConsumer.open(queue.nc, [POOL]) as consumer:
        known: list[tuple[str, Priority]] = []
        for _ in range(60):
            for _ in range(dice.randint(1, 3)):
                await _happen(queue, consumer, model, known, dice)
            request_id, priority = dice.choice(known)
            job = make_job(request_id)
            assert await queue.jobs.position(job, priority) == model.position(request_id, priority)
            other = LOW if priority is NORMAL else NORMAL
            assert await queue.jobs.position(job, other) is None
            assert await queue.jobs.exists(job, priority) == (model.position(request_id, priority) is not None)
        held = {i for ids in model.queued.values() for i in ids} | set(model.leased)
        assert set(await waiting(queue)) == held


async def _happen(
    queue: Queue, consumer: JobConsumer, model: Model, known: list[tuple[str, Priority]], dice: random.Random
) -> None:
    """One random thing, in the queue and in the model."""
    kind = dice.choices(["publish", "lease", "give back", "done", "remove"], [8, 4, 2, 1, 2])[0]
    if kind == "publish" or not known:
        job, priority = make_job(), dice.choice([NORMAL, NORMAL, LOW])
        await queue.jobs.publish(job, priority)
        model.queued[priority].append(job.request_id)
        known.append((job.request_id, priority))
    elif kind == "lease" and any(model.queued.values()):
        lease = await next_lease(consumer)
        request_id = lease.job.request_id
        priority = next(p for i, p in known if i == request_id)
        assert lease.attempt == 1 and request_id == model.queued[priority].pop(0)
        model.leased[request_id] = (priority, lease)
    elif kind == "give back" and model.leased:
        # It is taken again at once, so that nothing waits that was leased before; others may come first.
        request_id = dice.choice(list(model.leased))
        priority, lease = model.leased[request_id]
        await lease.give_back()
        while (again := await next_lease(consumer)).job.request_id != request_id:
            other = next(p for i, p in known if i == again.job.request_id)
            assert again.job.request_id == model.queued[other].pop(0)
            model.leased[again.job.request_id] = (other, again)
        model.leased[request_id] = (priority, again)
    elif kind == "done" and model.leased:
        request_id = dice.choice(list(model.leased))
        await model.leased.pop(request_id)[1].done()
    elif kind == "remove":
        request_id, priority = dice.choice(known)
        await queue.jobs.remove(make_job(request_id))
        model.leased.pop(request_id, None)
        if request_id in model.queued[priority]:
            model.queued[priority].remove(request_id)


async def test_nothing_acknowledged_is_lost_when_nats_is_killed(own_nats_server: RunningNats) -> None:
    """A burst of submissions as the api makes them: the record, then the job."""
    recorded: list[str] = []
    queued: list[str] = []
    stop = asyncio.Event()

    async def submit_many(queue: Queue) -> None:
        while not stop.is_set():
            request = make_request()
            try:
                await queue.records.create(request)
                recorded.append(request.request_id)
                await queue.jobs.publish(make_job(request.request_id), NORMAL)
            except StoreUnavailable:
                continue
            queued.append(request.request_id)

    async with open_queue(own_nats_server) as queue, asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(submit_many(queue))
        await eventually(lambda: len(queued) >= 100)
        before = len(queued)
        await own_nats_server.restart()
        await eventually(lambda: len(queued) >= before + 20)
        stop.set()
    async with open_queue(own_nats_server) as queue:
        assert set(await queue.records.ids(OWNER)) >= set(recorded)
        assert {s.request.request_id async for s in queue.records.written_after(0)} >= set(recorded)
        found = await waiting(queue)
        assert set(found) >= set(queued)
        assert len(found) == len(set(found))


async def test_a_consumer_goes_on_after_nats_was_killed_in_time(own_nats_server: RunningNats) -> None:
    async with open_queue(own_nats_server) as queue, JobConsumer.open(queue.nc, [POOL]) as consumer:
        before, after = await publish(queue, 2)
        held = await next_lease(consumer)
        assert held.job.request_id == before.request_id
        own_nats_server.kill()
        started = time.monotonic()
        for _ in range(2):  # while it is away
            assert await consumer.next() is None
        assert time.monotonic() - started < 4
        await held.renew()
        await own_nats_server.restart()
        started = time.monotonic()
        seen = {(await next_lease(consumer)).job.request_id}
        assert time.monotonic() - started < 3
        # What was leased a moment before the kill may be delivered again; its first holder can still settle it.
        await held.done()
        while lease := await consumer.next():
            seen.add(lease.job.request_id)
        assert seen >= {after.request_id}
        assert await waiting(queue) == [after.request_id]


async def test_an_outage_leaves_no_pulls_that_take_jobs_unseen(own_nats_server: RunningNats) -> None:
    """Polls made while NATS was away must not all be served when it is back: nobody would renew those leases."""
    async with open_queue(own_nats_server, QueueSettings(lease_seconds=30)) as queue:
        await publish(queue, 30)
        async with JobConsumer.open(queue.nc, [POOL]) as consumer:
            own_nats_server.kill()
            for _ in range(2):
                await consumer.next()
            await own_nats_server.restart()
            lease = await next_lease(consumer)
            info = await queue.js.consumer_info("JOBS", POOL.consumer(NORMAL))
            assert info.num_ack_pending == 1, "leased without being held"
            await lease.done()


async def test_every_call_says_so_while_nats_is_away_in_time(own_nats_server: RunningNats) -> None:
    async with open_queue(own_nats_server) as queue, JobConsumer.open(queue.nc, [POOL]) as consumer:
        job = (await publish(queue, 1))[0]
        lease = await next_lease(consumer)
        own_nats_server.kill()
        jobs, herald = queue.jobs, Herald(queue.nc, queue.js)
        started = time.monotonic()
        outcomes = await asyncio.gather(
            jobs.publish(make_job(), NORMAL),
            jobs.position(job, NORMAL),
            jobs.exists(job, NORMAL),
            jobs.remove(job),
            jobs.at(1),
            waiting(queue),
            lease.done(),
            queue.records.get("owner", job.request_id),
            queue.records.forget(Stored(make_request(), 1, b"")),
            queue.records.ids("owner"),
            written(queue),
            queue.keys.claim("owner", "token", "id", b""),
            queue.keys.release(Binding("owner", "token", "id", b"", 1, claimed=True)),
            queue.events.backlog(job.request_id),
            queue.events.last_progress(job.request_id),
            ensure_topology(queue.js, queue.settings, replicas=1),
            ensure_consumers(queue.js, queue.settings, POOL),
            open_fleet(queue),
            LostJobs.open(queue.js),
            herald.announce(Announcement("w", "a", (), 1, 0, 0.0, False, 1.0)),
            herald.announce_models([SleepingPipeline().info]),
            return_exceptions=True,
        )
        assert time.monotonic() - started < 6.5
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * len(outcomes)
        await lease.renew()
        await lease.give_back()


async def open_fleet(queue: Queue) -> None:
    async with Fleet.open(queue.nc, queue.js):
        pass


async def written(queue: Queue) -> None:
    async for _ in queue.records.written_after(0):
        pass
