"""The server's end of a socket, with a real server and a real client in one loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from flashbulb_server.api.http.sockets import SocketProtocol
from flashbulb_server.core.tasks import task_group

MIB = 1 << 20
PARTS = [Opcode.BINARY] + [Opcode.CONT] * 14
GREETING = (
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Echo:
    """Says back what it hears; when told to end, it says so and closes in its own words."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with asyncio.TaskGroup() as tasks:
            echo = tasks.create_task(self._echo(receive, send))
            ending = tasks.create_task(self.end.wait())
            await asyncio.wait([echo, ending], return_when=asyncio.FIRST_COMPLETED)
            if not echo.done():
                await send({"type": "websocket.send", "text": "the end"})
                await send({"type": "websocket.close", "code": 1000, "reason": "told"})
            echo.cancel()
            ending.cancel()

    async def _echo(self, receive, send) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


async def running(app: Echo) -> AsyncIterator[tuple[Echo, uvicorn.Server, int]]:
    """A server of the app, and its port."""
    server = uvicorn.Server(
        uvicorn.Config(app, ws=SocketProtocol, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
    )
    server.capture_signals = contextless  # type: ignore[method-assign]
    with socket.create_server(("127.0.0.1", 0)) as bound:
        async with task_group() as tasks:
            serving = tasks.create_task(server.serve(sockets=[bound]))
            while not server.started:
                await asyncio.sleep(0.01)
            yield app, server, bound.getsockname()[1]
            app.end.set()
            server.should_exit = True
            await asyncio.wait([serving])


@pytest.fixture
async def serving() -> AsyncIterator[tuple[Echo, uvicorn.Server, int]]:
    async for found in running(Echo()):
        yield found


class contextless:  # stands for a method
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


async def closed(ws: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(5):
        try:
            while True:
                await ws.recv()
        except ConnectionClosed as end:
            assert end.rcvd is not None, "the connection broke"
            return end.rcvd.code, end.rcvd.reason


async def test_an_empty_close_is_answered_by_1000(serving: tuple[Echo, uvicorn.Server, int]) -> None:
    async with connect(f"ws://127.0.0.1:{serving[2]}", proxy=None) as ws:
        ws.protocol.send_frame(Frame(Opcode.CLOSE, b""))
        ws.send_data()
        assert await closed(ws) == (1000, "")


async def test_other_closes_are_echoed(serving: tuple[Echo, uvicorn.Server, int]) -> None:
    async with connect(f"ws://127.0.0.1:{serving[2]}", proxy=None) as ws:
        ws.protocol.send_close(4000, "mine")
        ws.send_data()
        assert await closed(ws) == (4000, "mine")


async def test_pictures_are_not_deflated(serving: tuple[Echo, uvicorn.Server, int]) -> None:
    async with connect(f"ws://127.0.0.1:{serving[2]}", proxy=None, compression="deflate") as ws:
        assert ws.response is not None and "sec-websocket-extensions" not in ws.response.headers


async def test_the_session_says_the_last_word_when_the_server_ends(serving: tuple[Echo, uvicorn.Server, int]) -> None:
    app, server, port = serving
    async with connect(f"ws://127.0.0.1:{port}", proxy=None) as ws:
        server.should_exit = True
        await asyncio.sleep(0.3)  # uvicorn has told its connections by then
        await ws.send("still here")
        assert await ws.recv() == "still here"
        app.end.set()
        assert await ws.recv() == "the end"
        assert await closed(ws) == (1000, "told")


class Refusing(Echo):
    """Has its reasons, and asks for nothing."""

    async def __call__(self, scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "the reason"})
        await send({"type": "websocket.close", "code": 1000, "reason": "refused"})


@pytest.fixture
async def refusing() -> AsyncIterator[int]:
    async for _, _, port in running(Refusing()):
        yield port


async def test_who_is_refused_is_told_and_the_connection_is_gone(refusing: int) -> None:
    async with connect(f"ws://127.0.0.1:{refusing}", proxy=None) as ws:
        assert await ws.recv() == "the reason"
        assert await closed(ws) == (1000, "refused")
        async with asyncio.timeout(5):
            await ws.wait_closed()


@pytest.mark.parametrize(
    "frames",
    [[Frame(Opcode.BINARY, bytes(15 * MIB))], [Frame(op, bytes(MIB), fin=False) for op in PARTS]],
    ids=["a frame", "parts of a message"],
)
async def test_nothing_is_read_of_who_is_refused(refusing: int, frames: list[Frame]) -> None:
    """More than a connection holds by itself, and less than a frame may have."""
    reader, writer = await asyncio.open_connection("127.0.0.1", refusing)
    writer.write(GREETING)
    async with asyncio.timeout(10):
        await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ConnectionError):
            for frame in frames:
                writer.write(frame.serialize(mask=True))
                await writer.drain()
    writer.close()


async def test_frames_that_come_with_the_greeting_are_heard(serving: tuple[Echo, uvicorn.Server, int]) -> None:
    async with connect(f"ws://127.0.0.1:{serving[2]}", proxy=None) as ws:
        for number in range(20):
            await ws.send(str(number))
        assert [await ws.recv() for _ in range(20)] == [str(number) for number in range(20)]
