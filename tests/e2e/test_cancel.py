"""Cancelling: in every state, more than once, at once; and that the engine is free afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from google.rpc import code_pb2

from tests.driving import Caller, Refusal, State, read_status
from tests.service import apple

LONG = {"num_images": 8, "num_inference_steps": 32}


async def failure(caller: Caller, request_id: str) -> Refusal:
    """Why a request has no pictures, as GetResult tells it."""
    result = await caller.result(request_id)
    assert result.WhichOneof("outcome") == "error"
    code = next(c for c in grpc.StatusCode if c.value[0] == result.error.code)
    return read_status(code, result.error)


async def test_a_queued_request_never_runs(held: Callable[[], None], narrow: Caller) -> None:
    request_id = (await narrow.submit()).request_id
    behind = (await narrow.submit()).request_id
    watch = asyncio.ensure_future(narrow.watch(request_id))
    receipt = await narrow.cancel(request_id)
    assert receipt.previous_state == State.STATE_QUEUED
    assert (receipt.stopped_at_step, receipt.saved_steps) == (0, 2)
    assert receipt.request.state == State.STATE_CANCELLED
    assert receipt.request.error.code == code_pb2.CANCELLED
    assert (await watch)[-1].request.state == State.STATE_CANCELLED
    held()
    await narrow.cancel((await narrow.listed())[-1])
    assert (await narrow.ended(behind)).state == State.STATE_SUCCEEDED, "the worker has passed it by"
    status = await narrow.status(request_id)
    assert (status.state, status.attempt, status.HasField("start_time")) == (State.STATE_CANCELLED, 0, False)


async def test_a_running_request_stops_within_a_step_and_frees_the_engine_in_time(me: Caller) -> None:
    request_id = (await me.submit(apple(**LONG))).request_id
    watch = asyncio.ensure_future(me.watch(request_id, include_logs=True))
    await me.until_step(request_id, 2)
    receipt = await me.cancel(request_id)
    after = await me.generate()
    assert after.mean_batch_size == 1, "its lanes are gone"
    assert after.timings["wait"] < 0.5

    assert receipt.previous_state == State.STATE_RUNNING
    assert receipt.request.state == State.STATE_CANCELLED
    assert 2 <= receipt.stopped_at_step < 20
    assert receipt.saved_steps == 32 - receipt.stopped_at_step
    assert receipt.request.progress.step == receipt.stopped_at_step
    events = await watch
    assert events[-1].request.state == State.STATE_CANCELLED
    seen = [event.progress.step for event in events if event.WhichOneof("event") == "progress"]
    assert seen == list(range(1, len(seen) + 1))
    assert receipt.stopped_at_step - len(seen) in (0, 1), "the step that ran while the cancellation came tells nothing"
    assert events[-1].request.logs[-1].message == f"cancelled at step {receipt.stopped_at_step} of 32"


async def test_the_result_of_a_cancelled_request_says_so(me: Caller) -> None:
    request_id = (await me.submit(apple(**LONG))).request_id
    await me.until_step(request_id, 1)
    receipt = await me.cancel(request_id)
    error = await failure(me, request_id)
    assert (error.code, error.reason) == (grpc.StatusCode.CANCELLED, "REQUEST_CANCELLED")
    assert error.metadata == {"step": str(receipt.stopped_at_step), "total_steps": "32"}


async def test_cancelling_twice_changes_nothing(me: Caller) -> None:
    request_id = (await me.submit(apple(**LONG))).request_id
    await me.until_step(request_id, 1)
    first = await me.cancel(request_id)
    again = await me.cancel(request_id)
    assert again.previous_state == State.STATE_CANCELLED
    assert again.request == first.request
    assert (again.stopped_at_step, again.saved_steps) == (first.stopped_at_step, 0)


async def test_cancelling_after_the_end_changes_nothing(me: Caller) -> None:
    request_id = (await me.submit()).request_id
    await me.ended(request_id)
    before = await me.status(request_id)
    receipt = await me.cancel(request_id)
    assert receipt.previous_state == State.STATE_SUCCEEDED
    assert (receipt.stopped_at_step, receipt.saved_steps) == (2, 0)
    assert receipt.request == before == await me.status(request_id)
    assert len((await me.result(request_id)).output.images) == 1


@pytest.mark.parametrize("running", [True, False])
async def test_two_cancellations_at_once(me: Caller, running: bool) -> None:
    request_id = (await me.submit(apple(**LONG))).request_id
    if running:
        await me.until_step(request_id, 1)
    first, second = await asyncio.gather(me.cancel(request_id), me.cancel(request_id))
    assert first.request.state == second.request.state == State.STATE_CANCELLED
    assert first.stopped_at_step == second.stopped_at_step < 32


@pytest.mark.parametrize("count", range(6))
async def test_cancelling_right_after_submitting(me: Caller, count: int) -> None:
    """Whatever the worker was doing with it at that moment, the receipt and the record agree."""
    request_id = (await me.submit(apple(num_inference_steps=4))).request_id
    for _ in range(count):
        await me.status(request_id)
    receipt = await me.cancel(request_id)
    ended = await me.ended(request_id)
    assert ended.state == receipt.request.state
    assert ended.state in (State.STATE_CANCELLED, State.STATE_SUCCEEDED)
    if ended.state == State.STATE_CANCELLED:
        assert receipt.stopped_at_step + receipt.saved_steps == 4
