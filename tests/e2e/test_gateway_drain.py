"""What becomes of calls over HTTP when the service is told to stop, or a store is away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway import LCM, Fal, events, quick
from tests.service import KEY, RunningService
from tests.sleeping_worker import SleepingService

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def slow_service(tmp_path: Path) -> Iterator[RunningService]:
    """A service that takes 0.3 s for a step."""
    running = SleepingService(tmp_path, seconds=0.3)
    running.start()
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
async def slow(slow_service: RunningService) -> AsyncIterator[Fal]:
    """A caller of it."""
    headers = {"authorization": f"Key {KEY}"}
    base = f"http://{slow_service.http_address}"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30, trust_env=False) as http:
        yield Fal(http)


async def test_calls_are_finished_and_streams_broken_off(slow_service: RunningService, slow: Fal) -> None:
    waiting = await slow.queued(num_inference_steps=32)
    async with asyncio.TaskGroup() as tasks:
        drawn = tasks.create_task(slow.run(quick(num_inference_steps=8)))
        async with slow.http.stream("GET", waiting["status_url"] + "/stream") as answer:
            stream = events(answer)
            await anext(stream)
            slow_service.send(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in stream:
                    pass
    assert drawn.result().status_code == 200
    assert await asyncio.to_thread(slow_service.stop) == 0
    assert slow_service.errors() == []
    with pytest.raises(httpx.ConnectError):
        await slow.http.get("/healthz")


async def test_polls_outlive_the_queue_for_a_while(slow_service: RunningService, slow: Fal) -> None:
    request = await slow.queued(num_inference_steps=32)
    await slow.until(request, "IN_PROGRESS")
    nats = slow_service.kill_child("nats")
    states = set()
    async with asyncio.timeout(60):
        while slow_service.child("nats") == nats or len(states) < 1:
            answer = await slow.http.get(request["status_url"])
            states.add((answer.status_code, answer.json()["status"]))
            await asyncio.sleep(0.05)
    assert states == {(202, "IN_PROGRESS")}
    assert (await slow.ended(request))["outcome"] == "OK"
    assert LCM in request["status_url"]
