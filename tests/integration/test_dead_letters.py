"""What nobody can read: kept once, told of once, taken out of its queue, and in nobody's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flashbulb.internal.v1 import record_pb2
from flashbulb_server.config import QueueSettings
from flashbulb_server.core.key_ring import SigningKey
from flashbulb_server.core.requests import Priority
from flashbulb_server.errors import DataUnreadable, NewerRelease
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind, Letter, dead_letters
from flashbulb_server.messaging.jobs import JobConsumer
from flashbulb_server.messaging.records import RequestRecords
from flashbulb_server.messaging.signing import SigningKeys
from flashbulb_server.messaging.topology import DEAD, JOBS, ensure_topology
from flashbulb_server.messaging.webhooks import WebhookConsumer
from flashbulb_server.wire.unreadable import Unreadable
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import (
    GARBAGE,
    OWNER,
    POOL,
    Queue,
    dead,
    eventually,
    make_job,
    make_request,
    open_queue,
    put_record,
)

pytestmark = pytest.mark.integration
PROBLEM = Unreadable("it is no Job")
LEASE_SECONDS = 0.5


def told(caplog: pytest.LogCaptureFixture) -> int:
    """How often it was logged that something is set aside."""
    return sum("is set aside" in record.message for record in caplog.records)


async def put_garbage(queue: Queue) -> str:
    """A job that cannot be read, under the subject of a good one; gives the subject."""
    job = make_job()
    await queue.jobs.publish(job, Priority.NORMAL)
    [subject] = [s for s in await job_subjects(queue) if s.endswith(job.request_id)]
    await queue.jobs.remove(job)
    await queue.js.publish(subject, GARBAGE)
    return subject


async def job_subjects(queue: Queue) -> list[str]:
    info = await queue.js.stream_info(JOBS, subjects_filter="jobs.>")
    return list(info.state.subjects or {})


async def jobs_left(queue: Queue) -> int:
    return (await queue.js.stream_info(JOBS)).state.messages


async def is_left(queue: Queue, count: int) -> bool:
    return await jobs_left(queue) == count


@asynccontextmanager
async def quick_queue(server: RunningNats) -> AsyncIterator[Queue]:
    """A queue whose leases soon run out."""
    await forget_streams(server)
    async with open_queue(server, QueueSettings(lease_seconds=LEASE_SECONDS)) as queue:
        yield queue


async def test_it_is_kept_with_all_that_is_known_of_it(queue: Queue) -> None:
    letters = DeadLetters(queue.js, clock=lambda: 1_700_000_000.0)
    assert await letters.set_aside(Letter(Kind.JOB, "jobs.default.normal.x", GARBAGE, 7), PROBLEM)
    kept = await queue.js.get_last_msg(DEAD, "dead.job.jobs.default.normal.x")
    assert kept.data == GARBAGE
    assert kept.headers is not None
    headers = {name: value for name, value in kept.headers.items() if name.startswith("Flashbulb-")}
    assert headers.pop("Flashbulb-Release")
    assert headers == {
        "Flashbulb-Problem": "it is no Job",
        "Flashbulb-Bytes": "4",
        "Flashbulb-Time": "2023-11-14T22:13:20+00:00",
    }


async def test_every_process_tells_of_it_once_and_all_keep_it_once(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = DeadLetters(queue.js), DeadLetters(queue.js)
    letter = Letter(Kind.RECORD, "$KV.requests.a.b", GARBAGE, 7)
    for letters in (one, two, one, two):
        assert await letters.set_aside(letter, PROBLEM)
    assert await dead(queue) == {"record": 1}
    assert one.counts == two.counts == {Kind.RECORD: 1}
    assert told(caplog) == 2
    assert await one.set_aside(Letter(Kind.RECORD, letter.subject, GARBAGE, 8), PROBLEM)  # another, in its place
    assert await dead(queue) == {"record": 2}


async def test_what_comes_again_and_again_is_counted_and_kept_once(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    letters = DeadLetters(queue.js)
    for number in range(5):
        await letters.set_aside(Letter(Kind.WORKER, "$KV.workers.x", GARBAGE + b"%d" % number), PROBLEM)
    assert letters.counts == {Kind.WORKER: 5}
    assert (await dead(queue), told(caplog)) == ({"worker": 1}, 1)


async def test_of_a_long_one_the_beginning_is_kept(queue: Queue) -> None:
    long = b"\xff" * 1_000_000
    assert await DeadLetters(queue.js).set_aside(Letter(Kind.JOB, "jobs.x", long, 1), PROBLEM)
    kept = await queue.js.get_last_msg(DEAD, "dead.job.jobs.x")
    assert kept.data and long.startswith(kept.data)
    assert kept.headers is not None and kept.headers["Flashbulb-Bytes"] == "1000000"


async def test_private_keys_are_not_shown_around(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await queue.js.publish("$KV.signing.ring", b"\xffsecret")
    ring = await SigningKeys(queue.js).change(lambda ring: (make_key(),) if ring is None else ring)
    assert ring == (make_key(),) == await SigningKeys(queue.js).change(lambda ring: ring or ())
    kept = await queue.js.get_last_msg(DEAD, "dead.ring.$KV.signing.ring")
    assert not kept.data
    assert "secret" not in caplog.text


def make_key() -> SigningKey:
    return SigningKey(bytes(32), 5.0, 5.0)


async def test_keys_of_a_newer_release_are_not_replaced(queue: Queue) -> None:
    key = record_pb2.SigningKey()
    key.MergeFromString(b"\xa2\x06\x03new")  # field 100
    newer = record_pb2.SigningKeyRing(keys=[key]).SerializeToString()
    await queue.js.publish("$KV.signing.ring", newer)
    with pytest.raises(NewerRelease):
        await SigningKeys(queue.js).change(lambda _: (make_key(),))
    assert (await queue.js.get_last_msg("KV_signing", "$KV.signing.ring", direct=True)).data == newer
    assert await dead(queue) == {}


async def test_a_hundred_bad_jobs_hold_up_a_good_one_for_no_turn(queue: Queue) -> None:
    for _ in range(100):
        await put_garbage(queue)
    good = make_job()
    await queue.jobs.publish(good, Priority.NORMAL)
    letters = DeadLetters(queue.js)
    async with JobConsumer.open(queue.nc, [POOL], letters) as consumer:
        lease = await consumer.next()
        assert lease is not None and lease.job.request_id == good.request_id
        await lease.done()
        await eventually(lambda: is_left(queue, 0))
        assert await consumer.next() is None
    assert letters.counts == {Kind.JOB: 100}
    assert await dead(queue) == {"job": 100}


async def test_what_cannot_be_kept_stays_in_its_queue_and_comes_again_at_its_time(nats_server: RunningNats) -> None:
    async with quick_queue(nats_server) as queue:
        await queue.js.delete_stream(DEAD)
        await put_garbage(queue)
        good = make_job()
        await queue.jobs.publish(good, Priority.NORMAL)
        letters = DeadLetters(queue.js)
        async with JobConsumer.open(queue.nc, [POOL], letters) as consumer:
            lease = await consumer.next()
            assert lease is not None and lease.job.request_id == good.request_id
            await lease.done()
            assert await jobs_left(queue) == 1
            assert await consumer.next() is None  # it is leased, and not asked for in a loop
            await ensure_topology(queue.js, queue.settings, replicas=1)
            deliveries = 0
            while await jobs_left(queue):
                assert await consumer.next() is None
                deliveries += 1
                assert deliveries < 10
        assert letters.counts == {Kind.JOB: 1}
        assert await dead(queue) == {"job": 1}


async def test_the_api_s_look_at_the_queue_passes_over_it_and_takes_it_out(queue: Queue) -> None:
    first, last = make_job(), make_job()
    await queue.jobs.publish(first, Priority.NORMAL)
    await put_garbage(queue)
    await queue.jobs.publish(last, Priority.LOW)
    assert [job.request_id async for job in queue.jobs.jobs()] == [first.request_id, last.request_id]
    assert await jobs_left(queue) == 2
    await put_garbage(queue)
    sequence = (await queue.js.stream_info(JOBS)).state.last_seq
    assert await queue.jobs.at(sequence) is None
    assert await jobs_left(queue) == 2
    assert await dead(queue) == {"job": 2}


async def test_an_outage_costs_nothing(own_nats_server: RunningNats) -> None:
    async with open_queue(own_nats_server) as queue:
        letters = DeadLetters(queue.js)
        own_nats_server.kill()
        await eventually(lambda: not queue.nc.is_connected)
        letter = Letter(Kind.CANCEL, "workers.x.cancel", GARBAGE)
        assert not await letters.set_aside(letter, PROBLEM)
        await own_nats_server.restart()
        await eventually(lambda: queue.nc.is_connected)
        assert await letters.set_aside(letter, PROBLEM)
        assert await dead(queue) == {"cancel": 1}


async def test_webhooks_that_cannot_be_read_are_taken_out(queue: Queue) -> None:
    for name in ("a", "b"):
        await queue.js.publish(f"webhooks.{name}", GARBAGE)
    async with WebhookConsumer.open(queue.nc) as consumer:
        assert [await consumer.next() for _ in range(2)] == [None, None]

    async def empty() -> bool:
        return (await queue.js.stream_info("WEBHOOKS")).state.messages == 0

    await eventually(empty)
    assert [subject async for _, subject in dead_letters(queue.nc, Kind.WEBHOOK)] == ["webhooks.a", "webhooks.b"]


async def test_a_record_stays_where_it_is(queue: Queue) -> None:
    request = make_request()
    await queue.records.create(request)
    await put_record(queue, request)
    for records in (queue.records, RequestRecords(queue.nc, queue.js)):
        with pytest.raises(DataUnreadable, match=request.request_id):
            await records.get(OWNER, request.request_id)
        with pytest.raises(DataUnreadable):
            await records.change(OWNER, request.request_id, lambda r: r)
        assert [s async for s in records.written_after(0)] == []
    assert await queue.records.ids(OWNER) == [request.request_id]
    assert await dead(queue) == {"record": 1}


async def test_a_record_in_another_s_place_is_not_read(queue: Queue) -> None:
    mine, theirs = make_request(), make_request(owner="other")
    stored = await queue.records.create(theirs)
    await put_record(queue, mine, stored.data)
    with pytest.raises(DataUnreadable):
        await queue.records.get(OWNER, mine.request_id)
    assert (await queue.records.get("other", theirs.request_id)).request.owner == "other"


async def test_of_an_idempotency_key_that_cannot_be_read_nothing_is_made(queue: Queue) -> None:
    await queue.js.publish(f"$KV.idempotency.{OWNER}.token", GARBAGE)
    for _ in range(2):
        with pytest.raises(DataUnreadable):
            await queue.keys.claim(OWNER, "token", "id", b"")
    assert (await queue.keys.claim(OWNER, "other", "id", b"")).claimed
    assert await dead(queue) == {"key": 1}


async def test_many_at_once_do_no_harm(queue: Queue) -> None:
    letters = DeadLetters(queue.js)
    many = [Letter(Kind.JOB, f"jobs.{n % 10}", GARBAGE, 1 + n % 10) for n in range(200)]
    assert all(await asyncio.gather(*(letters.set_aside(letter, PROBLEM) for letter in many)))
    assert await dead(queue) == {"job": 10}
    assert letters.counts == {Kind.JOB: 10}
