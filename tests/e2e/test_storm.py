"""Hundreds of calls given up at random times: afterwards the service is as it was."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from flashbulb.v1 import generation_pb2
from tests.driving import Caller, until
from tests.leftovers import Weight, in_flight
from tests.service import SPARE_KEYS, RunningService, apple, auth, stubs

CALLS = 200


async def storm(service: RunningService, chance: random.Random) -> None:
    """Calls and requests of many keys, cancelled in any state, over connections that are closed."""
    async with grpc.aio.insecure_channel(service.address) as channel:
        call = stubs(channel)

        async def one(number: int) -> None:
            key = SPARE_KEYS[number % 20]
            await asyncio.sleep(chance.random() * 2)
            given = apple(num_inference_steps=8, num_images=1 + number % 4)
            if number % 4:
                request = generation_pb2.GenerateStreamRequest(input=given, include_previews=True)
                stream = call.generation.GenerateStream(request, metadata=auth(key))
                await asyncio.sleep(chance.random() * 0.5)
                stream.cancel()
            else:
                caller = Caller(call, key)
                request_id = (await caller.submit(given)).request_id
                await asyncio.sleep(chance.random() * 0.5)
                await asyncio.gather(*(caller.cancel(request_id) for _ in range(2)))

        await asyncio.gather(*(one(number) for number in range(CALLS)))


@pytest.mark.slow
async def test_nothing_is_left_of_a_storm_of_cancelled_calls(service: RunningService, me: Caller) -> None:
    chance = random.Random(3)

    async def settled() -> bool:
        return await in_flight(service) == 0

    async def come_and_go() -> dict[str, Weight]:
        await storm(service, chance)
        await until(settled, 60)
        await me.generate()
        return {name: Weight.of(service.child(name)) for name in ("api", "worker")}

    await come_and_go()  # what is allocated once is allocated now
    before = await come_and_go()
    after = await come_and_go()
    for name, weight in after.items():
        assert weight.files <= before[name].files + 5, name
        assert weight.memory < before[name].memory + (16 if name == "api" else 64), name
