"""The janitor with the real queue: overdue, orphaned and lost requests, two janitors at once, and a store that goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from flashbulb_server.api.janitor import Janitor
from flashbulb_server.api.queueing import Queueing
from flashbulb_server.api.results import Results
from flashbulb_server.api.sources import InlineSources
from flashbulb_server.api.stores import Stores, job_of
from flashbulb_server.config import QueueSettings, WebhookSettings
from flashbulb_server.core import requests, webhooks
from flashbulb_server.core.requests import Priority, Request, State
from flashbulb_server.core.submission import Page
from flashbulb_server.core.webhooks import DeliveryState, Webhook
from flashbulb_server.errors import DataUnreadable, NewerRelease, StoreUnavailable
from flashbulb_server.messaging.fleet import Fleet, Herald
from flashbulb_server.messaging.jobs import JobConsumer
from flashbulb_server.messaging.lost import LostJobs
from flashbulb_server.messaging.topology import DELIVERIES_PER_ATTEMPT, JOBS, LOST, WEBHOOKS, ensure_topology
from flashbulb_server.messaging.webhooks import WebhookConsumer
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.wire.records import Announcement, Event, encode_job
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import (
    CLASS,
    GARBAGE,
    POOL,
    Queue,
    dead,
    eventually,
    make_job,
    make_request,
    open_queue,
    put_newer_record,
    put_record,
    record_of,
)

pytestmark = pytest.mark.integration
QUICK = QueueSettings(lease_seconds=0.5, max_attempts=1, janitor_seconds=0.1)


@dataclass
class House:
    """What a janitor cleans. `late` seconds are added to the time of day."""

    queue: Queue
    queueing: Queueing
    janitor: Janitor
    fleet: Fleet
    late: float = field(default=0.0)

    def clock(self) -> float:
        return time.time() + self.late

    async def put(self, request: Request, *, job: bool = True) -> Request:
        """A submitted request, perhaps without its job."""
        await self.queue.records.create(request)
        if job:
            await self.queue.jobs.publish(job_of(request), request.priority)
        return request

    async def now(self, request: Request) -> Request:
        return (await self.queue.records.get(request.owner, request.request_id)).request


@asynccontextmanager
async def open_house(server: RunningNats, settings: QueueSettings = QUICK) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(open_queue(server, settings))
        fleet = await stack.enter_async_context(Fleet.open(queue.nc, queue.js))
        stores = Stores(queue.records, queue.keys, queue.jobs, queue.events, fleet, queue.webhooks)
        house: House
        files = cast(FileStore, None)  # no result is presented here, and no picture submitted
        results = Results(files, url_seconds=60)
        queueing = Queueing(stores, InlineSources(files), results, settings, clock=lambda: house.clock())
        janitor = Janitor(stores, queueing, await LostJobs.open(queue.js), settings, clock=lambda: house.clock())
        house = House(queue, queueing, janitor, fleet)
        yield house


@pytest.fixture
async def house(nats_server: RunningNats) -> AsyncIterator[House]:
    await forget_streams(nats_server)
    async with open_house(nats_server) as opened:
        yield opened


async def test_an_overdue_request_is_expired_its_job_removed_and_its_watchers_told(house: House) -> None:
    now = time.time()
    overdue = await house.put(make_request(start_deadline=now + 30))
    patient = await house.put(make_request(start_deadline=now + 3000))
    async with house.queue.events.follow(overdue.request_id, previews=False) as follower:
        await house.janitor.clean()
        assert (await house.now(overdue)).state is State.QUEUED
        house.late = 60
        await house.janitor.clean()
        told = await follower.next(5)
    ended = await house.now(overdue)
    assert ended.state is State.EXPIRED
    assert ended.failure is not None and ended.failure.reason == "START_TIMEOUT"
    assert told == Event(ended.sequence, ended.end_time, State.EXPIRED)
    assert not await house.queue.jobs.exists(job_of(overdue), Priority.NORMAL)
    assert await house.queue.jobs.exists(job_of(patient), Priority.NORMAL)
    assert (await house.now(patient)).state is State.QUEUED


async def test_a_running_request_does_not_expire(house: House) -> None:
    request = await house.put(make_request(start_deadline=time.time() + 30))
    await house.queue.records.change(
        request.owner, request.request_id, lambda r: requests.start(r, worker_id="w", now=time.time())
    )
    house.late = 60
    await house.janitor.clean()
    assert (await house.now(request)).state is State.RUNNING
    assert await house.queue.jobs.exists(job_of(request), Priority.NORMAL)


async def test_an_overdue_job_without_a_record_is_removed(house: House) -> None:
    request = make_request(start_deadline=time.time() - 1)
    await house.queue.jobs.publish(job_of(request), Priority.LOW)
    await house.janitor.clean()
    assert not await house.queue.jobs.exists(job_of(request), Priority.LOW)


async def test_a_request_without_a_job_gets_one_when_it_is_no_longer_young(house: House) -> None:
    orphan = await house.put(make_request(priority=Priority.LOW), job=False)
    whole = await house.put(make_request())
    cancelled = await house.put(make_request(), job=False)
    await house.janitor.clean()
    assert not await house.queue.jobs.exists(job_of(orphan), Priority.LOW)
    await house.queueing.cancel(cancelled.owner, cancelled.request_id)
    house.late = 11
    await house.janitor.clean()
    assert await house.queue.jobs.exists(job_of(orphan), Priority.LOW)
    assert not await house.queue.jobs.exists(job_of(cancelled), Priority.NORMAL)
    await house.janitor.clean()
    found = [job.request_id async for job in house.queue.jobs.jobs()]
    assert sorted(found) == sorted([orphan.request_id, whole.request_id])


async def test_a_repair_that_finds_the_queue_full_is_tried_again(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)
    settings = QueueSettings(max_requests=1, janitor_seconds=0.05)
    async with open_house(nats_server, settings) as house, asyncio.TaskGroup() as tasks:
        filler = make_job()
        await house.queue.jobs.publish(filler, Priority.NORMAL)
        orphan = await house.put(make_request(), job=False)
        house.late = 11
        running = tasks.create_task(house.janitor.run())
        await asyncio.sleep(0.2)  # some rounds in vain
        assert not await house.queue.jobs.exists(job_of(orphan), Priority.NORMAL)
        await house.queue.jobs.remove(filler)
        await eventually(lambda: house.queue.jobs.exists(job_of(orphan), Priority.NORMAL))
        running.cancel()


async def ended_with_webhook(house: House) -> Request:
    """A request that has failed, as its worker died before it made the webhook due."""
    request = await house.put(make_request(webhook=Webhook("https://example.org/hook")))
    await house.queue.jobs.remove(job_of(request))
    failure = requests.Failure("ENGINE_FAILED", "")
    _, ended = await house.queue.records.change(
        request.owner, request.request_id, lambda r: requests.fail(r, failure, now=time.time(), keep=600)
    )
    return ended


async def test_a_webhook_that_nobody_queued_is_queued(house: House) -> None:
    forgotten, queued, delivered = [await ended_with_webhook(house) for _ in range(3)]
    await house.queue.webhooks.publish(queued)
    done = replace(delivered.webhook, state=DeliveryState.DELIVERED)
    await house.queue.records.change(
        delivered.owner, delivered.request_id, lambda r: requests.deliver(r, lambda _: done)
    )
    await house.janitor.clean()
    assert not await house.queue.webhooks.holds(forgotten)  # its worker may be about to
    house.late = 11
    await house.janitor.clean()
    assert await house.queue.webhooks.holds(forgotten)
    assert (await house.queue.js.stream_info(WEBHOOKS)).state.messages == 2


async def test_a_redelivery_that_was_not_queued_is_queued(house: House) -> None:
    ended = await ended_with_webhook(house)
    await house.queue.webhooks.publish(ended)  # of the first series, which waits for its next attempt
    house.late = 11
    await house.janitor.clean()
    _, renewed = await house.queue.records.change(
        ended.owner, ended.request_id, lambda r: requests.deliver(r, webhooks.renewed)
    )
    assert not await house.queue.webhooks.holds(renewed)
    await house.janitor.clean()
    assert await house.queue.webhooks.holds(renewed)


async def test_a_webhook_waits_for_room_in_a_full_queue(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)
    async with open_house(nats_server) as house:
        await ensure_topology(house.queue.js, QUICK, WebhookSettings(max_waiting=1), replicas=1)
        first, second = [await ended_with_webhook(house) for _ in range(2)]
        await house.queue.webhooks.publish(first)
        house.late = 11
        with pytest.raises(StoreUnavailable):
            await house.janitor.clean()
        await house.queue.js.purge_stream(WEBHOOKS)
        await house.janitor.clean()
        assert await house.queue.webhooks.holds(second)


@pytest.mark.parametrize("how", ["cancel", "expire"])
async def test_what_the_api_ends_makes_its_webhook_due(house: House, how: str) -> None:
    request = await house.put(make_request(webhook=Webhook("https://a.example/"), start_deadline=time.time() + 30))
    if how == "cancel":
        await house.queueing.cancel(request.owner, request.request_id)
    else:
        house.late = 60
        await house.janitor.clean()
    assert (await house.now(request)).owes_webhook
    assert await house.queue.webhooks.holds(request)


async def lose(house: House, request: Request, *, give_back: bool = False) -> None:
    """Leases a job as often as it may be, and never settles it. JetStream tells of it when somebody asks for more.

    `give_back` saves waiting for the leases to run out, the last one excepted.
    """

    async def told() -> int:
        return (await house.queue.js.stream_info(LOST)).state.messages

    before, leased = await told(), 0
    async with JobConsumer.open(house.queue.nc, [POOL]) as consumer:
        while await told() == before:
            if (lease := await consumer.next()) is not None:
                assert lease.job.request_id == request.request_id
                leased += 1
                if give_back and leased < DELIVERIES_PER_ATTEMPT * QUICK.max_attempts:
                    await lease.give_back()
    assert leased == DELIVERIES_PER_ATTEMPT * QUICK.max_attempts


async def test_a_job_that_was_delivered_too_often_fails_its_request(house: House) -> None:
    lost, other = await house.put(make_request()), make_request()
    await house.queue.records.change(
        lost.owner, lost.request_id, lambda r: requests.start(r, worker_id="w", now=time.time())
    )
    async with house.queue.events.follow(lost.request_id, previews=False) as follower:
        await lose(house, lost)
        assert await house.queue.jobs.exists(job_of(lost), Priority.NORMAL)  # JetStream leaves it there
        await house.put(other)
        await eventually(lambda: _cleaned(house, lost))
        told = await follower.next(5)
    ended = await house.now(lost)
    assert ended.state is State.FAILED
    assert ended.failure is not None and ended.failure.reason == "WORKER_LOST"
    assert told == Event(ended.sequence, ended.end_time, State.FAILED)
    assert not await house.queue.jobs.exists(job_of(lost), Priority.NORMAL)
    assert await house.queue.jobs.exists(job_of(other), Priority.NORMAL)


async def _cleaned(house: House, request: Request) -> bool:
    await house.janitor.clean()
    return (await house.now(request)).state.terminal


async def test_a_lost_job_of_an_ended_request_is_removed(house: House) -> None:
    ended = await house.put(make_request())
    await lose(house, ended, give_back=True)
    await house.queue.records.change(
        ended.owner,
        ended.request_id,
        lambda r: requests.fail(r, requests.Failure("ENGINE_FAILED", ""), now=time.time(), keep=60),
    )

    async def removed() -> bool:
        await house.janitor.clean()
        return not await house.queue.jobs.exists(job_of(ended), Priority.NORMAL)

    await eventually(removed)
    failure = (await house.now(ended)).failure
    assert failure is not None and failure.reason == "ENGINE_FAILED"


async def test_two_janitors_do_no_harm(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)
    async with open_house(nats_server) as one, open_house(nats_server) as two, asyncio.TaskGroup() as tasks:
        overdue = [await one.put(make_request(start_deadline=time.time() + 30)) for _ in range(10)]
        orphans = [await one.put(make_request(), job=False) for _ in range(10)]
        lost = await one.put(make_request())
        for request in [*overdue]:
            await one.queue.jobs.remove(job_of(request))  # the one lease must be the lost one's
        await lose(one, lost, give_back=True)
        for request in overdue:
            await one.queue.jobs.publish(job_of(request), request.priority)
        one.late = two.late = 60
        running = [tasks.create_task(house.janitor.run()) for house in (one, two)]

        async def clean() -> bool:
            states = [(await one.now(r)).state for r in overdue]
            repaired = [await one.queue.jobs.exists(job_of(r), r.priority) for r in orphans]
            return set(states) == {State.EXPIRED} and all(repaired) and (await one.now(lost)).state is State.FAILED

        await eventually(clean)
        for task in running:
            assert not task.done()
            task.cancel()
        found = [job.request_id async for job in one.queue.jobs.jobs()]
        assert sorted(found) == sorted(r.request_id for r in orphans)


async def test_a_store_that_goes_away_is_waited_for(own_nats_server: RunningNats) -> None:
    async with open_house(own_nats_server) as house, asyncio.TaskGroup() as tasks:
        orphan = await house.put(make_request(), job=False)
        overdue = await house.put(make_request(start_deadline=time.time() + 30))
        running = tasks.create_task(house.janitor.run())
        await asyncio.sleep(0.3)
        own_nats_server.kill()
        await eventually(lambda: not house.queue.nc.is_connected)
        house.late = 60
        await asyncio.sleep(0.3)
        await own_nats_server.restart()
        await eventually(lambda: house.queue.nc.is_connected)

        async def clean() -> bool:
            repaired = await house.queue.jobs.exists(job_of(orphan), Priority.NORMAL)
            return repaired and (await house.now(overdue)).state is State.EXPIRED

        await eventually(clean, 15)
        assert not running.done()
        running.cancel()


async def put_unparted(house: House, request: Request) -> Request:
    """As a release put it that did not part jobs by model."""
    await house.queue.records.create(request)
    subject = f"jobs.{CLASS}.{request.priority}.{request.request_id}"
    await house.queue.js.publish(subject, encode_job(job_of(request)), stream="JOBS")
    return request


async def test_jobs_of_a_release_that_did_not_part_them_are_moved_once(house: House) -> None:
    queued = await put_unparted(house, make_request())
    low = await put_unparted(house, make_request(priority=Priority.LOW))
    ended = await put_unparted(house, make_request())
    await house.queueing.cancel(ended.owner, ended.request_id)
    for _ in range(2):
        await house.janitor.clean()
    assert await house.queue.jobs.exists(job_of(queued), Priority.NORMAL)
    assert await house.queue.jobs.exists(job_of(low), Priority.LOW)
    found = [job.request_id async for job in house.queue.jobs.jobs()]
    assert sorted(found) == sorted([queued.request_id, low.request_id])


async def test_a_job_that_a_worker_of_such_a_release_holds_is_left_to_it_while_it_lives(house: House) -> None:
    request = await put_unparted(house, make_request())
    await house.queue.records.change(
        request.owner, request.request_id, lambda r: requests.start(r, worker_id="old", now=time.time())
    )
    herald = Herald(house.queue.nc, house.queue.js)
    await herald.announce(Announcement("old", "127.0.0.1:1", (), 1, 0, 0.0, False, 1.0))
    await eventually(lambda: bool(house.fleet.workers()))
    await house.janitor.clean()
    assert not await house.queue.jobs.exists(job_of(request), Priority.NORMAL)
    await herald.announce(Announcement("old", "127.0.0.1:1", (), 1, 0, 0.0, True, 1.0))
    await eventually(lambda: not house.fleet.workers())
    await house.janitor.clean()
    assert await house.queue.jobs.exists(job_of(request), Priority.NORMAL)


async def forget_soon(house: House) -> None:
    """Lets JetStream forget soon which webhooks it has had."""
    config = (await house.queue.js.stream_info(WEBHOOKS)).config
    await house.queue.js.update_stream(replace(config, duplicate_window=0.3))


async def damage(house: House, stream: str) -> None:
    """Puts something that nobody can read in the place of the stream's last message."""
    last = await house.queue.js.get_msg(stream, (await house.queue.js.stream_info(stream)).state.last_seq)
    assert last.subject is not None and last.seq is not None
    await house.queue.js.delete_msg(stream, last.seq)
    await house.queue.js.publish(last.subject, GARBAGE)


