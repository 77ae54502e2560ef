"""Submissions that meet: every order of their steps, over stores that do what JetStream does, one step at a time.

The stores here hold what those of `messaging` promise (compare-and-set by revision, a purge up to a revision, a queue with a limit); that the
real ones keep these promises is for tests/integration/test_records.py and test_jobs.py to show. What is looked for: an id that was
acknowledged and has no record or no job, and a key that answered with two ids.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from flashbulb_server.api.sources import InlineFiles
from flashbulb_server.api.stores import Stores
from flashbulb_server.api.submitting import Submitting
from flashbulb_server.config import QueueSettings
from flashbulb_server.core.files import uri_of
from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.requests import Priority, Request, State
from flashbulb_server.core.submission import Submission
from flashbulb_server.errors import QueueFull, RequestNotFound
from flashbulb_server.messaging.records import Binding, RevisionConflict, Stored
from flashbulb_server.wire.records import Job
from tests.specs import make_image_spec

CALLERS = 6
ROOM = 2


@dataclass
class Steps:
    """Lets one of the waiting calls go on at a time, by the dice; some calls are slow, and any may stop for good before a step."""

    dice: random.Random
    deaths: float
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    paces: dict[asyncio.Future[None], float] = field(default_factory=dict)

    async def turn(self) -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        self.paces[gate] = 0.02 if self.dice.random() < 0.15 else 1.0
        await gate

    def go_on(self) -> None:
        (gate,) = self.dice.choices(self.waiting, [self.paces[gate] for gate in self.waiting])
        self.waiting.remove(gate)
        del self.paces[gate]
        if gate.done():
            return
        if self.dice.random() < self.deaths:
            gate.cancel()  # the process dies here
        else:
            gate.set_result(None)


class World:
    """Records, keys, jobs and files, each operation a step."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.revision = 0
        self.stored: dict[str, Stored] = {}
        self.bound: dict[str, Binding] = {}
        self.queue: dict[str, Job] = {}
        self.files: set[str] = set()

    def _next(self) -> int:
        self.revision += 1
        return self.revision

    # records
    async def create(self, request: Request) -> Stored:
        return await self.replace(Stored(request, 0, b""), request)

    async def get(self, owner: str, request_id: str) -> Stored:
        await self.steps.turn()
        if request_id not in self.stored:
            raise RequestNotFound(request_id)
        return self.stored[request_id]

    async def confirm(self, stored: Stored) -> Stored:
        return await self.replace(stored, stored.request)

    async def replace(self, stored: Stored, request: Request) -> Stored:
        await self.steps.turn()
        present = self.stored.get(request.request_id)
        if (present.revision if present else 0) != stored.revision:
            raise RevisionConflict
        made = self.stored[request.request_id] = Stored(request, self._next(), b"")
        return made

    async def forget(self, stored: Stored) -> bool:
        await self.steps.turn()
        present = self.stored.get(stored.request.request_id)
        if present is None or present.revision > stored.revision:
            return False
        del self.stored[stored.request.request_id]
        return True

    # keys
    async def claim(self, owner: str, token: str, request_id: str, digest: bytes) -> Binding:
        await self.steps.turn()
        if token in self.bound:
            return replace(self.bound[token], claimed=False)
        self.bound[token] = Binding(owner, token, request_id, digest, self._next(), claimed=True)
        return self.bound[token]

    async def keep(self, binding: Binding) -> bool:
        await self.steps.turn()
        present = self.bound.get(binding.token)
        if present is None or present.revision != binding.revision:
            return False
        self.bound[binding.token] = replace(present, revision=self._next())
        return True

    async def release(self, binding: Binding) -> bool:
        await self.steps.turn()
        present = self.bound.get(binding.token)
        if present is None or present.revision > binding.revision:
            return False
        del self.bound[binding.token]
        return True

    # jobs
    async def publish(self, job: Job, priority: Priority) -> None:
        await self.steps.turn()
        if job.request_id in self.queue:
            return
        if len(self.queue) >= ROOM:
            raise QueueFull(ROOM)
        self.queue[job.request_id] = job

    async def waiting(self, model_name: str) -> int:
        await self.steps.turn()
        return len(self.queue)

    # files
    async def read(self, spec: object) -> Mapping[str, bytes]:
        return {"image_url": b"picture"}

    async def store(self, files: InlineFiles) -> None:
        await self.steps.turn()
        self.files.update(uri_of(key) for key in files.contents)

    async def discard(self, files: InlineFiles) -> None:
        await self.steps.turn()
        self.files.difference_update(uri_of(key) for key in files.contents)

    async def work(self) -> None:
        """Workers start requests and settle their jobs; a job without a record is settled unseen."""
        while True:
            for _ in range(self.steps.dice.randint(1, 12)):
                await self.steps.turn()
            if not self.queue:
                continue
            job = self.queue.pop(self.steps.dice.choice(list(self.queue)))
            if job.request_id in self.stored:
                stored = self.stored[job.request_id]
                done = replace(stored.request, state=State.SUCCEEDED)
                self.stored[job.request_id] = Stored(done, self._next(), b"")


async def run(seed: int, deaths: float) -> tuple[World, list[str]]:
    """One world in which so many calls carry one key. Gives it as they left it, and the ids that they answered with."""
    steps = Steps(random.Random(seed), deaths)
    world = World(steps)
    stores = Stores(*[world] * 6)  # type: ignore[arg-type]  # one object plays all parts
    acknowledged: list[str] = []

    async def call() -> None:
        submitting = Submitting(stores, world, QueueSettings(), clock=lambda: 1e9 + steps.dice.random())  # type: ignore[arg-type]
        spec = make_image_spec(image=SourceImage(content=b"picture"))
        limit = steps.dice.choice([None, None, ROOM])
        submission = Submission(idempotency_key="key", max_waiting=limit)
        for _ in range(2):  # refused, a caller tries again
            try:
                request, _ = await submitting.submit("owner", spec, submission, digest=b"d")
            except QueueFull:
                continue
            acknowledged.append(request.request_id)
            return

    for filler in range(ROOM):
        world.queue[f"filler-{filler}"] = Job(f"filler-{filler}", "other", 0.0, "m", 1)
    calls = [asyncio.ensure_future(call()) for _ in range(CALLERS)]
    worker = asyncio.ensure_future(world.work())
    while not all(task.done() for task in calls):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if steps.waiting:
            steps.go_on()
        if worker.done():
            worker = asyncio.ensure_future(world.work())
    worker.cancel()
    for task in calls:
        assert task.cancelled() or task.exception() is None
    return world, acknowledged


@pytest.mark.parametrize("deaths", [0.0, 0.02], ids=["all live", "some die"])
async def test_nothing_acknowledged_is_lost_and_a_key_has_one_id_in_any_order(deaths: float) -> None:
    answers = refused = 0
    for seed in range(600):
        world, acknowledged = await run(seed, deaths)
        answers += len(acknowledged)
        refused += CALLERS - len(acknowledged)
        assert len(set(acknowledged)) <= 1, f"seed {seed}: a key has two ids"
        for request_id in set(acknowledged):
            assert request_id in world.stored, f"seed {seed}: acknowledged and lost"
            queued = world.stored[request_id].request.state is State.QUEUED
            assert not queued or request_id in world.queue, f"seed {seed}: acknowledged, and nobody will draw it"
            picture = world.stored[request_id].request.spec.sources["image_url"].uri
            assert picture in world.files, f"seed {seed}: its picture is gone"
            assert [b.request_id for b in world.bound.values()] == [request_id], f"seed {seed}: its key is free"
    assert answers > 200 and refused > 200  # both ends were met
