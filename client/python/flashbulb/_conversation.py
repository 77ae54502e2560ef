"""One stream in both directions. Turns gRPC's errors into ours, and tells a broken stream from one that was ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import grpc.aio
from google.protobuf.message import Message

from flashbulb._errors import FlashbulbError, ServerError, Unavailable

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_OVERWRITTEN = 'Failed "execute_batch"'
# What gRPC puts in the place of the server's status when a message was being sent as the stream ended (grpc/grpc#36066). The next
# stream tells the true one, if it still holds.


class Conversation(Generic[Request, Response]):
    """A stream that is open. `named` makes our error of gRPC's."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[Request, Response],
        named: Callable[[grpc.aio.AioRpcError], FlashbulbError],
    ) -> None:
        self._call = call
        self._named = named

    async def read(self, silence: float) -> Response:
        """The next message.

        Raises:
            Unavailable: nothing came for `silence` seconds, or the stream ended.
            FlashbulbError: what the server ended it with.
        """
        try:
            async with asyncio.timeout(silence):
                message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            if _OVERWRITTEN in (error.debug_error_string() or ""):
                raise Unavailable("the stream ended while it was written to") from error
            raise self._named(error) from error
        except TimeoutError as error:
            raise Unavailable(f"nothing heard for {silence:g} s") from error
        if message is grpc.aio.EOF:
            raise Unavailable("the stream ended without a word")
        if message is None:  # what gRPC makes of bytes that are no message
            raise ServerError("the server sent what is no message")
        return cast("Response", message)

    async def write(self, message: Request) -> bool:
        """Sends a message once the transport takes it. False: the stream has ended, and `read` says why."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    async def finish(self) -> None:
        """Says that nothing more will be sent."""
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    def cancel(self) -> None:
        """Ends the stream at once. Idempotent."""
        self._call.cancel()
