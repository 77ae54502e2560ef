"""Workers and their models as the api sees them, and cancellations on their way to a worker, on a real nats-server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from nats.aio.msg import Msg

from flashbulb_server.core.catalog import EMBEDDED_MODEL, FAST_LCM, declared_model
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind
from flashbulb_server.messaging.fleet import Fleet, Herald, Stopped
from flashbulb_server.messaging.topology import WORKER_SECONDS
from flashbulb_server.wire.records import Announcement
from tests.embedded import RunningNats
from tests.integration.stage import GARBAGE, Queue, dead, eventually, open_queue
from tests.sleeping_pipeline import SleepingPipeline

pytestmark = pytest.mark.integration
WORKER = Announcement("one", "127.0.0.1:1", ("sleeping",), 8, 2, 0.5, draining=False, time=1_700_000_000.0)


class Clock:
    """Monotonic seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ids(fleet: Fleet) -> set[str]:
    return {worker.worker_id for worker in fleet.workers()}


async def test_what_a_worker_announces_is_known(queue: Queue) -> None:
    herald = Herald(queue.nc, queue.js)
    await herald.announce(WORKER)  # before the api
    async with Fleet.open(queue.nc, queue.js) as fleet:
        assert fleet.workers() == [WORKER]
        busier = replace(WORKER, in_flight=5)
        await herald.announce(busier)
        await herald.announce(replace(WORKER, worker_id="two", address="127.0.0.1:2"))
        await eventually(lambda: ids(fleet) == {"one", "two"})
        assert busier in fleet.workers()
        assert fleet.addresses() == {"127.0.0.1:1", "127.0.0.1:2"}


async def test_the_embedded_model_stands_in_where_no_model_is_declared(queue: Queue) -> None:
    herald = Herald(queue.nc, queue.js)
    tiny = replace(SleepingPipeline(EMBEDDED_MODEL).info, safe_by_construction=True)
    await herald.announce_models([tiny])
    declared = [declared_model("some/model", ["flux-lora"])]
    async with (
        Fleet.open(queue.nc, queue.js, stand_in=True) as willing,
        Fleet.open(queue.nc, queue.js, stand_in=False) as unwilling,
        Fleet.open(queue.nc, queue.js, stand_in=True, declared=declared) as declaring,
    ):
        hosted = FAST_LCM.hosted_models
        assert [(m.name, m.stands_in_for) for m in willing.installed()] == [(EMBEDDED_MODEL, hosted)]
        assert unwilling.installed() == [tiny]
        assert {m.name: m.stands_in_for for m in declaring.installed()} == {EMBEDDED_MODEL: (), "some/model": ()}


async def test_a_worker_that_falls_silent_is_gone_and_one_that_speaks_again_is_back(queue: Queue) -> None:
    clock, herald = Clock(), Herald(queue.nc, queue.js)
    async with Fleet.open(queue.nc, queue.js, clock=clock) as fleet:
        await herald.announce(WORKER)
        await eventually(lambda: ids(fleet) == {"one"})
        clock.now += WORKER_SECONDS - 0.1
        assert ids(fleet) == {"one"}
        clock.now += 0.2
        assert ids(fleet) == set()
        assert fleet.addresses() == {"127.0.0.1:1"}  # it may still be drawing something
        await herald.announce(WORKER)
        await eventually(lambda: ids(fleet) == {"one"})
        clock.now += 100 * WORKER_SECONDS
        await herald.announce(replace(WORKER, worker_id="two", address="127.0.0.1:2"))
        await eventually(lambda: fleet.addresses() == {"127.0.0.1:2"})


async def test_a_draining_worker_gets_nothing_new(queue: Queue) -> None:
    herald = Herald(queue.nc, queue.js)
    async with Fleet.open(queue.nc, queue.js) as fleet:
        await herald.announce(WORKER)
        await eventually(lambda: ids(fleet) == {"one"})
        await herald.announce(replace(WORKER, draining=True))
        await eventually(lambda: ids(fleet) == set())
        assert fleet.addresses() == {WORKER.address}


async def test_models_outlive_their_workers(queue: Queue) -> None:
    model = SleepingPipeline("flashbulb/with.odd*names >").info
    async with Fleet.open(queue.nc, queue.js) as fleet:
        await Herald(queue.nc, queue.js).announce_models([model, SleepingPipeline("other").info])
        await eventually(lambda: {m.name for m in fleet.models()} == {model.name, "other"})
    async with Fleet.open(queue.nc, queue.js) as later:  # no worker was ever announced
        assert later.workers() == []
        assert model in later.models()


