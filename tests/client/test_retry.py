"""What is tried again, when, and that nothing is paid for twice."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time

import pytest

import flashbulb
from flashbulb import AsyncClient, Busy, Unavailable
from flashbulb._retry import FIRST_PAUSE, LONGEST_PAUSE, NOT_STARTED, pause
from flashbulb.v1 import generation_pb2, model_pb2, queue_pb2, storage_pb2
from tests.client import scripted
from tests.client.scripted import KEY, LIMIT, Hang, failure, finished, output, submitted

GONE = failure("UNAVAILABLE", message="connection reset")


@pytest.mark.parametrize("retry_after", [None, 0.5])
@pytest.mark.parametrize("reason", ["", "QUEUE_FULL", "WORKERS_BUSY", "NO_WORKER", "DRAINING", "STORE_UNAVAILABLE"])
@pytest.mark.parametrize("kind", [Unavailable, Busy])
@pytest.mark.parametrize("repeatable", [True, False])
def test_which_errors_are_tried_again(kind, reason, retry_after, repeatable):
    error = kind("no", reason=reason, retry_after=retry_after)
    delay = pause(error, 0, repeatable=repeatable)
    if repeatable:
        expected = kind is Unavailable or retry_after is not None
    else:
        expected = retry_after is not None and reason in ("QUEUE_FULL", "WORKERS_BUSY", "DRAINING")
    assert (delay is not None) is expected
    if delay is not None and retry_after is not None:
        assert retry_after <= delay <= retry_after + FIRST_PAUSE


@pytest.mark.parametrize(
    "error",
    [
        flashbulb.InvalidInput("no"),
        flashbulb.AuthenticationError("no"),
        flashbulb.NotFound("no"),
        flashbulb.DeadlineExceeded("no"),
        flashbulb.ServerError("no", retry_after=1),
        flashbulb.RequestFailed("no"),
    ],
)
def test_other_errors_are_never_tried_again(error):
    assert pause(error, 0, repeatable=True) is None


def test_pauses_double_up_to_a_limit_and_differ():
    error = Unavailable("no")
    longest = [max(pause(error, n, repeatable=True) for _ in range(200)) for n in range(20)]
    for n, measured in enumerate(longest):
        nominal = min(LONGEST_PAUSE, FIRST_PAUSE * 2**n)
        assert nominal * 0.75 < measured <= nominal
    assert len({pause(error, 3, repeatable=True) for _ in range(10)}) > 1


async def test_submit_sends_one_idempotency_key_over_all_attempts(client, server):
    server.expect("Submit", GONE, failure("RESOURCE_EXHAUSTED", "QUEUE_FULL", retry_after=0.01), GONE, submitted())
    await client.submit(prompt="a")
    keys = {request.idempotency_key for request in server.requests("Submit")}
    assert len(server.calls) == 4
    assert len(keys) == 1
    assert len(keys.pop()) == 36


async def test_two_submits_have_two_keys(client, server):
    server.expect("Submit", submitted(), submitted())
    await client.submit(prompt="a")
    await client.submit(prompt="a")
    first, second = server.requests("Submit")
    assert first.idempotency_key != second.idempotency_key


@pytest.mark.parametrize(
    ("code", "reason"), [("UNAVAILABLE", "STORE_UNAVAILABLE"), ("RESOURCE_EXHAUSTED", "QUEUE_FULL")]
)
async def test_the_servers_delay_is_kept(client, server, code, reason):
    server.expect("Submit", failure(code, reason, retry_after=0.3), submitted())
    await client.submit(prompt="a")
    assert server.calls[1].time - server.calls[0].time >= 0.3


async def test_busy_without_a_delay_is_not_tried_again(client, server):
    server.expect("Submit", failure("RESOURCE_EXHAUSTED", message="message larger than max"))
    with pytest.raises(Busy):
        await client.submit(prompt="a")


async def test_a_delay_past_the_deadline_is_not_waited_for(client, server):
    server.expect("Submit", failure("RESOURCE_EXHAUSTED", "QUEUE_FULL", retry_after=3600))
    before = time.monotonic()
    with pytest.raises(flashbulb.QueueFull) as caught:
        await client.submit(prompt="a")
    assert time.monotonic() - before < 5
    assert caught.value.retry_after == 3600


async def test_calls_that_may_run_twice_are_tried_again(client, server):
    page = queue_pb2.ListResponse(requests=[scripted.request()])
    cancelled = queue_pb2.CancelResponse(previous_state=scripted.State.STATE_QUEUED, request=scripted.request())
    for rpc, reply, call in (
        ("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request()), lambda: client.status("r1")),
        ("GetResult", finished(), lambda: client.result("r1")),
        ("Cancel", cancelled, lambda: client.cancel("r1")),
        ("List", page, lambda: anext(client.list())),
        ("ListModels", model_pb2.ListModelsResponse(), client.models),
        ("ListEndpoints", model_pb2.ListEndpointsResponse(), client.endpoints),
        ("DeleteFile", storage_pb2.DeleteFileResponse(), lambda: client.delete_file("flashbulb://files/1")),
        ("Upload", storage_pb2.UploadResponse(), lambda: client.upload(b"bytes")),
    ):
        server.expect(rpc, GONE, reply)
        await call()
    assert len(server.calls) == 16


@pytest.mark.parametrize("reason", sorted(NOT_STARTED))
async def test_generate_is_tried_again_where_the_server_did_not_start_it(client, server, reason):
    server.expect("Generate", failure("UNAVAILABLE", reason, retry_after=0.01))
    server.expect("Generate", generation_pb2.GenerateResponse(output=scripted.output()))
    await client.generate(prompt="a")


@pytest.mark.parametrize(
    "reply",
    [
        GONE,
        failure("UNAVAILABLE", "DRAINING"),
        failure("UNAVAILABLE", "STORE_UNAVAILABLE", retry_after=0.01),
        failure("UNAVAILABLE", "NO_WORKER", "the worker was lost while drawing", retry_after=0.01),
    ],
    ids=["broken", "no delay", "perhaps drawn", "lost"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
async def test_generate_is_not_tried_again_where_it_may_have_been_drawn(client, server, reply, streamed):
    server.expect("GenerateStream" if streamed else "Generate", reply)
    with pytest.raises(Unavailable):
        await (anext(client.generate_stream(prompt="a")) if streamed else client.generate(prompt="a"))


async def test_a_stream_is_tried_again_before_its_first_message_only(client, server):
    response = generation_pb2.GenerateStreamResponse
    busy = failure("RESOURCE_EXHAUSTED", "WORKERS_BUSY", retry_after=0.01)
    step = response(progress=generation_pb2.StepProgress(step=1, total_steps=2))
    server.expect("GenerateStream", busy, [step, busy])
    stream = client.generate_stream(prompt="a")
    assert (await anext(stream)).step == 1
    with pytest.raises(flashbulb.WorkersBusy):
        await anext(stream)


async def test_the_timeout_of_a_hanging_call_is_the_clients(server):
    hang = Hang()
    server.expect("GetStatus", hang)
    async with AsyncClient(KEY, server.host, timeout=0.3) as client:
        with pytest.raises(flashbulb.DeadlineExceeded):
            await client.status("r1")
    assert hang.reached.is_set()


async def test_generate_ends_at_its_timeout(client, server):
    server.expect("Generate", Hang())
    with pytest.raises(flashbulb.DeadlineExceeded):
        await client.generate(prompt="a", timeout=0.3)
    assert await asyncio.to_thread(server.calls[0].ended.wait, LIMIT)


@pytest.mark.parametrize("once", [False, True], ids=["status", "generate"])
async def test_a_server_that_is_down_is_waited_for(once):
    server = scripted.ScriptedServer()
    if once:
        server.expect("Generate", generation_pb2.GenerateResponse(output=scripted.output()))
    else:
        server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request()))
    with socket.create_server(("127.0.0.1", 0)) as knocker:
        port = knocker.getsockname()[1]

        def start_after_a_knock():
            knocker.settimeout(LIMIT)
            knocker.accept()[0].close()
            knocker.close()
            server.start(port)

        async with AsyncClient(KEY, f"127.0.0.1:{port}", timeout=LIMIT) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(start_after_a_knock))
            await (client.generate(prompt="a") if once else client.status("r1"))
    server.stop()
    server.verify()


async def test_a_server_that_stays_down_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with AsyncClient(KEY, f"127.0.0.1:{port}", timeout=0.5) as client:
        for call in (client.status("r1"), client.generate(prompt="a"), anext(client.watch("r1"))):
            with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
                await call


def test_failures_of_many_callers_spread():
    delays = sorted(pause(Unavailable("no", retry_after=1.0), 4, repeatable=True) for _ in range(50))
    assert delays[-1] - delays[0] > 0.2
    assert all(a < b for a, b in itertools.pairwise(delays))


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
async def test_generate_is_made_once_while_connections_end_all_the_time(streamed):
    server = scripted.ScriptedServer(max_age_ms=20)
    response = generation_pb2.GenerateStreamResponse if streamed else generation_pb2.GenerateResponse
    reply = response(output=output())
    callers, calls = 8, 150
    server.expect("GenerateStream" if streamed else "Generate", *[[reply] if streamed else reply] * (callers * calls))
    server.start()
    async with AsyncClient(KEY, server.host, timeout=LIMIT) as client:

        async def call():
            for _ in range(calls):
                if streamed:
                    assert len([event async for event in client.generate_stream(prompt="a")]) == 1
                else:
                    assert (await client.generate(prompt="a")).images

        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(call())
    server.stop()
    server.verify()
