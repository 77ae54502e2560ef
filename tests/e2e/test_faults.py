"""What the service survives: killed workers, api, nats-server, S3 server and supervisor; SIGTERM under load. Nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2

from flashbulb.v1 import queue_pb2
from flashbulb_server.config import QueueSettings
from tests.driving import back
from tests.service import RunningService, Stubs, apple, auth, is_running, stubs
from tests.sleeping_worker import SleepingService

pytestmark = pytest.mark.slow

State = queue_pb2.GenerationRequest.State


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[RunningService]:
    """A service that ends within a second or two, with a call of 20 ms a picture."""
    drains = {"WORKER__DRAIN_SECONDS": 1, "API__DRAIN_SECONDS": 1}
    running = SleepingService(tmp_path, seconds=0.02, QUEUE__LEASE_SECONDS=1, QUEUE__JANITOR_SECONDS=0.5, **drains)
    running.start()
    yield running
    running.stop(signal.SIGKILL)


@asynccontextmanager
async def calling(service: RunningService) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(
        service.address, options=[("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
    ) as channel:
        yield stubs(channel)


async def submit(call: Stubs, **fields: object) -> str:
    response = await call.queue.Submit(
        queue_pb2.SubmitRequest(input=apple(**fields)), metadata=auth(), wait_for_ready=True, timeout=30
    )
    return response.request.request_id


def watch(
    call: Stubs, request_id: str, after: int = 0
) -> grpc.aio.UnaryStreamCall[queue_pb2.WatchStatusRequest, queue_pb2.WatchStatusResponse]:
    request = queue_pb2.WatchStatusRequest(request_id=request_id, after_sequence=after, include_logs=True)
    return call.queue.WatchStatus(request, metadata=auth(), wait_for_ready=True, timeout=120)


async def until_step(call: Stubs, request_id: str, step: int) -> int:
    """Waits until so many steps are done; gives the sequence of that event."""
    async for event in watch(call, request_id):
        if event.WhichOneof("event") == "progress" and event.progress.step >= step:
            return event.sequence
    raise AssertionError(f"it ended before step {step}")


async def resumed(call: Stubs, request_id: str, after: int) -> AsyncIterator[queue_pb2.WatchStatusResponse]:
    """A watch that goes on where it broke off, as the clients do."""
    while True:
        try:
            async for event in watch(call, request_id, after):
                after = max(after, event.sequence)
                yield event
            return
        except grpc.aio.AioRpcError as err:
            assert err.code() is grpc.StatusCode.UNAVAILABLE, err


async def until_ended(call: Stubs, request_id: str) -> queue_pb2.GenerationRequest:
    """The request in its terminal state."""
    states = [event.request async for event in resumed(call, request_id, 0) if event.WhichOneof("event") == "request"]
    return states[-1]


async def result_of(call: Stubs, request_id: str) -> queue_pb2.GetResultResponse:
    return await call.queue.GetResult(
        queue_pb2.GetResultRequest(request_id=request_id), metadata=auth(), wait_for_ready=True, timeout=30
    )


async def listed(call: Stubs) -> list[str]:
    """The newest requests."""
    requests = (await call.queue.List(queue_pb2.ListRequest(page_size=100), metadata=auth())).requests
    return [request.request_id for request in requests]


async def test_a_killed_worker_s_request_is_drawn_again_once(breakable: RunningService) -> None:
    async with calling(breakable) as call:
        before = await listed(call)
        request_id = await submit(call, num_inference_steps=32, num_images=4, sync_mode=False)
        await until_step(call, request_id, 2)
        breakable.kill_child("worker")

        ended = await until_ended(call, request_id)
        assert ended.state == State.STATE_SUCCEEDED
        assert ended.attempt == 2

        output = (await result_of(call, request_id)).output
        assert len({image.url.split("?")[0] for image in output.images}) == 4
        assert await listed(call) == [request_id, *before][:100]


async def test_a_killed_worker_s_request_does_not_wait_for_its_lease(tmp_path: Path) -> None:
    service = SleepingService(tmp_path, seconds=0.05, QUEUE__LEASE_SECONDS=600)
    service.start()
    try:
        async with calling(service) as call, asyncio.timeout(60):
            request_id = await submit(call, num_inference_steps=32, num_images=4)
            await until_step(call, request_id, 2)
            service.kill_child("worker")
            ended = await until_ended(call, request_id)
            assert (ended.state, ended.attempt) == (State.STATE_SUCCEEDED, 2)
    finally:
        service.stop(signal.SIGKILL)


async def test_a_request_that_kills_every_worker_fails_and_says_so(breakable: RunningService) -> None:
    async with calling(breakable) as call:
        request_id = await submit(call, num_inference_steps=32, num_images=8)
        for attempt in range(1, QueueSettings().max_attempts + 1):
            async for event in watch(call, request_id):
                if event.WhichOneof("event") == "progress" and event.sequence >> 20 == attempt:
                    break
            await back(breakable, "worker", breakable.kill_child("worker"))
        ended = await until_ended(call, request_id)
        assert ended.state == State.STATE_FAILED
        info = error_details_pb2.ErrorInfo()
        assert ended.error.details[0].Unpack(info)
        assert info.reason == "WORKER_LOST"


async def test_a_watch_goes_on_after_the_api_was_killed(breakable: RunningService) -> None:
    async with calling(breakable) as call:
        request_id = await submit(call, num_inference_steps=32, num_images=6)
        last = await until_step(call, request_id, 3)
        breakable.kill_child("api")

        seen = [event.sequence async for event in resumed(call, request_id, last) if event.sequence]
        assert seen == sorted(set(seen)), "an event came twice or out of order"
        assert seen[0] > last
        steps = 32 - 3
        assert len(seen) >= steps, "steps that passed while the api was away are kept"
        assert (await until_ended(call, request_id)).state == State.STATE_SUCCEEDED


async def test_nothing_acknowledged_is_lost_when_nats_is_killed(breakable: RunningService) -> None:
    async with calling(breakable) as call:
        acknowledged: list[str] = []

        async def submitting(count: int) -> None:
            for _ in range(count):
                try:
                    acknowledged.append(await submit(call))
                except grpc.aio.AioRpcError as err:
                    assert err.code() is grpc.StatusCode.UNAVAILABLE, err
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(submitting(10))
            while len(acknowledged) < 10:
                await asyncio.sleep(0.01)
            breakable.kill_child("nats")
        assert len(acknowledged) >= 10
        for request_id in acknowledged:
            ended = await until_ended(call, request_id)
            assert ended.state == State.STATE_SUCCEEDED, ended
            assert (await result_of(call, request_id)).output.images


async def test_no_picture_is_lost_when_the_s3_server_is_killed(breakable: RunningService) -> None:
    async with calling(breakable) as call:
        first = await submit(call)
        assert (await until_ended(call, first)).state == State.STATE_SUCCEEDED
        pending = [await submit(call) for _ in range(8)]
        old = breakable.kill_child("files")
        for request_id in pending:
            assert (await until_ended(call, request_id)).state == State.STATE_SUCCEEDED
        await back(breakable, "files", old)
        async with httpx.AsyncClient() as http:
            for request_id in [first, *pending]:
                image = (await result_of(call, request_id)).output.images[0]
                assert (await http.get(image.url)).content == image.content


async def test_sigterm_under_load_loses_nothing_and_exits_cleanly(brief: RunningService) -> None:
    async with calling(brief) as call:
        submitted = [await submit(call, num_inference_steps=16, num_images=2) for _ in range(10)]
    assert await asyncio.to_thread(brief.stop) == 0
    await asyncio.to_thread(brief.start)
    async with calling(brief) as call:
        for request_id in submitted:
            assert (await until_ended(call, request_id)).state == State.STATE_SUCCEEDED


async def test_no_process_outlives_a_killed_supervisor(breakable: RunningService) -> None:
    pids = [breakable.child(name) for name in ("nats", "files", "api", "worker")]
    breakable.stop(signal.SIGKILL)
    async with asyncio.timeout(15):
        while any(is_running(pid) for pid in pids):
            await asyncio.sleep(0.05)


async def test_cancel_while_the_pictures_are_being_stored(breakable: RunningService) -> None:
    async with calling(breakable) as call:
        await until_ended(call, await submit(call))
        files = breakable.child("files")
        os.kill(files, signal.SIGSTOP)
        try:
            request_id = await submit(call)
            async for event in watch(call, request_id):
                if event.WhichOneof("event") == "log" and event.log.message.startswith("drawn"):
                    break
            receipt = await call.queue.Cancel(
                queue_pb2.CancelRequest(request_id=request_id), metadata=auth(), timeout=10
            )
        finally:
            os.kill(files, signal.SIGCONT)
        assert receipt.previous_state == State.STATE_RUNNING
        assert receipt.request.state == State.STATE_CANCELLED
        assert (receipt.stopped_at_step, receipt.saved_steps) == (2, 0)
        assert (await until_ended(call, await submit(call))).state == State.STATE_SUCCEEDED
