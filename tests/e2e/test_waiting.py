"""Requests that wait: exact positions, order of priority, expected time, start timeouts, and a queue that is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import nats
from google.protobuf.duration_pb2 import Duration

from flashbulb.v1 import queue_pb2
from tests.driving import Caller, State, read_status, refusal, stopped, until
from tests.service import RunningService, apple

LOW = queue_pb2.PRIORITY_LOW
LIMIT = 12  # requests that the narrow service takes, the held one included

Held = Callable[[], None]


def span(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


async def positions(caller: Caller, request_ids: list[str]) -> list[int | None]:
    """Positions, None where there is none."""
    found = [await caller.status(request_id) for request_id in request_ids]
    return [r.queue_position if r.HasField("queue_position") else None for r in found]


async def release(held: Held, narrow: Caller) -> None:
    """Lets the worker go on, and takes away what it was held by."""
    held()
    blocker = (await narrow.listed())[-1]
    await narrow.cancel(blocker)


async def until_nothing_is_pulled(service: RunningService) -> None:
    """Waits until what the worker has asked of the queue has run out: a stopped one would get a job as soon as one comes."""
    url, token = service.nats
    connection = await nats.connect(url, token=token)
    try:
        jetstream = connection.jetstream()

        async def idle() -> bool:
            return not any(info.num_waiting for info in await jetstream.consumers_info("JOBS"))

        await until(idle, 5)
    finally:
        await connection.close()


async def test_positions_are_exact(held: Held, narrow: Caller) -> None:
    low = [(await narrow.submit(priority=LOW)).request_id for _ in range(3)]
    normal = [(await narrow.submit()).request_id for _ in range(5)]
    assert await positions(narrow, normal) == [0, 1, 2, 3, 4]
    assert await positions(narrow, low) == [5, 6, 7], "low ones come after every normal one, though they came first"

    await narrow.cancel(normal[1])
    assert await positions(narrow, normal) == [0, None, 1, 2, 3]
    assert await positions(narrow, low) == [4, 5, 6]
    await narrow.cancel(low[0])
    assert await positions(narrow, [*normal, *low]) == [0, None, 1, 2, 3, None, 4, 5]
    late = (await narrow.submit()).request_id
    assert await positions(narrow, [late, low[1]]) == [4, 5]


async def test_a_watcher_hears_of_its_position(held: Held, narrow: Caller) -> None:
    first = (await narrow.submit()).request_id
    second = (await narrow.submit()).request_id
    watch = aiter(narrow.watching(second))
    assert (await anext(watch)).request.queue_position == 1
    await narrow.cancel(first)
    moved = await anext(watch)
    assert (moved.request.state, moved.request.queue_position) == (State.STATE_QUEUED, 0)


async def test_normal_ones_are_started_first_and_each_kind_in_order(held: Held, narrow: Caller) -> None:
    low = [(await narrow.submit(priority=LOW)).request_id for _ in range(3)]
    normal = [(await narrow.submit()).request_id for _ in range(4)]
    await release(held, narrow)
    ended = [await narrow.ended(request_id) for request_id in (*low, *normal)]
    assert {request.state for request in ended} == {State.STATE_SUCCEEDED}
    started = [r.request_id for r in sorted(ended, key=lambda r: r.start_time.ToNanoseconds())]
    assert [i for i in started if i in low] == low
    assert [i for i in started if i in normal] == normal
    early = [i for i in started[: started.index(normal[-1])] if i in low]
    assert len(early) <= 1, "one in eight may be a low one, so that none starves"
    starts = sorted(r.start_time.ToNanoseconds() for r in ended)
    ends = sorted(r.end_time.ToNanoseconds() for r in ended)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False)), "one at a time"


async def test_an_idle_worker_that_a_low_one_wakes_takes_the_normal_one(
    narrow_service: RunningService, narrow: Caller
) -> None:
    """Both have come by the time that it looks. One in eight looks may begin with the low ones, so that none starves."""
    early = 0
    for _ in range(6):
        await until_nothing_is_pulled(narrow_service)
        with stopped(narrow_service):
            await until_nothing_is_pulled(narrow_service)
            low = (await narrow.submit(priority=LOW)).request_id
            normal = (await narrow.submit()).request_id
            assert await positions(narrow, [normal, low]) == [0, 1]
        first, second = [(await narrow.ended(i)).start_time.ToNanoseconds() for i in (normal, low)]
        early += second < first
    assert early <= 2


async def test_the_expected_time_grows_with_the_position(held: Held, narrow: Caller) -> None:
    made = [(await narrow.submit()).request_id for _ in range(4)]
    spans = [(await narrow.status(request_id)).eta.ToTimedelta().total_seconds() for request_id in made]
    assert spans == sorted(spans)
    assert 0 < spans[0] < spans[-1] < 60
    await release(held, narrow)
    for request_id in made:
        assert not (await narrow.ended(request_id)).HasField("eta")


# Start timeouts


async def test_a_request_that_is_not_started_in_time_expires_in_time(held: Held, narrow: Caller) -> None:
    began = time.monotonic()
    request_id = (await narrow.submit(start_timeout=span(0.3))).request_id
    behind = (await narrow.submit()).request_id
    events = await narrow.watch(request_id)
    assert time.monotonic() - began < 3, "a watcher hears of it soon"
    assert time.monotonic() - began >= 0.3
    expired = events[-1].request
    assert expired.state == State.STATE_EXPIRED
    assert await positions(narrow, [behind]) == [0]

    result = await narrow.result(request_id)
    error = read_status(grpc.StatusCode.DEADLINE_EXCEEDED, result.error)
    assert result.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert (error.reason, error.metadata) == ("START_TIMEOUT", {"start_timeout": "0.3"})
    assert expired.error == result.error

    await release(held, narrow)
    assert (await narrow.ended(behind)).state == State.STATE_SUCCEEDED
    after = await narrow.status(request_id)
    assert (after.state, after.attempt) == (State.STATE_EXPIRED, 0)
    receipt = await narrow.cancel(request_id)
    assert (receipt.previous_state, receipt.request) == (State.STATE_EXPIRED, after)


async def test_a_request_that_was_started_in_time_does_not_expire(narrow: Caller) -> None:
    request_id = (await narrow.submit(apple(num_images=8, num_inference_steps=16), start_timeout=span(0.5))).request_id
    ended = await narrow.ended(request_id)
    assert ended.end_time.ToNanoseconds() - ended.create_time.ToNanoseconds() > 0.5e9
    assert ended.state == State.STATE_SUCCEEDED


# Full


async def test_a_full_queue_refuses_and_stores_nothing(held: Held, narrow: Caller) -> None:
    waiting = [(await narrow.submit()).request_id for _ in range(LIMIT - 1)]
    before = await narrow.listed()
    for _ in range(2):
        error = await refusal(narrow.submit(idempotency_key="mine"))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert error.metadata == {"limit": str(LIMIT)}
        assert error.retry is not None and error.retry > 0
    refusals = await asyncio.gather(
        *(refusal(narrow.submit(idempotency_key="at-once")) for _ in range(5)), refusal(narrow.submit(priority=LOW))
    )
    assert {error.reason for error in refusals} == {"QUEUE_FULL"}
    assert await narrow.listed() == before
    assert await positions(narrow, waiting) == list(range(LIMIT - 1))

    await narrow.cancel(waiting[0])
    answer = await narrow.submitted(apple(seed=99), idempotency_key="mine")
    assert not answer.deduplicated, "a refused submission leaves its key free, also for another input"
    assert await positions(narrow, [answer.request.request_id]) == [LIMIT - 2]


async def test_expired_requests_make_room_without_anybody_asking(held: Held, narrow: Caller) -> None:
    for _ in range(LIMIT - 1):
        await narrow.submit(start_timeout=span(0.2))

    async def taken() -> bool:
        try:
            await narrow.submit()
        except grpc.aio.AioRpcError as err:
            assert err.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False
        return True

    assert not await taken()
    await until(taken, 5)