async def test_a_worker_answers_what_it_stopped_in_time(queue: Queue) -> None:
    async def stop(request_id: str) -> Stopped:
        if request_id == "slow":
            await asyncio.sleep(0.5)
        return Stopped(request_id != "unknown", 2, 9)

    async with (
        Fleet.open(queue.nc, queue.js) as fleet,
        Herald(queue.nc, queue.js).hear_cancellations("one", stop),
    ):
        assert await fleet.cancel("one", "held", seconds=5) == Stopped(True, 2, 9)
        assert await fleet.cancel("one", "unknown", seconds=5) == Stopped(False, 2, 9)
        slow, quick = await asyncio.gather(_timed(fleet, "slow"), _timed(fleet, "quick"))
        assert quick < 0.5 <= slow  # one does not wait for the other
        assert await fleet.cancel("one", "slow", seconds=0.05) is None
        assert await fleet.cancel("one", "held", seconds=5) == Stopped(True, 2, 9)


async def _timed(fleet: Fleet, request_id: str) -> float:
    started = time.monotonic()
    assert await fleet.cancel("one", request_id, seconds=5) is not None
    return time.monotonic() - started


async def test_announcements_that_cannot_be_read_hide_no_others(queue: Queue) -> None:
    herald = Herald(queue.nc, queue.js)
    dead_letters = DeadLetters(queue.js)
    model = SleepingPipeline("other").info

    async def announce_garbage(name: str) -> None:
        await queue.js.publish(f"$KV.workers.{name}", GARBAGE)
        await queue.js.publish(f"$KV.models.{name}", GARBAGE)

    await announce_garbage("early")
    async with Fleet.open(queue.nc, queue.js, dead=dead_letters) as fleet:
        await announce_garbage("late")
        await announce_garbage("late")  # as it does every second
        await herald.announce(WORKER)
        await herald.announce_models([model])
        await eventually(lambda: fleet.workers() == [WORKER] and fleet.models() == [model])
    assert await dead(queue) == {"worker": 2, "model": 2}
    assert dead_letters.counts == {Kind.WORKER: 3, Kind.MODEL: 3}


async def test_a_cancellation_that_cannot_be_read_stops_nothing_and_the_next_one_does(queue: Queue) -> None:
    async def stop(request_id: str) -> Stopped:
        return Stopped(request_id == "held", 2, 9)

    async with (
        Fleet.open(queue.nc, queue.js) as fleet,
        Herald(queue.nc, queue.js).hear_cancellations("one", stop),
    ):
        assert (await queue.nc.request("workers.one.cancel", GARBAGE, timeout=5)).data == b""
        assert await fleet.cancel("one", "held", seconds=5) == Stopped(True, 2, 9)
    assert await dead(queue) == {"cancel": 1}


async def test_an_answer_to_a_cancellation_that_cannot_be_read_is_none(queue: Queue) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(GARBAGE)

    await queue.nc.subscribe("workers.one.cancel", cb=answer)
    async with Fleet.open(queue.nc, queue.js) as fleet:
        assert await fleet.cancel("one", "held", seconds=5) is None


async def test_a_dead_worker_is_noticed_at_once_in_time(queue: Queue) -> None:
    async with Fleet.open(queue.nc, queue.js) as fleet:
        started = time.monotonic()
        assert await fleet.cancel("dead", "request", seconds=10) is None
        assert time.monotonic() - started < 0.5


async def announced(herald: Herald, worker_id: str) -> bool:
    """Whether the server has kept an announcement; it says soon that it has not."""
    started = time.monotonic()
    try:
        await herald.announce(replace(WORKER, worker_id=worker_id))
    except StoreUnavailable:
        assert time.monotonic() - started < WORKER_SECONDS / 2
        return False
    return True


async def test_the_fleet_is_known_again_after_nats_was_killed_in_time(own_nats_server: RunningNats) -> None:
    async def stop(_: str) -> Stopped:
        return Stopped(True, 1, 2)

    async with (
        open_queue(own_nats_server) as queue,
        open_queue(own_nats_server) as worker,
        Fleet.open(queue.nc, queue.js, clock=Clock()) as fleet,
    ):
        herald = Herald(worker.nc, worker.js)
        async with herald.hear_cancellations("one", stop):
            await herald.announce_models([SleepingPipeline().info])
            await herald.announce(WORKER)
            await eventually(lambda: ids(fleet) == {"one"} and len(fleet.models()) == 1)
            own_nats_server.kill()
            await eventually(lambda: not queue.nc.is_connected and not worker.nc.is_connected)
            started = time.monotonic()
            assert await fleet.cancel("one", "request", seconds=0.5) is None
            assert time.monotonic() - started < 1
            await own_nats_server.restart()
            await eventually(lambda: queue.nc.is_connected and worker.nc.is_connected)
            assert ids(fleet) == {"one"}
            await eventually(lambda: announced(herald, "new"))
            await eventually(lambda: ids(fleet) == {"one", "new"})  # the announcement arrives after it is answered
            assert await fleet.cancel("one", "request", seconds=5) == Stopped(True, 1, 2)
            # An api that starts now learns it from the server.
            async with Fleet.open(worker.nc, worker.js) as late:
                assert "new" in ids(late)
                assert [model.name for model in late.models()] == ["sleeping"]
