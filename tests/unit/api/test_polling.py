"""Polls: how seldom the store is read, and how soon a change is seen all the same."""

from __future__ import annotations

import asyncio

import pytest

from flashbulb_server.api.polling import Polling
from flashbulb_server.api.queueing import RequestView
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.core.requests import Priority, Request, State
from flashbulb_server.errors import NewerRelease, RequestNotFound, StoreUnavailable
from tests.specs import make_spec

ONE, OTHER = new_request_id(1.0), new_request_id(2.0)


class Ear:
    """Stands in for a subscription."""

    def __init__(self, kinds) -> None:
        self.kinds, self.heard, self.closed = kinds, False, False

    async def close(self) -> None:
        self.closed = True


class World:
    """A store with requests that can be changed, its events, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.states = {ONE: State.RUNNING, OTHER: State.QUEUED}
        self.reads: list[tuple[str, bool]] = []
        self.ears: list[Ear] = []
        self.away = False
        self.problem: Exception = StoreUnavailable("queue")
        self.gate: asyncio.Event | None = None
        self.polling = Polling(self, self, clock=lambda: self.now)

    async def status(self, owner, request_id, *, logs=False):
        self.reads.append((request_id, logs))
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise self.problem
        if owner != "me" or request_id not in self.states:
            raise RequestNotFound(request_id)
        state = self.states[request_id]
        return RequestView(Request(request_id, owner, make_spec(), state, Priority.NORMAL, 0.0, 10.0))

    async def listen(self, request_id, kinds):
        self.ears.append(Ear(kinds))
        return self.ears[-1]

    async def poll(self, request_id=ONE, owner="me", **options) -> State:
        return (await self.polling.status(owner, request_id, **options)).view.request.state


@pytest.fixture
def world() -> World:
    return World()


async def test_a_second_poll_reads_nothing(world):
    assert [await world.poll() for _ in range(5)] == [State.RUNNING] * 5
    assert world.reads == [(ONE, False)]


async def test_what_is_heard_is_read_at_once(world):
    await world.poll()
    world.states[ONE] = State.SUCCEEDED
    world.ears[0].heard = True
    assert await world.poll() is State.SUCCEEDED


async def test_what_is_heard_while_it_is_read_is_read_again(world):
    world.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(world.poll())
        await asyncio.sleep(0)
        while not world.reads:
            await asyncio.sleep(0)
        world.ears[0].heard = True
        world.gate.set()
    assert first.result() is State.RUNNING
    await world.poll()
    assert len(world.reads) == 2


async def test_a_lost_event_is_made_up_for(world):
    await world.poll()
    world.states[ONE] = State.SUCCEEDED
    world.now = 0.4
    assert await world.poll() is State.RUNNING
    world.now = 0.6
    assert await world.poll() is State.SUCCEEDED


async def test_what_was_done_here_is_seen_at_once(world):
    await world.poll()
    world.states[ONE] = State.CANCELLED
    world.polling.forget(ONE)
    assert await world.poll() is State.CANCELLED


async def test_many_share_one_read(world):
    world.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        polls = [tasks.create_task(world.poll()) for _ in range(50)]
        await asyncio.sleep(0.01)
        world.gate.set()
    assert {poll.result() for poll in polls} == {State.RUNNING}
    assert len(world.reads) == 1


async def test_while_it_is_read_again_others_are_told_what_was_known(world):
    await world.poll()
    world.now = 5.0
    world.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        slow = tasks.create_task(world.poll())
        while len(world.reads) < 2:
            await asyncio.sleep(0)
        assert await world.poll() is State.RUNNING
        assert not slow.done()
        world.gate.set()
    assert len(world.reads) == 2


async def test_an_ended_request_is_followed_no_more(world):
    world.states[ONE] = State.FAILED
    await world.poll()
    assert world.ears[0].closed
    world.now = 20.0
    await world.poll()
    assert len(world.reads) == 1


async def test_logs_are_followed_where_they_are_wanted(world):
    await world.poll()
    await world.poll(logs=True)
    assert [ear.kinds for ear in world.ears] == [("state",), ("state", "log")]
    assert world.reads == [(ONE, False), (ONE, True)]


async def test_what_nobody_asks_for_is_forgotten(world):
    await world.poll()
    world.now = 6.0
    await world.poll(OTHER)
    assert [ear.closed for ear in world.ears] == [True, False]


@pytest.mark.parametrize("problem", [StoreUnavailable("queue"), NewerRelease("it")], ids=["outage", "newer release"])
async def test_what_soon_passes_is_not_noticed_for_a_while(world, problem):
    await world.poll()
    world.away, world.problem = True, problem
    for world.now in (1.0, 10.0, 59.0):
        assert await world.poll() is State.RUNNING
    world.now = 200.0
    with pytest.raises(type(problem)):
        await world.poll()
    world.away = False
    assert await world.poll() is State.RUNNING


async def test_an_outage_at_the_first_poll_is_told(world):
    world.away = True
    with pytest.raises(StoreUnavailable):
        await world.poll()
    assert world.ears[0].closed


@pytest.mark.parametrize("request_id", [">", "*", "", new_request_id(3.0)], ids=[">", "*", "empty", "nobody's"])
async def test_an_unknown_request_is_told_each_time(world, request_id):
    for _ in range(2):
        with pytest.raises(RequestNotFound):
            await world.poll(request_id)
    assert all(ear.closed for ear in world.ears)


async def test_another_owner_sees_nothing(world):
    await world.poll()
    with pytest.raises(RequestNotFound):
        await world.poll(owner="other")


async def test_many_requests_are_read_less_often(world):
    ids = [new_request_id(4.0) for _ in range(400)]
    world.states |= dict.fromkeys(ids, State.QUEUED)
    for step in range(60):
        world.now = step / 10
        for one in ids:
            await world.poll(one)
    assert len(world.reads) / 6 < 200, "reads a second"
