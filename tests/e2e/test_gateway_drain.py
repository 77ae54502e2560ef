"""What becomes of calls over HTTP when the service is told to stop, or a store is away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.driving import until
from tests.gateway import LCM, Fal, events, quick
from tests.leftovers import in_flight
from tests.service import KEY, RunningService
from tests.sleeping_pipeline import SLOWLY

pytestmark = pytest.mark.slow


@pytest.fixture
async def page(breakable: RunningService) -> AsyncIterator[Fal]:
    """A caller of a service that may be broken."""
    headers = {"authorization": f"Key {KEY}"}
    base = f"http://{breakable.http_address}"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30, trust_env=False) as http:
        yield Fal(http)


async def test_calls_are_finished_and_streams_broken_off(breakable: RunningService, page: Fal) -> None:
    async def both_are_drawn() -> bool:
        return await in_flight(breakable) == 2

    before = breakable.errors()
    waiting = await page.queued(prompt=SLOWLY, num_inference_steps=32)
    async with asyncio.TaskGroup() as tasks:
        drawn = tasks.create_task(page.run(quick(prompt=SLOWLY, num_inference_steps=16)))
        await until(both_are_drawn)
        async with page.http.stream("GET", waiting["status_url"] + "/stream") as answer:
            stream = events(answer)
            await anext(stream)
            breakable.send(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in stream:
                    pass
    assert drawn.result().status_code == 200
    assert await asyncio.to_thread(breakable.stop) == 0
    assert breakable.errors() == before
    with pytest.raises(httpx.ConnectError):
        await page.http.get("/healthz")


async def test_polls_outlive_the_queue_for_a_while(breakable: RunningService, page: Fal) -> None:
    request = await page.queued(prompt=SLOWLY, num_images=2, num_inference_steps=32)
    await page.until(request, "IN_PROGRESS")
    nats = breakable.kill_child("nats")
    states = set()
    async with asyncio.timeout(60):
        while not breakable.child_is_back("nats", nats) or len(states) < 1:
            answer = await page.http.get(request["status_url"])
            states.add((answer.status_code, answer.json()["status"]))
            await asyncio.sleep(0.05)
    assert states == {(202, "IN_PROGRESS")}
    assert (await page.ended(request))["outcome"] == "OK"
    assert LCM in request["status_url"]
