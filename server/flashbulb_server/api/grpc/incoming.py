"""What a caller sends: read only when it is asked for, and bounded in time.

1. grpc reads a unary request before its handler runs, whoever sent it and however long it takes. So every method is registered as one
   that takes a stream: its handler runs at once, on the head of the call, and reads the one message of a unary request by itself.
2. Nothing of a message is taken before it is read here, but what HTTP/2's window of a stream holds.
3. Bytes that are no message are the caller's fault; grpc would call it the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from flashbulb_server.errors import FieldViolation, InvalidRequest

_HEAR_OUT_SECONDS = 0.5


class Incoming:
    """The messages of one call. `first_seconds`: in which the first one must be here."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], *, first_seconds: float) -> None:
        self._context = context
        self._first_seconds = first_seconds

    async def one(self) -> Any:  # noqa: ANN401  # a message of whichever method is called
        """The message of a unary request. Raises InvalidRequest: it does not come, or cannot be read."""
        message = await self._first()
        if message is grpc.aio.EOF:
            raise _bad("the call ended without a message")
        return message

    async def only(self) -> Any:  # noqa: ANN401
        """As `one`, and nothing can follow it. Of a call that stays open, HTTP/2's window would hold what does, of each some MiB."""
        try:
            async with asyncio.timeout(self._first_seconds):
                message = await self.one()
                if await self._context.read() is not grpc.aio.EOF:
                    raise _bad("more than one message")
        except TimeoutError as err:
            raise _bad(f"the caller's side did not end within {self._first_seconds:g} s") from err
        return message

    async def all(self) -> AsyncIterator[Any]:
        """The messages of a stream. Raises InvalidRequest: the first does not come, or one cannot be read."""
        message = await self._first()
        while message is not grpc.aio.EOF:
            yield message
            message = _good(await self._context.read())

    async def hear_out(self) -> None:
        """Reads a message and throws it away, before a call is refused: clients that are still writing it when the status comes report
        a failure of their own instead (grpc/grpc#36066), or wait for ever (connectrpc/connect-es#1678).
        """
        with suppress(TimeoutError, grpc.RpcError):
            async with asyncio.timeout(_HEAR_OUT_SECONDS):
                await self._context.read()

    async def _first(self) -> Any:  # noqa: ANN401
        try:
            async with asyncio.timeout(self._first_seconds):
                return _good(await self._context.read())
        except TimeoutError as err:
            raise _bad(f"the first message did not come within {self._first_seconds:g} s") from err


@dataclass(frozen=True, slots=True)
class _Unusable:
    """Stands for a message that was refused as it was read."""

    problem: str


def reader(deserialize: Callable[[bytes], Any] | None, *, max_bytes: int | None = None) -> Callable[[bytes], Any]:
    """A deserializer after which Incoming tells what is wrong with a message, in place of grpc."""

    def read(data: bytes) -> Any:  # noqa: ANN401
        if max_bytes is not None and len(data) > max_bytes:
            return _Unusable(f"the message has {len(data)} bytes, at most {max_bytes} are allowed")
        try:
            return deserialize(data) if deserialize else data
        except DecodeError:
            return _Unusable("the message is not valid protobuf")

    return read


def _good(message: Any) -> Any:  # noqa: ANN401
    if isinstance(message, _Unusable):
        raise _bad(message.problem)
    return message


def _bad(problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation("", problem)])
