"""Every pair of children killed in the same moment: the supervisor lives, and the service draws again.

PAIR_ROUNDS: how often each pair is killed, 1 by default. `PAIR_ROUNDS=20 pytest -s tests/e2e/test_pairs.py` prints how long it took each time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from itertools import combinations

import grpc
import pytest

from flashbulb.v1 import queue_pb2
from tests.e2e.conftest import SOON_AGAIN
from tests.service import RunningService, Stubs, apple, auth, stubs

CHILDREN = ("api", "files", "nats", "worker")
ROUNDS = int(os.environ.get("PAIR_ROUNDS", "1"))
BACK_SECONDS = 90
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180 + 6 * ROUNDS * BACK_SECONDS)]

SUCCEEDED = queue_pb2.GenerationRequest.STATE_SUCCEEDED


async def draws(call: Stubs) -> bool:
    """Whether a request that is submitted now is drawn, and its picture stored."""
    try:
        submitted = await call.queue.Submit(queue_pb2.SubmitRequest(input=apple()), metadata=auth(), timeout=5)
        request_id = submitted.request.request_id
        watch = call.queue.WatchStatus(
            queue_pb2.WatchStatusRequest(request_id=request_id), metadata=auth(), timeout=BACK_SECONDS
        )
        states = [event.request.state async for event in watch if event.WhichOneof("event") == "request"]
        return states[-1] == SUCCEEDED
    except grpc.aio.AioRpcError as err:
        assert err.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), err
        return False


async def back(service: RunningService, call: Stubs, killed: dict[str, int]) -> None:
    """Waits until what was killed runs again, and a request is drawn."""
    async with asyncio.timeout(BACK_SECONDS):
        while any(service.children().get(name) in (None, pid) for name, pid in killed.items()):
            assert service.is_running, service.log.read_text()
            await asyncio.sleep(0.02)
        while not await draws(call):
            await asyncio.sleep(0.05)


async def test_every_pair_of_children_killed_in_the_same_moment(breakable: RunningService) -> None:
    service, before = breakable, breakable.errors()
    took: dict[tuple[str, ...], list[float]] = {pair: [] for pair in combinations(CHILDREN, 2)}
    async with grpc.aio.insecure_channel(service.address, options=SOON_AGAIN) as channel:
        call = stubs(channel)
        assert await draws(call)
        for number in range(ROUNDS):
            for pair, seconds in took.items():
                killed = {name: service.child(name) for name in pair}
                began = time.monotonic()
                for pid in killed.values():
                    os.kill(pid, signal.SIGKILL)
                await back(service, call, killed)
                seconds.append(time.monotonic() - began)
                print(f"round {number + 1}: {' and '.join(pair)} back after {seconds[-1]:.1f} s", flush=True)  # noqa: T201
    assert service.is_running
    assert not [line for line in service.errors()[len(before) :] if "Traceback" in line]
    for pair, seconds in took.items():
        middle, most = statistics.median(seconds), max(seconds)
        print(f"{' and '.join(pair)}: {len(seconds)} times, median {middle:.1f} s, longest {most:.1f} s")  # noqa: T201
