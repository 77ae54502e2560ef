"""Polls that are answered again, with a real server: only whole calls are remembered, and no caller holds the server up."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvicorn

from flashbulb_server.api.http import heads
from flashbulb_server.api.http.polls import Answers, RememberPolls, protocol_for
from flashbulb_server.api.polling import Polling, Snapshot
from flashbulb_server.core.tasks import task_group

POLL = b"GET /status HTTP/1.1\r\nhost: a\r\nauthorization: Key me:secret\r\n\r\n"


class Moment:
    """Stands for Polling: its snapshot holds until it is told otherwise."""

    def __init__(self) -> None:
        self.snapshot = cast(Snapshot, object())
        self.holds = True

    def fresh(self, _: Snapshot) -> bool:
        return self.holds

    def touch(self, _: Snapshot) -> None: ...


@dataclass
class Counting:
    """Answers with the number of the call; notes what it was asked."""

    moment: Moment
    asked: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        if scope["path"] == "/status":
            scope["state"]["poll_snapshot"] = self.moment.snapshot
        while (await receive()).get("more_body"):
            continue
        body = str(len(self.asked)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Line:
    """A connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            return await self.reader.readexactly(length)


@pytest.fixture
async def serving() -> AsyncIterator[tuple[Counting, Line]]:
    moment = Moment()
    app = Counting(moment)
    answers = Answers(cast(Polling, moment))
    config = uvicorn.Config(
        RememberPolls(app, answers), http=protocol_for(answers), lifespan="off", log_config=None, interface="asgi3"
    )
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    with socket.create_server(("127.0.0.1", 0)) as bound:
        async with task_group() as tasks:
            running = tasks.create_task(server.serve(sockets=[bound]))
            while not server.started:
                await asyncio.sleep(0.01)
            line = Line(*await asyncio.open_connection(*bound.getsockname()))
            yield app, line
            line.writer.close()
            server.should_exit = True
            await asyncio.wait([running])


async def test_the_same_bytes_get_the_same_answer_while_it_holds(serving: tuple[Counting, Line]) -> None:
    app, line = serving
    assert [await line.ask(POLL) for _ in range(3)] == [b"1", b"1", b"1"]
    app.moment.holds = False
    assert await line.ask(POLL) == b"2"
    assert await line.ask(POLL.replace(b"me:", b"you:")) == b"3", "another key is another call"


@pytest.mark.parametrize("header", [b"content-length: 39", b"transfer-encoding: chunked"])
async def test_a_call_with_a_body_is_not_remembered(serving: tuple[Counting, Line], header: bytes) -> None:
    """Otherwise its body would be taken for a call of its own: of somebody else, behind a proxy that shares connections."""
    app, line = serving
    hidden = b"GET /hidden HTTP/1.1\r\nhost: abcdefg\r\n\r\n"
    assert len(hidden) == 39
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden) if b"chunked" in header else hidden
    head = POLL[:-2] + header + b"\r\n\r\n"
    for _ in range(3):
        line.writer.write(head)
        await asyncio.sleep(0.05)
        await line.ask(body)
    assert "/hidden" not in app.asked and app.asked == ["/status"] * 3


async def test_what_is_no_polls_answer_is_not_held() -> None:
    class Message(dict[str, Any]): ...

    alive: list[int] = []

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        sent = []
        for number in range(20):
            message = Message(type="http.response.body", body=bytes(1000), more_body=True, number=number)
            sent.append(weakref.ref(message))
            await send(message)
            del message
        alive.append(sum(ref() is not None for ref in sent))

    async def nowhere(_: Any) -> None: ...

    moment = Moment()
    app = RememberPolls(streaming, Answers(cast(Polling, moment)))
    await app({"type": "http", "state": {"asked_bytes": b"GET /status"}}, nowhere, nowhere)
    assert alive[0] <= 3


async def test_a_head_without_end_is_refused(serving: tuple[Counting, Line]) -> None:
    app, line = serving
    line.writer.write(b"GET / HTTP/1.1\r\nx: ")
    answer = b""
    async with asyncio.timeout(10):
        while not answer:
            line.writer.write(b"y" * 16_384)
            await asyncio.sleep(0.005)
            if line.reader._buffer:  # type: ignore[attr-defined]
                answer = await line.reader.read(100)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert app.asked == []


async def test_a_head_that_does_not_come_closes_the_connection(
    serving: tuple[Counting, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, line = serving
    assert await line.ask(POLL) == b"1", "the first one's time is over by its answer"
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.2)
    line.writer.write(b"GET / HT")
    async with asyncio.timeout(5):
        assert await line.reader.read() == b""


async def test_a_connection_that_only_polls_lives_on(
    serving: tuple[Counting, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = serving
    assert await first.ask(POLL) == b"1"
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.3)
    line = Line(*await asyncio.open_connection(*first.writer.get_extra_info("peername")))
    for _ in range(6):
        assert await line.ask(POLL) == b"1"
        await asyncio.sleep(0.1)
    line.writer.close()
