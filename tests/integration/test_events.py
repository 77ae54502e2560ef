"""Events on a real nats-server: live, kept, bounded for slow readers, and forgotten by a restart without harm."""

from __future__ import annotations

import asyncio
import time

import pytest

from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.requests import LogLevel, LogLine, State
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.events import Follower
from flashbulb_server.wire.records import Event
from tests.embedded import RunningNats
from tests.integration.stage import Queue, eventually, open_queue

pytestmark = pytest.mark.integration


def log(sequence: int, text: str = "") -> Event:
    return Event(sequence, 1.5, LogLine(1.5, LogLevel.INFO, text or f"line {sequence}"))


def step(sequence: int, number: int) -> Event:
    return Event(sequence, 2.5, Progress(number, 9))


def preview(image: int, number: int) -> Event:
    return Event(0, 3.5, PreviewImage(image, number, b"jpeg"))


async def taken(follower: Follower, count: int) -> list[Event]:
    """So many events; fails if they do not come."""
    events = []
    for _ in range(count):
        event = await follower.next(5)
        assert event is not None
        events.append(event)
    return events


async def kept(queue: Queue, request_id: str, count: int) -> bool:
    return len(await queue.events.backlog(request_id)) == count


async def test_a_follower_hears_everything_of_its_request_in_order(queue: Queue) -> None:
    sent = [step(1, 1), log(2), preview(0, 1), step(3, 2), Event(4, 4.5, State.SUCCEEDED)]
    async with queue.events.follow("one", previews=True) as follower:
        for event in sent:
            await queue.events.publish("two", event)
            await queue.events.publish("one", event)
        heard = await taken(follower, len(sent))
        # Previews travel on a subject of their own, in their own order.
        assert [e for e in heard if e.sequence] == [e for e in sent if e.sequence]
        assert [e for e in heard if not e.sequence] == [preview(0, 1)]
        assert await follower.next(0.05) is None


async def test_previews_are_left_out_unless_asked_for(queue: Queue) -> None:
    async with queue.events.follow("one", previews=False) as follower:
        await queue.events.publish("one", preview(0, 1))
        await queue.events.publish("one", log(1))
        assert await taken(follower, 1) == [log(1)]


async def test_what_a_follower_does_not_read_pushes_out_previews_and_then_the_oldest(queue: Queue) -> None:
    async with queue.events.follow("one", previews=True, limit=4) as follower:
        waiting = lambda: follower._waiting  # noqa: E731  # what has arrived is not to be seen otherwise
        for image in (0, 1, 0):  # the newest preview of each picture
            await queue.events.publish("one", preview(image, image + 5))
        await queue.events.publish("one", step(1, 1))
        await eventually(lambda: len(waiting()) == 3)
        for sequence in range(2, 7):
            await queue.events.publish("one", log(sequence))
        await eventually(lambda: waiting()[-1] == log(6))
        assert await taken(follower, 4) == [log(3), log(4), log(5), log(6)]


async def test_a_follower_that_does_not_read_holds_nobody_up_in_time(queue: Queue) -> None:
    async with queue.events.follow("one", previews=True, limit=8) as stuck, queue.events.follow("one", previews=True):
        started = time.monotonic()
        for number in range(2000):
            await queue.events.publish("one", preview(0, number) if number % 2 else step(number, number))
        assert time.monotonic() - started < 5
        await eventually(lambda: kept(queue, "one", 128))
        assert len(stuck._waiting) <= 8


async def test_the_backlog_is_by_sequence_and_kind(queue: Queue) -> None:
    for event in (log(1), step(2, 1), preview(0, 1), log(3), step(4, 2), Event(5, 1.0, State.FAILED)):
        await queue.events.publish("one", event)
    await queue.events.publish("two", log(9))
    await eventually(lambda: kept(queue, "one", 5))
    assert [e.sequence for e in await queue.events.backlog("one")] == [1, 2, 3, 4, 5]
    assert [e.sequence for e in await queue.events.backlog("one", after_sequence=2)] == [3, 4, 5]
    assert await queue.events.backlog("one", kind="log") == [log(1), log(3)]
    assert await queue.events.backlog("one", after_sequence=1, kind="progress") == [step(2, 1), step(4, 2)]
    assert await queue.events.backlog("three") == []


async def test_the_last_step_is_remembered(queue: Queue) -> None:
    assert await queue.events.last_progress("one") is None
    for event in (step(1, 1), step(2, 2), log(3)):
        await queue.events.publish("one", event)
    await eventually(lambda: kept(queue, "one", 3))
    assert await queue.events.last_progress("one") == Progress(2, 9)


async def heard(queue: Queue, request_id: str, follower: Follower, event: Event) -> None:
    """Publishes until it is heard: a subscription of another connection takes effect a moment later, also after a restart."""
    async with asyncio.timeout(15):
        while True:
            await queue.events.publish(request_id, event)
            if await follower.next(0.5) == event:
                return


async def test_a_follower_goes_on_after_nats_was_killed_in_time(own_nats_server: RunningNats) -> None:
    async with (
        open_queue(own_nats_server) as queue,
        open_queue(own_nats_server) as other,
        queue.events.follow("one", previews=False) as follower,
    ):
        await heard(other, "one", follower, log(1))
        own_nats_server.kill()
        await eventually(lambda: not queue.nc.is_connected and not other.nc.is_connected)
        started = time.monotonic()
        for sequence in range(2, 5):
            await other.events.publish("one", log(sequence))  # never waits, never fails
        assert time.monotonic() - started < 0.5
        async with queue.events.follow("two", previews=False) as late:
            await own_nats_server.restart()
            await eventually(lambda: queue.nc.is_connected and other.nc.is_connected)
            await heard(other, "one", follower, log(5))
            await heard(other, "two", late, log(1))


async def test_events_are_kept_again_after_nats_has_forgotten_them(own_nats_server: RunningNats) -> None:
    async with open_queue(own_nats_server) as queue:
        await queue.events.publish("one", step(1, 1))
        await eventually(lambda: kept(queue, "one", 1))
        await own_nats_server.restart()
        await eventually(lambda: queue.nc.is_connected)

        async def works_again() -> bool:
            await queue.events.publish("one", step(2, 2))
            try:
                return await queue.events.last_progress("one") == Progress(2, 9)
            except StoreUnavailable:  # in the moment before the stream is made again
                return False

        await eventually(works_again)
        assert {e.sequence for e in await queue.events.backlog("one")} == {2}
        assert await queue.events.last_progress("never") is None
