"""The connection to NATS, and what its errors mean to us. Reconnects for ever; what waits meanwhile gets StoreUnavailable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from flashbulb_server.config import NatsSettings
from flashbulb_server.errors import StoreUnavailable

REQUEST_SECONDS = 5.0  # longest wait for an answer; a healthy server needs a millisecond
_log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(settings: NatsSettings, *, name: str, wait_seconds: float = 30.0) -> AsyncIterator[Client]:
    """A connection that heals itself. Raises StoreUnavailable if no server answers within `wait_seconds`."""
    closing = False

    async def on_disconnect() -> None:
        if not closing:
            _log.warning("connection to the queue lost")

    client = await _first_connection(settings, name, wait_seconds, on_disconnect)
    try:
        yield client
    finally:
        closing = True
        await client.close()


async def _first_connection(
    settings: NatsSettings, name: str, wait_seconds: float, on_disconnect: Callable[[], Awaitable[None]]
) -> Client:
    deadline = asyncio.get_running_loop().time() + wait_seconds
    token = settings.token.get_secret_value() if settings.token else None
    while True:
        try:
            return await nats.connect(
                settings.url.split(","),
                name=name,
                token=token,
                connect_timeout=2,
                reconnect_time_wait=0.1,
                max_reconnect_attempts=-1,
                error_cb=_on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=_on_reconnect,
            )
        except (nats.errors.Error, OSError, TimeoutError) as err:
            if asyncio.get_running_loop().time() >= deadline:
                raise StoreUnavailable("queue") from err
            await asyncio.sleep(0.05)


async def _on_error(error: Exception) -> None:
    _log.debug("nats: %s", error)


async def _on_reconnect() -> None:
    _log.info("connection to the queue restored")


@contextmanager
def unavailable() -> Iterator[None]:
    """Turns "no answer" of NATS into StoreUnavailable. Other errors pass."""
    try:
        yield
    except (
        TimeoutError,
        nats.errors.TimeoutError,
        nats.errors.NoRespondersError,
        nats.errors.ConnectionClosedError,
        nats.errors.OutboundBufferLimitError,
        nats.js.errors.NoStreamResponseError,
        nats.js.errors.ServiceUnavailableError,
    ) as err:
        raise StoreUnavailable("queue") from err
