"""A watch goes on after a broken connection; an abandoned request is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

import flashbulb
from flashbulb import AsyncClient, State, StatusChanged, Stepped
from flashbulb._watch import Watch
from flashbulb.v1 import queue_pb2
from tests.client import scripted
from tests.client.scripted import KEY, LIMIT, Hang, changed, failure, stepped, submitted

QUEUED, RUNNING, SUCCEEDED = (getattr(scripted.State, f"STATE_{s}") for s in ("QUEUED", "RUNNING", "SUCCEEDED"))
CANCELLED = queue_pb2.CancelResponse(
    previous_state=RUNNING, request=scripted.request(state=scripted.State.STATE_CANCELLED)
)


@pytest.mark.parametrize(
    "broken",
    [[failure("UNAVAILABLE")], [failure("UNAVAILABLE", "DRAINING", retry_after=0.01)], [failure("CANCELLED")], []],
    ids=["broken", "draining", "dropped", "ended early"],
)
async def test_a_broken_watch_goes_on_after_the_last_sequence(client, server, broken):
    server.expect("WatchStatus", [changed(0, QUEUED), changed(2, RUNNING), stepped(5, 1), *broken])
    server.expect("WatchStatus", [changed(0, RUNNING), stepped(5, 1), stepped(6, 2), changed(9, SUCCEEDED)])
    events = [event async for event in client.watch("r1", logs=True)]

    assert [event.sequence for event in events] == [0, 2, 5, 6, 9]
    sent = server.requests("WatchStatus")
    assert [request.after_sequence for request in sent] == [0, 5]
    assert all(request.include_logs and request.request_id == "r1" for request in sent)


async def test_a_watch_outlives_the_server(client, server):
    hang = Hang()
    server.expect("WatchStatus", [changed(3, RUNNING), hang], [changed(0, RUNNING), changed(4, SUCCEEDED)])
    states = []
    async for event in client.watch("r1"):
        states.append(event.status.state)
        if len(states) == 1:
            await asyncio.to_thread(hang.reached.wait, LIMIT)
            await asyncio.to_thread(server.restart)
    assert states == [State.RUNNING, State.SUCCEEDED]
    assert server.requests("WatchStatus")[1].after_sequence == 3


async def test_a_watch_that_falls_silent_is_opened_again(client, server):
    server.expect("WatchStatus", [changed(3, RUNNING), Hang()], [changed(4, SUCCEEDED)])
    watch = Watch(client._transport, queue_pb2.WatchStatusRequest(request_id="r1"), silence=0.3)
    assert [event.sequence async for event in watch.events()] == [3, 4]
    assert server.requests("WatchStatus")[1].after_sequence == 3


async def test_a_watch_gives_up_when_the_server_is_gone_for_long(server):
    server.expect("WatchStatus", [changed(3, RUNNING), failure("UNAVAILABLE", "DRAINING", retry_after=60)])
    async with AsyncClient(KEY, server.host, timeout=1) as client:
        with pytest.raises(flashbulb.Unavailable):
            _ = [event async for event in client.watch("r1")]


async def test_a_watch_of_nothing_is_not_tried_again(client, server):
    server.expect("WatchStatus", failure("NOT_FOUND", "REQUEST_NOT_FOUND", "no request 'r1'"))
    with pytest.raises(flashbulb.RequestNotFound):
        await anext(client.watch("r1"))


async def test_a_closed_watch_closes_its_stream(client, server):
    server.expect("WatchStatus", [changed(0, RUNNING), Hang()])
    async with aclosing(client.watch("r1")) as events:
        await anext(events)
    assert await asyncio.to_thread(server.calls[0].ended.wait, LIMIT)


async def test_subscribe_resumes_and_finishes(client, server):
    server.expect("Submit", submitted())
    server.expect(
        "WatchStatus", [changed(1, RUNNING), failure("UNAVAILABLE")], failure("UNAVAILABLE"), [changed(2, SUCCEEDED)]
    )
    server.expect("GetResult", failure("UNAVAILABLE", "STORE_UNAVAILABLE", retry_after=0.01), scripted.finished())
    assert (await client.subscribe(prompt="a")).request_id == "r1"
    assert len(server.requests("Submit")) == 1


async def test_a_timeout_cancels_the_request(client, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, QUEUED), Hang()])
    server.expect("Cancel", CANCELLED)
    with pytest.raises(flashbulb.DeadlineExceeded, match="within 0.3 s; the request was cancelled") as caught:
        await client.subscribe(prompt="a", timeout=0.3)
    assert caught.value.metadata == {"request_id": "r1"}
    assert isinstance(caught.value, TimeoutError)
    assert server.requests("Cancel")[0].request_id == "r1"


async def test_a_cancelled_caller_cancels_the_request(client, server):
    hang = Hang()
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, QUEUED), hang])
    server.expect("Cancel", CANCELLED)
    async with asyncio.TaskGroup() as tasks:
        drawing = tasks.create_task(client.subscribe(prompt="a"))
        await asyncio.to_thread(hang.reached.wait, LIMIT)
        drawing.cancel()
    assert drawing.cancelled()
    assert len(server.requests("Cancel")) == 1


async def test_a_caller_cancelled_during_submit_leaves_nothing_behind(client, server):
    hang = Hang()
    server.expect("Submit", hang, submitted("r5"))
    server.expect("Cancel", CANCELLED)
    async with asyncio.TaskGroup() as tasks:
        drawing = tasks.create_task(client.subscribe(prompt="a"))
        await asyncio.to_thread(hang.reached.wait, LIMIT)
        drawing.cancel()
    first, second = server.requests("Submit")
    assert first == second
    assert server.requests("Cancel")[0].request_id == "r5"


async def test_a_callback_that_fails_cancels_the_request(client, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, QUEUED), Hang()])
    server.expect("Cancel", CANCELLED)

    def fail(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.subscribe(prompt="a", on_update=fail)


async def test_a_timeout_of_the_callers_own_is_not_taken_for_ours(client, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, QUEUED), Hang()])
    server.expect("Cancel", CANCELLED)

    def fail(event):
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await client.subscribe(prompt="a", on_update=fail)


async def test_a_request_that_failed_is_not_cancelled(client, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(1, scripted.State.STATE_FAILED)])
    server.expect("GetResult", queue_pb2.GetResultResponse(error=failure("INTERNAL", "ENGINE_FAILED").status))
    with pytest.raises(flashbulb.RequestFailed):
        await client.subscribe(prompt="a")


async def test_a_withdrawal_that_fails_hides_nothing(client, server, caplog):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, QUEUED), Hang()])
    server.expect("Cancel", failure("INTERNAL", "INTERNAL", "broken"))
    with pytest.raises(flashbulb.DeadlineExceeded):
        await client.subscribe(prompt="a", timeout=0.3)
    assert caplog.records[-1].request_id == "r1"


async def test_a_position_that_changes_is_told_and_one_that_does_not_is_not(client, server):
    server.expect(
        "WatchStatus",
        [changed(0, QUEUED, queue_position=n) for n in (2, 2, 1)] + [stepped(4, 1), changed(5, SUCCEEDED)],
    )
    events = [event async for event in client.watch("r1")]
    assert [e.status.queue_position for e in events if isinstance(e, StatusChanged)] == [2, 1, None]
    assert sum(isinstance(e, Stepped) for e in events) == 1
