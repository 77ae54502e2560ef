"""A connection between an api and a worker, both ends in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from flashbulb.internal.v1.engine_pb2 import DrawRequest, StartDrawing
from flashbulb_server.wire.link import Link, connect, listen

SECONDS = 5.0


@dataclass
class End:
    """What one end hears."""

    messages: asyncio.Queue[DrawRequest] = field(default_factory=asyncio.Queue)
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def link(self, **options: object) -> Link[DrawRequest]:
        return Link(DrawRequest, self.messages.put_nowait, self.lost.set, **options)

    async def heard(self) -> DrawRequest:
        async with asyncio.timeout(SECONDS):
            return await self.messages.get()

    async def ended(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.lost.wait()


@asynccontextmanager
async def pair(address: str = "127.0.0.1:0", **options: object) -> AsyncIterator[tuple[End, Link, End, Link]]:
    """Two ends that know each other; `options` are those of the first."""
    one, other, links = End(), End(), []

    def accept() -> Link[DrawRequest]:
        links.append(other.link())
        return links[-1]

    async with listen(address, accept) as bound:
        link = one.link(**options)
        await connect(bound, link)
        await links[0].greeted
        try:
            yield one, link, other, links[0]
        finally:
            link.abort()
            links[0].abort()
            await asyncio.gather(one.ended(), other.ended())


def message(size: int, call_id: int = 1) -> DrawRequest:
    return DrawRequest(call_id=call_id, start=StartDrawing(owner="x" * size))


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
async def test_messages_of_every_size_come_whole_and_in_order(address: str) -> None:
    sizes = (0, 1, 59, 60_000, 65_536, 3_000_000, 7)
    async with pair(address) as (one, link, other, far):
        for call_id, size in enumerate(sizes):
            link.send(message(size, call_id))
            far.send(message(size, call_id))
        far.send(DrawRequest())  # of no bytes: it is taken for the question whether one lives, and says nothing
        far.send(message(1))
        for end in (one, other):
            for call_id, size in enumerate(sizes):
                assert await end.heard() == message(size, call_id)
        assert await one.heard() == message(1)


async def test_what_was_sent_arrives_before_the_end_and_nothing_after() -> None:
    async with pair() as (_, link, other, far):
        link.send(message(2_000_000))
        link.close()
        link.send(message(1))
        assert await other.heard() == message(2_000_000)
        await other.ended()
        assert other.messages.empty()
        far.send(message(1))  # without effect


async def test_a_silent_end_is_asked_and_an_answer_is_enough() -> None:
    async with pair(ask_seconds=0.05) as (one, link, other, _):
        await asyncio.sleep(0.5)
        assert not one.lost.is_set() and not other.lost.is_set()
        link.send(message(1))
        assert await other.heard() == message(1)


async def test_an_end_that_stays_silent_is_given_up_in_time() -> None:
    async with pair(ask_seconds=0.1) as (one, _, _, far):
        began = asyncio.get_running_loop().time()
        far._transport.pause_reading()  # as if it hung
        await one.ended()
        assert 0.15 < asyncio.get_running_loop().time() - began < 2


async def test_an_end_that_was_closed_before_it_was_connected_ends_after_the_greeting() -> None:
    end = End()

    def closed() -> Link[DrawRequest]:
        link = end.link()
        link.close()
        return link

    async with listen("127.0.0.1:0", closed) as bound:
        other = End()
        await connect(bound, other.link())
        await other.ended()
        await end.ended()
