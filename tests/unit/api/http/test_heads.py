"""What is no body of a call has bounds: its head, its trailers, and whatever else a caller may send without end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import uvicorn

from flashbulb_server.api.http.heads import MAX_HEAD_BYTES, BoundedHeads
from flashbulb_server.core.tasks import task_group

LIMIT = 10.0
PIECE = 16_384
POST = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
EARLY = POST.replace(b"POST /", b"POST /early")


@dataclass
class App:
    """Answers with the size of the body; at once, if the path is /early."""

    whole: list[int] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message.get("more_body", False)
        self.whole.append(size)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def serving() -> AsyncIterator[tuple[App, tuple[str, int]]]:
    app = App()
    config = uvicorn.Config(app, http=BoundedHeads, lifespan="off", log_config=None, interface="asgi3")
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    with socket.create_server(("127.0.0.1", 0)) as bound:
        async with task_group() as tasks:
            running = tasks.create_task(server.serve(sockets=[bound]))
            while not server.started:
                await asyncio.sleep(0.01)
            yield app, bound.getsockname()
            server.should_exit = True
            await asyncio.wait([running])


async def answered(address: tuple[str, int], begin: bytes, pieces: Iterator[bytes], end: bytes = b"") -> list[bytes]:
    """The status lines that a caller reads who sends all of it, or who goes on until the server ends the connection."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(LIMIT):
            writer.write(begin)
            for piece in pieces:
                if reader.at_eof() or writer.is_closing():
                    break
                writer.write(piece)
                await writer.drain()
            writer.write(end)
            if end:
                return [await reader.readline()]
            return [line for line in (await reader.read()).split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    except ConnectionError:
        return [line for line in bytes(reader._buffer).split(b"\r\n") if line.startswith(b"HTTP/1.1")]  # type: ignore[attr-defined]
    finally:
        writer.close()


def fields() -> Iterator[bytes]:
    """Fields without end."""
    return (b"".join(b"x-%d: yyyyyyyyyyyyyyyy\r\n" % (number * 500 + n) for n in range(500)) for number in count())


def rest() -> Iterator[bytes]:
    """A word without end."""
    return (b"y" * PIECE for _ in count())


ENDLESS = {
    "address": (b"GET /", rest),
    "field": (b"GET / HTTP/1.1\r\nx: ", rest),
    "fields": (b"GET / HTTP/1.1\r\n", fields),
    "trailer": (POST + b"1\r\na\r\n0\r\nx: ", rest),
    "trailers": (POST + b"1\r\na\r\n0\r\n", fields),
    "extension of a chunk": (POST + b"1;", rest),
    "trailers after the answer": (EARLY + b"1\r\na\r\n0\r\n", fields),
    "extension of a chunk after the answer": (EARLY + b"1;", rest),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_leads_to_nothing_ends(serving: tuple[App, tuple[str, int]], name: str) -> None:
    app, address = serving
    begin, pieces = ENDLESS[name]
    lines = await answered(address, begin, pieces())
    assert lines[-1:] in ([b"HTTP/1.1 431 Request Header Fields Too Large"], [])  # [] where the break outran it
    assert app.whole == ([0] if begin.startswith(EARLY) else [])


async def test_all_fields_of_a_call_count(serving: tuple[App, tuple[str, int]]) -> None:
    app, address = serving
    half = b"".join(b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(MAX_HEAD_BYTES // 2000))
    head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n" + half + b"\r\n1\r\na\r\n0\r\n"
    assert await answered(address, head, iter(()), b"\r\n") == [b"HTTP/1.1 200 OK\r\n"]
    assert await answered(address, head + half + half, iter(()), b"\r\n") == [
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    ]
    assert app.whole == [1]


async def test_a_large_head_in_one_piece_is_refused(serving: tuple[App, tuple[str, int]]) -> None:
    app, address = serving
    head = b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * (MAX_HEAD_BYTES + 1) + b"\r\n"
    assert await answered(address, head, iter(()), b"\r\n") == [b"HTTP/1.1 431 Request Header Fields Too Large\r\n"]
    assert app.whole == []


async def test_small_trailers_and_many_small_chunks_are_fine(serving: tuple[App, tuple[str, int]]) -> None:
    app, address = serving
    pieces = (b"1;why=not\r\na\r\n" * 1000 for _ in range(100))
    assert await answered(address, POST, pieces, b"0\r\nx-checksum: 1\r\n\r\n") == [b"HTTP/1.1 200 OK\r\n"]
    assert app.whole == [100_000]


async def test_a_connection_may_bring_any_number_of_calls(serving: tuple[App, tuple[str, int]]) -> None:
    app, address = serving
    reader, writer = await asyncio.open_connection(*address)
    call = b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (MAX_HEAD_BYTES // 4) + b"\r\n\r\n"
    async with asyncio.timeout(LIMIT):
        for _ in range(10):
            writer.write(call)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert len(app.whole) == 10
