"""A connection that is given up in the very moment in which something happens: it ends all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.api.connection import Connection, Surroundings
from flashbulb_server.api.session_messages import Opening
from flashbulb_server.api.tokens import Grant
from flashbulb_server.core.flight import Outcome
from flashbulb_server.core.realtime import Limits, Session
from tests.specs import make_spec


def connection() -> Connection:
    """One with a frame that may be drawn in ten seconds, whose surroundings are asked for nothing. Needs a running loop."""
    now = asyncio.get_running_loop().time()
    session: Session[GenerationOutput] = Session({}, max_fps=0.1)
    session.add(1, {}, make_spec(), now)
    frame = session.take(now)
    assert frame is not None
    session.ended(frame, Outcome(GenerationOutput()), now)
    session.add(2, {}, make_spec(), now)
    shared = Surroundings(None, None, Limits(8, 60.0), lambda: 0.0)  # type: ignore[arg-type]
    return Connection(shared, Grant("me"), Opening("fast-lcm-diffusion", {}), session)


async def ends(waiting: Coroutine[Any, Any, object], event: asyncio.Event, turns: int) -> None:
    """Cancels what waits for an event so many turns of the loop after the event."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(waiting)
        for _ in range(3):
            await asyncio.sleep(0)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=1)
        assert done, "the cancellation was lost"
        assert task.cancelled()


@pytest.mark.parametrize("turns", range(6))
async def test_a_place_ends_when_it_is_woken_and_cancelled(turns: int) -> None:
    one = connection()
    await ends(one._draw_frames(), one._wake, turns)


@pytest.mark.parametrize("turns", range(6))
async def test_who_sends_ends_when_it_is_woken_and_cancelled(turns: int) -> None:
    one = connection()
    await ends(one._next(), one._said, turns)
