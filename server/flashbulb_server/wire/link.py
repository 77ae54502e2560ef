"""The connection between an api and a worker: protobuf messages in frames, both ways, over a unix socket or TCP.

1. Each side greets first; whoever does not, or greets otherwise, is no part of this release and is cut off.
2. A frame is the length of a message in four bytes, the highest first, and the message. An empty frame asks whether the other side
   lives; it comes back as it went. Only the side that has `ask_seconds` asks.
3. `send` never waits. The side that `holds_back` takes nothing more while what it has sent is not read, so that neither grows.

Between two processes of one host a message costs a tenth of what it costs as part of an RPC, and there are two to a picture.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar, cast

from google.protobuf.message import DecodeError, Message

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_GREETING = b"flashbulb engine 1\n"
_LENGTH = struct.Struct(">I")
_EMPTY = _LENGTH.pack(0)
_UNREAD_BYTES = 256 * 1024  # sent beyond what the system holds; several pictures
_UNIX = "unix:"
M = TypeVar("M", bound=Message)
_log = logging.getLogger(__name__)


class Link(asyncio.Protocol, Generic[M]):
    """One end. `kind`: of the messages that come, each of which `take` is given; `lost` is called once, when the connection has ended.

    `ask_seconds`: after so long a silence the other side is asked whether it lives, and after as long again it is given up.
    """

    def __init__(
        self,
        kind: type[M],
        take: Callable[[M], None],
        lost: Callable[[], None],
        *,
        ask_seconds: float | None = None,
        holds_back: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._parse = kind.FromString
        self._take = take
        self._lost = lost
        self._ask_seconds = ask_seconds
        self._holds_back = holds_back
        self._transport: asyncio.Transport | None = None
        self._came = bytearray()
        self._heard = 0.0
        self._asked = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        """Done when the other side has greeted; ConnectionError when the connection ends before."""
        self.congested = False
        """Whether much of what was sent is not read yet."""

    def send(self, message: Message) -> None:
        """Sends it soon; without effect once the connection has ended."""
        if self._transport is not None and not self._transport.is_closing():
            data = message.SerializeToString()
            self._transport.writelines((_LENGTH.pack(len(data)), data))

    def close(self) -> None:
        """Ends the connection after what was sent; before it is there: after the greeting."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """What waits here because the other side does not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        transport.set_write_buffer_limits(high=_UNREAD_BYTES)
        transport.write(_GREETING)
        self._heard = self._loop.time()
        self._arm()
        if self._closed:
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._heard, self._asked = self._loop.time(), False
        self._came += data
        if not self.greeted.done() and not self._hear_greeting():
            return
        came, at = self._came, 0
        while len(came) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(came, at)
            if length > MAX_MESSAGE_BYTES:
                self._refuse(f"a message of {length} bytes")
                return
            end = at + _LENGTH.size + length
            if len(came) < end:
                break
            if length and not self._hear(bytes(memoryview(came)[at + _LENGTH.size : end])):
                return
            if not length and self._ask_seconds is None and self._transport is not None:
                self._transport.write(_EMPTY)
            at = end
        if at:
            self._came = came[at:]

    def pause_writing(self) -> None:
        """Called by asyncio."""
        self.congested = True
        if self._holds_back and self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self.congested = False
        if self._holds_back and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.greeted.done():
            self.greeted.set_exception(exc or ConnectionError("it ended without a greeting"))
            self.greeted.exception()  # nobody need ask
        self._lost()

    def _hear_greeting(self) -> bool:
        if not _GREETING.startswith(self._came[: len(_GREETING)]):
            self._refuse("no greeting of this release")
            return False
        if len(self._came) < len(_GREETING):
            return False
        del self._came[: len(_GREETING)]
        self.greeted.set_result(None)
        return True

    def _hear(self, data: bytes) -> bool:
        """Whether it goes on after this message."""
        try:
            message = self._parse(data)
        except DecodeError:
            self._refuse("a message that is not valid protobuf")
            return False
        self._take(message)
        return self._transport is not None and not self._transport.is_closing()

    def _refuse(self, what: str) -> None:
        _log.warning("connection between api and worker cut off", extra={"sent": what})
        self._came.clear()
        self.abort()

    def _arm(self) -> None:
        if self._ask_seconds is not None:
            self._timer = self._loop.call_at(self._heard + self._ask_seconds * (1 + self._asked), self._look)

    def _look(self) -> None:
        assert self._ask_seconds is not None and self._transport is not None
        if self._loop.time() >= self._heard + self._ask_seconds * (1 + self._asked):
            if self._asked:
                _log.warning("a worker is silent", extra={"seconds": 2 * self._ask_seconds})
                self.abort()
                return
            self._asked = True
            self._transport.write(_EMPTY)
        self._arm()


async def connect(address: str, link: Link[M]) -> None:
    """Connects and waits for the greeting. Raises OSError. Put a limit on it: one that hangs does not greet."""
    loop = asyncio.get_running_loop()
    if address.startswith(_UNIX):
        await loop.create_unix_connection(lambda: link, address.removeprefix(_UNIX))
    else:
        await loop.create_connection(lambda: link, *_host_and_port(address))
    try:
        await link.greeted
    except BaseException:
        link.abort()
        raise


@asynccontextmanager
async def listen(address: str, accept: Callable[[], Link[M]]) -> AsyncIterator[str]:
    """Takes connections while the context is open, those that are open then stay; gives the address that was bound. Raises OSError."""
    loop = asyncio.get_running_loop()
    bound = address
    if address.startswith(_UNIX):
        server = await loop.create_unix_server(accept, address.removeprefix(_UNIX))
    else:
        host, port = _host_and_port(address)
        server = await loop.create_server(accept, host, port)
        bound = f"{address.rpartition(':')[0]}:{server.sockets[0].getsockname()[1]}"
    try:
        yield bound
    finally:
        server.close()


def is_address(text: str) -> bool:
    """Whether it has the form of what `connect` takes."""
    if text.startswith(_UNIX):
        return len(text) > len(_UNIX)
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
