"""What is made of NATS's errors, and of waits that swallow a cancellation."""

from __future__ import annotations

import asyncio

import nats.errors
import pytest

from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.connection import unavailable


async def swallow(seconds: float = 10.0) -> None:
    """As asyncio.wait_for does when the answer comes together with the cancellation."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return


async def test_a_cancellation_that_was_swallowed_within_is_not_lost() -> None:
    begun = asyncio.Event()

    async def ask() -> None:
        with unavailable():
            begun.set()
            await swallow()

    asking = asyncio.ensure_future(ask())
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_time_limit_around_it_is_one() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            with unavailable():
                await swallow()


async def test_a_time_limit_within_is_not_taken_for_a_cancellation() -> None:
    with pytest.raises(StoreUnavailable), unavailable():
        async with asyncio.timeout(0.01):
            await asyncio.sleep(10)


async def test_what_a_task_that_is_being_cancelled_still_asks_is_answered() -> None:
    answered = False

    async def last_words() -> None:
        nonlocal answered
        try:
            await asyncio.sleep(10)
        finally:
            with unavailable():
                await asyncio.sleep(0)
            answered = True

    speaking = asyncio.ensure_future(last_words())
    await asyncio.sleep(0)
    speaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await speaking
    assert answered


@pytest.mark.parametrize(
    "error", [TimeoutError(), nats.errors.NoRespondersError(), nats.errors.ConnectionClosedError()]
)
async def test_no_answer_is_an_error_with_a_name(error: Exception) -> None:
    with pytest.raises(StoreUnavailable), unavailable():
        raise error