async def test_a_request_whose_job_could_not_be_read_gets_another_one(house: House) -> None:
    request = await house.put(make_request(priority=Priority.LOW))
    house.late = 11
    await house.janitor.clean()  # it is in order
    await damage(house, JOBS)
    async with JobConsumer.open(house.queue.nc, [POOL]) as consumer:
        assert await consumer.next() is None

        async def leased() -> bool:
            await house.janitor.clean()
            lease = await consumer.next()
            return lease is not None and lease.job.request_id == request.request_id

        await eventually(leased)
    assert await dead(house.queue) == {"job": 1}


async def test_a_job_that_cannot_be_read_does_not_stand_for_one(house: House) -> None:
    request = await house.put(make_request(priority=Priority.LOW))
    await damage(house, JOBS)
    house.late = 11
    await house.janitor.clean()  # before any worker has met it
    assert [job.request_id async for job in house.queue.jobs.jobs()] == [request.request_id]
    assert await dead(house.queue) == {"job": 1}


async def test_a_webhook_whose_message_could_not_be_read_gets_another_one(house: House) -> None:
    ended = await ended_with_webhook(house)
    await house.queue.webhooks.publish(ended)
    house.late = 11
    await house.janitor.clean()
    await damage(house, WEBHOOKS)
    assert not await house.queue.webhooks.holds(ended)
    async with WebhookConsumer.open(house.queue.nc) as consumer:
        assert await consumer.next() is None
        for _ in range(2):
            await house.janitor.clean()
        assert not await house.queue.webhooks.holds(ended)
        await forget_soon(house)

        async def due() -> bool:
            await house.janitor.clean()
            return await house.queue.webhooks.holds(ended)

        await eventually(due)
        lease = await consumer.next()
        assert lease is not None and lease.webhook.request_id == ended.request_id
    assert await dead(house.queue) == {"webhook": 1}


