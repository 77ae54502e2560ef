"""Watching a request: everything in order, once, the terminal state last; resumed, late, many at once, and by a reader who does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import nats
import pytest

from flashbulb.v1 import queue_pb2
from flashbulb_server.core.generation import PreviewImage
from flashbulb_server.wire.records import Event, encode_event
from tests.driving import TERMINAL, Caller, State, pixels, stopped, until
from tests.service import RunningService, apple

Events = Sequence[queue_pb2.WatchStatusResponse]


def kinds(events: Events) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]


def steps(events: Events) -> list[int]:
    return [event.progress.step for event in events if event.WhichOneof("event") == "progress"]


def states(events: Events) -> list[int]:
    """States in order of first appearance."""
    return list(dict.fromkeys(event.request.state for event in events if event.WhichOneof("event") == "request"))


def check_order(events: Events) -> None:
    """What holds for every watch."""
    kept = [event.sequence for event in events if event.sequence]
    assert kept == sorted(set(kept)), "sequences grow strictly"
    assert events[-1].WhichOneof("event") == "request" and events[-1].request.state in TERMINAL
    ends = [e for e in events if e.WhichOneof("event") == "request" and e.request.state in TERMINAL]
    assert len(ends) == 1, "the terminal state comes once, and nothing follows"
    assert all(event.sequence == 0 for event in events if event.WhichOneof("event") in ("preview", "heartbeat"))
    assert all(event.HasField("event_time") for event in events)


async def test_a_watch_tells_everything_in_order(me: Caller) -> None:
    request_id = (await me.submit(apple(num_inference_steps=12, num_images=2))).request_id
    events = await me.watch(request_id, include_logs=True)
    check_order(events)
    assert kinds(events)[0] == "request", "a snapshot first"
    assert events[0].request.request_id == request_id
    assert states(events)[-2:] == [State.STATE_RUNNING, State.STATE_SUCCEEDED]
    assert steps(events) == list(range(1, 13))
    assert {e.progress.total_steps for e in events if e.WhichOneof("event") == "progress"} == {12}
    texts = [event.log.message for event in events if event.WhichOneof("event") == "log"]
    assert [text.split()[0] for text in texts] == ["started", "drawn", "stored"]
    assert [entry.message for entry in events[-1].request.logs] == texts
    assert "preview" not in kinds(events), "previews come only when asked for"


async def test_without_logs_asked_for_there_are_none(me: Caller) -> None:
    events = await me.watch((await me.submit()).request_id)
    assert "log" not in kinds(events)
    assert not any(event.request.logs for event in events)


async def test_previews_come_when_asked_for(me: Caller) -> None:
    request_id = (await me.submit(apple(num_inference_steps=16, num_images=2))).request_id
    events = await me.watch(request_id, include_previews=True)
    check_order(events)
    assert steps(events) == list(range(1, 17))
    previews = [event.preview for event in events if event.WhichOneof("event") == "preview"]
    assert {preview.image_index for preview in previews} == {0, 1}
    for preview in previews:
        assert 1 <= preview.step < 16
        assert preview.content_type == "image/jpeg"
        assert max(pixels(preview.content).shape[:2]) <= 128


async def test_a_resumed_watch_sends_nothing_twice_and_leaves_nothing_out(me: Caller) -> None:
    request_id = (await me.submit(apple(num_inference_steps=24, num_images=4))).request_id
    first: list[queue_pb2.WatchStatusResponse] = []
    stream = me.watching(request_id, include_logs=True)
    async for event in stream:
        first.append(event)
        if event.progress.step == 5:
            stream.cancel()
            break
    second = await me.watch(request_id, include_logs=True, after_sequence=first[-1].sequence)
    check_order(second)
    assert not {e.sequence for e in first if e.sequence} & {e.sequence for e in second if e.sequence}
    assert steps(first) + steps(second) == list(range(1, 25))
    assert states(second)[-1] == State.STATE_SUCCEEDED


async def test_a_watch_of_a_finished_request_tells_all_and_ends(me: Caller) -> None:
    request_id = (await me.submit(apple(num_inference_steps=5))).request_id
    await me.ended(request_id)
    events = await me.watch(request_id, include_logs=True)
    check_order(events)
    assert states(events) == [State.STATE_SUCCEEDED]
    assert steps(events) == [1, 2, 3, 4, 5]
    assert kinds(events).count("log") == 3
    for resumed_at, expected in ((events[2].sequence, len(events) - 3), (events[-1].sequence, 1), (2**62, 1)):
        rest = await me.watch(request_id, include_logs=True, after_sequence=resumed_at)
        assert len(rest) == expected
        assert states(rest) == [State.STATE_SUCCEEDED]


@pytest.mark.parametrize("count", [1, 2, 16])
async def test_fifty_watchers_of_one_request_all_see_everything(me: Caller, count: int) -> None:
    """Of a quick one too: its record is terminal before most of them have looked at its first event."""
    request_id = (await me.submit(apple(num_inference_steps=count))).request_id
    for events in await asyncio.gather(*(me.watch(request_id) for _ in range(50))):
        check_order(events)
        assert steps(events) == list(range(1, count + 1))
        assert states(events)[-1] == State.STATE_SUCCEEDED


async def test_a_slow_api_leaves_no_step_out(narrow_service: RunningService, narrow: Caller) -> None:
    """The request is over before the api has looked at its first event."""
    with stopped(narrow_service, "worker"):
        request_id = (await narrow.submit(apple(num_inference_steps=3))).request_id
        watch = aiter(narrow.watching(request_id, include_logs=True))
        first = await anext(watch)
        pausing = stopped(narrow_service, "api")
        pausing.__enter__()

    async def over() -> bool:
        lines = [line for line in narrow_service.log.read_text().splitlines() if request_id in line]
        return any("request succeeded" in line for line in lines)

    try:
        await until(over)
    finally:
        pausing.__exit__(None, None, None)
    events = [first, *[event async for event in watch]]
    check_order(events)
    assert steps(events) == [1, 2, 3]
    assert kinds(events).count("log") == 3


async def test_a_watcher_that_left_is_not_missed(me: Caller) -> None:
    request_id = (await me.submit(apple(num_inference_steps=16))).request_id
    gone = [me.watching(request_id, include_previews=True) for _ in range(20)]
    for stream in gone:
        await stream.read()
        stream.cancel()
    assert (await me.ended(request_id)).state == State.STATE_SUCCEEDED


async def test_a_watcher_that_does_not_read_costs_no_memory_and_still_hears_the_end(
    held: Callable[[], None], narrow: Caller, narrow_service: RunningService
) -> None:
    """Sixty megabytes of previews pass while it does not read."""
    request_id = (await narrow.submit()).request_id
    watch = aiter(narrow.watching(request_id, include_previews=True))
    first = await anext(watch)
    assert first.request.state == State.STATE_QUEUED
    before = resident_bytes(narrow_service.child("api"))

    url, token = narrow_service.nats
    connection = await nats.connect(url, token=token)
    try:
        for count in range(6000):
            event = Event(0, 1.0, PreviewImage(count, 1, bytes(10_000)))
            await connection.publish(f"previews.{request_id}", encode_event(event))
            if count % 100 == 0:
                await connection.flush()
        await connection.flush()
    finally:
        await connection.close()
    grown = resident_bytes(narrow_service.child("api")) - before
    receipt = await narrow.cancel(request_id)
    assert receipt.request.state == State.STATE_CANCELLED

    seen = [event async for event in watch]
    check_order([first, *seen])
    assert seen[-1].request.state == State.STATE_CANCELLED
    previews = [event.preview.image_index for event in seen if event.WhichOneof("event") == "preview"]
    assert 0 < len(previews) < 6000, "the newest are kept, most are dropped"
    assert previews == sorted(previews)
    assert grown < 32 * 2**20, f"grew by {grown / 2**20:.1f} MiB"


async def test_a_watcher_that_reads_late_gets_the_end_of_a_real_request(me: Caller) -> None:
    request_id = (await me.submit(apple(num_inference_steps=32, num_images=8))).request_id
    late = me.watching(request_id, include_previews=True, include_logs=True)

    async def over() -> bool:
        return (await me.status(request_id)).state in TERMINAL

    await until(over)
    events = [event async for event in late]
    check_order(events)
    assert events[-1].request.state == State.STATE_SUCCEEDED


def resident_bytes(pid: int) -> int:
    """Memory that a process holds."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
