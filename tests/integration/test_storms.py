"""Hundreds of calls that are given up at any moment: what they held is free afterwards, and no task, call or memory is left of them."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import AsyncIterator

import grpc
import pytest

from flashbulb.v1 import generation_pb2, generation_pb2_grpc, realtime_pb2
from tests.integration.live import KEY, OTHER_KEY, Api, Worker, open_api, open_worker
from tests.integration.stage import Queue, eventually
from tests.sessions import Talk, size, text
from tests.sleeping_pipeline import SleepingPipeline

pytestmark = [pytest.mark.integration, pytest.mark.slow]
CALLS = 300
GROWTH = (
    400_000  # bytes that two storms may leave beyond the first one: less than a frame or a call of each of their calls
)


@pytest.fixture
async def worker(queue: Queue) -> AsyncIterator[Worker]:
    async with open_worker(queue, SleepingPipeline(seconds=0.002)) as running:
        yield running


@pytest.fixture
async def api(queue: Queue, worker: Worker) -> AsyncIterator[Api]:
    async with open_api(queue, per_key=64) as running:
        await running.knows(worker)
        yield running


async def cancelled_calls(api: Api, chance: random.Random) -> int:
    """Calls of both kinds, each given up at a moment of its own. Gives how many were drawn before that."""
    stub = generation_pb2_grpc.GenerationServiceStub(api.channel)
    given = text(prompt="a cat", num_inference_steps=6, image_size=size(8, 8))

    async def one(number: int) -> bool:
        metadata = (("authorization", KEY if number % 2 else OTHER_KEY),)
        await asyncio.sleep(chance.random() * 2)
        call: grpc.aio.Call
        if number % 3:
            call = stub.Generate(generation_pb2.GenerateRequest(input=given), metadata=metadata)
            answer = asyncio.ensure_future(_awaited(call))
        else:
            request = generation_pb2.GenerateStreamRequest(input=given, include_previews=True)
            call = stub.GenerateStream(request, metadata=metadata)
            answer = asyncio.ensure_future(_read(call))
        await asyncio.wait([answer], timeout=chance.random() ** 2)
        call.cancel()
        return await answer

    return sum(await asyncio.gather(*(one(number) for number in range(CALLS))))


async def _awaited(call: grpc.aio.UnaryUnaryCall) -> bool:
    try:
        return bool((await call).output.images)
    except (asyncio.CancelledError, grpc.aio.AioRpcError):
        return False


async def _read(call: grpc.aio.UnaryStreamCall) -> bool:
    try:
        return [event.HasField("output") async for event in call][-1:] == [True]
    except (asyncio.CancelledError, grpc.aio.AioRpcError):
        return False


async def dropped_sessions(api: Api, chance: random.Random) -> int:
    """Sessions with any number of frames in flight, broken off at any moment. Gives the pictures that came."""
    defaults = text(prompt="a cat", num_inference_steps=6, image_size=size(8, 8))

    async def one(number: int) -> int:
        await asyncio.sleep(chance.random() * 0.5)
        call = api.stub.Connect(metadata=(("authorization", KEY if number % 2 else OTHER_KEY),))
        talk = Talk(call)
        try:
            await talk.open(defaults, max_frames_in_flight=1 + number % 4, frame_policy=1 + number // 4 % 2)
            for frame_id in range(1, 1 + number % 9):
                await talk.send(frame_id, prompt=f"cat {frame_id}")
            async with asyncio.timeout(chance.random() * 0.2):
                await talk.until_answered(99)
        except (TimeoutError, grpc.aio.AioRpcError):
            pass
        finally:
            call.cancel()
        return len(talk.pictures)

    return sum(await asyncio.gather(*(one(number) for number in range(100))))


async def settled(api: Api, worker: Worker) -> None:
    """Waits until nobody holds anything."""
    await worker.free()
    (stream,) = api.engines._streams.values()
    await eventually(lambda: not stream._calls)
    await eventually(lambda: all(not s._calls for s in worker.servicer._streams))
    await eventually(lambda: not api.realtime._counts.total() and not api.realtime._live)
    assert not worker.engine._open


@pytest.mark.parametrize("storm", [cancelled_calls, dropped_sessions])
async def test_nothing_is_left_of_a_storm(api: Api, worker: Worker, storm) -> None:
    chance = random.Random(7)
    drawn = await storm(api, chance)
    await settled(api, worker)
    tasks = len(asyncio.all_tasks())
    tracemalloc.start()
    try:
        drawn += await storm(api, chance)
        await settled(api, worker)
        api.realtime._parked.clear()  # sessions that may be resumed: of these so many are kept
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2):
            drawn += await storm(api, chance)
        await settled(api, worker)
        api.realtime._parked.clear()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 1)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < GROWTH, f"{grown} bytes"
    assert 0 < drawn
    async with api.session(max_frames_in_flight=4, frame_policy=realtime_pb2.FRAME_POLICY_ALL) as session:
        for frame_id in range(1, 9):
            await session.send(frame_id)
        await session.until_answered(8)
        assert session.pictures == list(range(1, 9)), "and everything works"
