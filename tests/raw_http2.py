"""A gRPC caller that speaks HTTP/2 by hand, to do what no library does: hold a message back, or never end it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
_STREAM = 1
_FRAME_BYTES = 16_384
_WINDOW = 65_535
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class RawCall:
    """One call on a connection of its own. `ended` is set when the server has ended it, or the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._credit = {0: _WINDOW, _STREAM: _WINDOW}
        self._more = asyncio.Event()

    def open(self, method: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        """Sends the head of a call and no message."""
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "raw"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *metadata,
        ]
        self._send(HEADERS, END_HEADERS, _STREAM, b"".join(_literal(name, value) for name, value in head))

    async def send(self, data: bytes) -> bool:
        """Sends as much as the server takes. False if the call ended before all was taken."""
        rest = memoryview(data)
        while rest and not self.ended.is_set():
            size = min(len(rest), _FRAME_BYTES, *self._credit.values())
            if size <= 0:
                self._more.clear()
                await self._more.wait()
                continue
            self._send(DATA, 0, _STREAM, bytes(rest[:size]))
            rest = rest[size:]
            for window in self._credit:
                self._credit[window] -= size
            await self._writer.drain()
        return not rest

    async def listen(self) -> None:
        """Answers what the server says until it ends the connection."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                self._take(head[3], head[4], int.from_bytes(head[5:9], "big"), body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._end()

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        match kind:
            case 0x8:
                self._credit[stream] = self._credit.get(stream, 0) + int.from_bytes(body, "big")
                self._more.set()
            case 0x4 if not flags & ACK:
                for name, value in struct.iter_unpack(">HI", body):
                    if name == 0x4:  # initial window of streams
                        self._credit[_STREAM] += value - _WINDOW
                        self._more.set()
                self._send(SETTINGS, ACK, 0, b"")
            case 0x6 if not flags & ACK:
                self._send(PING, ACK, 0, body)
            case 0x3:
                self._end()
            case 0x0 | 0x1 if flags & END_STREAM:
                self._end()

    def _end(self) -> None:
        self.ended.set()
        self._more.set()

    def _send(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        self._writer.write(len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body)


@asynccontextmanager
async def raw_call(address: str) -> AsyncIterator[RawCall]:
    """A connection whose greeting is done, for one call."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    call = RawCall(reader, writer)
    writer.write(_PREFACE)
    call._send(SETTINGS, 0, 0, b"")
    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(call.listen())
            yield call
            listening.cancel()
    finally:
        writer.close()


def prefix(size: int) -> bytes:
    """What stands before a message of so many bytes."""
    return b"\0" + size.to_bytes(4, "big")


def _literal(name: str, value: str) -> bytes:
    """A field as HPACK writes it without tables."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127
    return bytes((len(data),)) + data
