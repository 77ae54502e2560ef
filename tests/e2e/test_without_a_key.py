"""What callers without a key can do to the service: nothing that one with a key would notice, and they fill no memory."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc
import psutil
import pytest

from tests.driving import Caller
from tests.raw_http2 import RawCall, prefix, raw_call
from tests.service import RunningService, auth

MIB = 1 << 20
SILENT = 3000  # more than api.max_calls
MESSAGE = 16 * MIB - 1024
SUBMIT = "/flashbulb.v1.QueueService/Submit"
NOBODY = {"no key": (), "a wrong key": auth("tester:wrong")}
each_nobody = pytest.mark.parametrize("nobody", NOBODY.values(), ids=NOBODY)


@each_nobody
@pytest.mark.parametrize(
    "method", [SUBMIT, "/flashbulb.v1.RealtimeService/Connect", "/grpc.health.v1.Health/Watch"], ids=lambda m: m[-7:]
)
async def test_silent_calls_keep_nobody_out(
    service: RunningService, me: Caller, method: str, nobody: tuple[tuple[str, str], ...]
) -> None:
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(service.address, options=own) as channel:
        calls = [channel.stream_stream(method)(metadata=nobody) for _ in range(SILENT)]
        await asyncio.gather(*(call.initial_metadata() for call in calls[-8:]))  # the server has seen them all
        assert len((await me.generate()).images) == 1
        for call in calls:
            call.cancel()


@each_nobody
async def test_messages_without_a_key_fill_no_memory(
    service: RunningService, me: Caller, nobody: tuple[tuple[str, str], ...]
) -> None:
    api = psutil.Process(service.child("api"))
    await me.generate()
    before = api.memory_info().rss
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(raw_call(service.address)) for _ in range(40)]
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(_all_but_the_end(call, nobody))
        assert len((await me.generate()).images) == 1
        grown = api.memory_info().rss - before
    assert all(call.ended.is_set() for call in calls)
    assert grown < 100 * MIB  # were they held: 640 MiB


async def _all_but_the_end(call: RawCall, metadata: tuple[tuple[str, str], ...]) -> None:
    """As much of a large message as is taken. A message that is whole is answered and gone."""
    call.open(SUBMIT, metadata)
    await call.send(prefix(MESSAGE) + bytes(MESSAGE - 1))