async def test_what_is_of_a_newer_release_is_left_to_that(house: House) -> None:
    """And what lies behind it is seen to."""
    start_deadline = time.time() + 30
    newer, orphan, overdue = [
        await house.put(make_request(start_deadline=start_deadline), job=job) for job in (True, False, True)
    ]
    hooked = await ended_with_webhook(house)
    left = {request.request_id: await put_newer_record(house.queue, request) for request in (newer, orphan, hooked)}
    house.late = 60
    for _ in range(2):
        await house.janitor.clean()
    assert (await house.now(overdue)).state is State.EXPIRED
    for request in (newer, orphan, hooked):
        assert await record_of(house.queue, request) == left[request.request_id]
        with pytest.raises(NewerRelease):
            await house.queueing.status(request.owner, request.request_id)
        with pytest.raises(NewerRelease):
            await house.queueing.cancel(request.owner, request.request_id)
    assert [job.request_id async for job in house.queue.jobs.jobs()] == [newer.request_id]
    assert not await house.queue.webhooks.holds(hooked)
    found, _ = await house.queueing.list(overdue.owner, Page())
    assert [request.request_id for request in found] == [overdue.request_id]
    assert await dead(house.queue) == {}


async def test_an_overdue_job_whose_record_cannot_be_read_is_removed(house: House) -> None:
    start_deadline = time.time() + 30
    damaged, overdue = [await house.put(make_request(start_deadline=start_deadline)) for _ in range(2)]
    await put_record(house.queue, damaged)
    house.late = 60
    await house.janitor.clean()
    assert [job async for job in house.queue.jobs.jobs()] == []
    assert (await house.now(overdue)).state is State.EXPIRED
    with pytest.raises(DataUnreadable):
        await house.queueing.status(damaged.owner, damaged.request_id)
    found, _ = await house.queueing.list(overdue.owner, Page())
    assert [request.request_id for request in found] == [overdue.request_id]
    assert await dead(house.queue) == {"record": 1}


async def test_a_lost_job_of_a_newer_release_is_told_of_again(house: House) -> None:
    newer = await house.put(make_request())
    await lose(house, newer, give_back=True)
    left = await put_newer_record(house.queue, newer)
    lost = await house.put(make_request())
    for _ in range(2):
        await house.janitor.clean()
    assert (await house.queue.js.stream_info(LOST)).state.messages == 1
    assert await house.queue.jobs.exists(job_of(newer), Priority.NORMAL)
    assert await record_of(house.queue, newer) == left
    assert (await house.now(lost)).state is State.QUEUED


@pytest.mark.parametrize("data", [GARBAGE, b"[]", b"{}", b'{"stream_seq": "1"}'])
async def test_an_advisory_that_cannot_be_read_is_set_aside(house: House, data: bytes) -> None:
    await house.queue.js.publish(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{JOBS}.x", data)
    overdue = await house.put(make_request(start_deadline=time.time() + 30))
    house.late = 60
    await house.janitor.clean()
    assert (await house.now(overdue)).state is State.EXPIRED
    assert (await house.queue.js.stream_info(LOST)).state.messages == 0
    assert await dead(house.queue) == {"advisory": 1}
