"""A queue, a worker that draws when it is told to, and an api, for the tests that break none of them in a way of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.live import Api, GatedPipeline, Worker, open_api, open_worker
from tests.integration.stage import Queue, open_queue


@pytest.fixture
async def queue(nats_server: RunningNats) -> AsyncIterator[Queue]:
    await forget_streams(nats_server)
    async with open_queue(nats_server) as opened:
        yield opened


@pytest.fixture
async def worker(queue: Queue) -> AsyncIterator[Worker]:
    """A worker that waits in every step until `worker.pipeline.let_go()`."""
    async with open_worker(queue, GatedPipeline()) as running:
        yield running


@pytest.fixture
async def api(queue: Queue, worker: Worker) -> AsyncIterator[Api]:
    async with open_api(queue) as running:
        await running.knows(worker)
        yield running


@pytest.fixture
def gate(worker: Worker) -> GatedPipeline:
    assert isinstance(worker.pipeline, GatedPipeline)
    return worker.pipeline
