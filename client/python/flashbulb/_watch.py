"""Watching a request over broken connections.

1. A stream that breaks, falls silent, or ends before the terminal state is opened again after the last sequence seen.
2. No kept event is yielded twice, and no status twice in a row.
3. It gives up when the server was not heard for the transport's timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from flashbulb import _decode
from flashbulb._errors import Busy, Unavailable
from flashbulb._results import Event, RequestStatus, StatusChanged
from flashbulb._retry import pause
from flashbulb._transport import Transport
from flashbulb.v1 import queue_pb2

SILENCE_SECONDS = 45.0
"""Three of the server's heartbeats."""


class Watch:
    """One watch. `silence` is the seconds without a message after which the stream counts as broken."""

    def __init__(
        self, transport: Transport, request: queue_pb2.WatchStatusRequest, silence: float = SILENCE_SECONDS
    ) -> None:
        self._transport = transport
        self._request = request
        self._silence = silence
        self._status: RequestStatus | None = None
        self._failed = 0
        self._heard = time.monotonic()

    async def events(self) -> AsyncGenerator[Event]:
        """The events up to the terminal state.

        Raises:
            NotFound: no such request, or another key's.
            Unavailable: the server was not heard for too long.
        """
        while True:
            try:
                async with aclosing(self._stream()) as stream:
                    async for event in stream:
                        yield event
                if self._status is not None and self._status.state.terminal:
                    return
                await self._pause(Unavailable("the watch ended before the request did"))
            except (Unavailable, Busy) as error:
                await self._pause(error)

    async def _stream(self) -> AsyncGenerator[Event]:
        """The new events of one stream."""
        method = self._transport.queue.WatchStatus
        async with aclosing(self._transport.receive(method, self._request, silence=self._silence)) as messages:
            async for message in messages:
                self._heard = time.monotonic()
                if 0 < message.sequence <= self._request.after_sequence:
                    continue
                if message.sequence or message.HasField("heartbeat"):
                    self._failed = 0
                    self._request.after_sequence = max(self._request.after_sequence, message.sequence)
                event = _decode.event(message)
                if isinstance(event, StatusChanged):
                    if event.status == self._status:
                        continue
                    self._status = event.status
                if event is not None:
                    yield event

    async def _pause(self, error: Unavailable | Busy) -> None:
        delay = pause(error, self._failed, repeatable=True)
        if delay is None or time.monotonic() + delay >= self._heard + self._transport.timeout:
            raise error
        self._failed += 1
        await asyncio.sleep(delay)
