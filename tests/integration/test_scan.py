"""Batched reading of a stream on a real nats-server."""

from __future__ import annotations

import asyncio

import pytest

from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.scan import scan
from flashbulb_server.messaging.topology import EVENTS
from tests.integration.stage import Queue, eventually

pytestmark = pytest.mark.integration


async def store(queue: Queue, subject: str, bodies: list[bytes]) -> None:
    """Stores messages in EVENTS, as many as may be kept of a subject."""
    for body in bodies:
        await queue.nc.publish(subject, body)

    async def stored() -> bool:
        return sum([1 async for _ in scan(queue.nc, EVENTS, subject)]) == min(len(bodies), 128)

    await eventually(stored)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 512, 600])
async def test_every_message_is_given_once_and_in_order(queue: Queue, count: int) -> None:
    subjects = [f"events.r{number % 8}.log" for number in range(count)]
    for number, subject in enumerate(subjects):
        await queue.nc.publish(subject, b"%d" % number)
    await queue.nc.publish("events.other.progress", b"end")

    async def all_stored() -> bool:
        return [found.data async for found in scan(queue.nc, EVENTS, "events.other.*")] == [b"end"]

    await eventually(all_stored)
    all_of_them = [found async for found in scan(queue.nc, EVENTS, "events.*.log")]
    assert [found.data for found in all_of_them] == [b"%d" % number for number in range(count)]
    assert [found.subject for found in all_of_them] == subjects
    sequences = [found.sequence for found in all_of_them]
    assert sequences == sorted(set(sequences))
    if count > 300:
        later = [found async for found in scan(queue.nc, EVENTS, "events.*.log", after=sequences[299])]
        assert later == all_of_them[300:]


async def test_empty_messages_are_given_too(queue: Queue) -> None:
    await store(queue, "events.one.log", [b"a", b"", b"c"])
    assert [found.data async for found in scan(queue.nc, EVENTS, "events.one.log")] == [b"a", b"", b"c"]


async def test_a_reader_may_leave_in_the_middle(queue: Queue) -> None:
    await store(queue, "events.one.log", [b"x"] * 100)
    for _ in range(50):
        async for _ in scan(queue.nc, EVENTS, "events.one.log"):
            break
    before = len(queue.nc._subs)  # subscriptions that were left behind
    assert before < 10


async def test_many_scans_at_once_do_not_mix(queue: Queue) -> None:
    for name in ("a", "b", "c"):
        await store(queue, f"events.{name}.log", [name.encode()] * 60)

    async def one(name: str) -> list[bytes]:
        return [found.data async for found in scan(queue.nc, EVENTS, f"events.{name}.log")]

    found = await asyncio.gather(*(one(name) for name in ("a", "b", "c") * 5))
    assert found == [[name.encode()] * 60 for name in ("a", "b", "c") * 5]


async def test_a_stream_that_nobody_has_is_not_an_empty_one(queue: Queue) -> None:
    with pytest.raises(StoreUnavailable):
        async for _ in scan(queue.nc, "NEVER", "events.>"):
            pass
