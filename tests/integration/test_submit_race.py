"""Six calls with one idempotency key at once, key after key, on a queue that is full most of the time: the real stores under the real race."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import cast

import pytest

from flashbulb_server.api.sources import InlineSources
from flashbulb_server.api.stores import Stores
from flashbulb_server.api.submitting import Submitting
from flashbulb_server.config import QueueSettings
from flashbulb_server.core.submission import Submission
from flashbulb_server.errors import QueueFull, RequestNotFound
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.messaging.jobs import JobConsumer
from flashbulb_server.storage.file_store import FileStore
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import OWNER, POOL, Queue, open_queue
from tests.specs import make_spec

pytestmark = [pytest.mark.integration, pytest.mark.slow]
CALLERS = 6


class Race:
    """`tally`: acknowledged and refused calls, ids that were acknowledged and are lost, keys with two ids."""

    def __init__(self, queue: Queue, submittings: list[Submitting]) -> None:
        self.tally: Counter[str] = Counter()
        self._queue = queue
        self._submittings = submittings

    async def run(self, keys: int) -> None:
        """Key after key, four at a time, while a worker takes jobs out."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle_jobs(over))
            for start in range(0, keys, 4):
                await asyncio.gather(*(self._contest(f"key-{n}") for n in range(start, min(start + 4, keys))))
            over.set()

    async def _settle_jobs(self, over: asyncio.Event) -> None:
        dice = random.Random(7)
        async with JobConsumer.open(self._queue.nc, [POOL]) as leases:
            while not over.is_set():
                if lease := await leases.next():
                    await asyncio.sleep(dice.random() * 0.004)
                    await lease.done()

    async def _contest(self, key: str) -> None:
        answers = await asyncio.gather(*(self._call(number, key) for number in range(CALLERS)))
        ids = {answer for answer in answers if answer is not None}
        self.tally["keys with two ids"] += len(ids) > 1
        for request_id in ids:
            try:
                await self._queue.records.get(OWNER, request_id)
            except RequestNotFound:
                self.tally["acknowledged and lost"] += 1

    async def _call(self, number: int, key: str) -> str | None:
        submitting = self._submittings[number % len(self._submittings)]
        try:
            request, _ = await submitting.submit(OWNER, make_spec(), Submission(idempotency_key=key), digest=b"d")
        except QueueFull:
            self.tally["refused"] += 1
            return None
        self.tally["acknowledged"] += 1
        return request.request_id


async def race(server: RunningNats, keys: int) -> Counter[str]:
    """What came of so many keys, submitted through two apis to a queue with three places."""
    settings = QueueSettings(max_requests=3)
    async with AsyncExitStack() as stack:
        submittings = []
        for _ in range(2):
            queue = await stack.enter_async_context(open_queue(server, settings))
            fleet = await stack.enter_async_context(Fleet.open(queue.nc, queue.js))
            stores = Stores(queue.records, queue.keys, queue.jobs, queue.events, fleet, queue.webhooks)
            sources = InlineSources(cast(FileStore, None))  # no picture is submitted
            submittings.append(Submitting(stores, sources, settings, clock=time.time))
        contest = Race(queue, submittings)
        await contest.run(keys)
    return contest.tally


async def test_a_full_queue_loses_nothing_that_was_acknowledged(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)
    tally = await race(nats_server, 400)
    assert tally["acknowledged and lost"] == 0 and tally["keys with two ids"] == 0, tally
    assert tally["refused"] > 50 and tally["acknowledged"] > 50, tally  # the queue was full, and was not


if __name__ == "__main__":  # a longer race: python -m tests.integration.test_submit_race 4000
    import sys
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        running = RunningNats(Path(folder))
        running.start_and_wait()
        try:
            began = time.monotonic()
            print(dict(asyncio.run(race(running, int(sys.argv[1])))), f"{time.monotonic() - began:.0f} s")  # noqa: T201
        finally:
            running.kill()
