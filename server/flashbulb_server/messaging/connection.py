"""The connection to NATS, and what its errors mean to us. Reconnects for ever; what waits meanwhile gets StoreUnavailable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from flashbulb_server.config import NatsSettings
from flashbulb_server.errors import StoreUnavailable

REQUEST_SECONDS = 5.0  # longest wait for an answer; a healthy server needs a millisecond
WRONG_LAST_SEQUENCE = (10071, 10164)  # JetStream's codes where a subject's last message is not the expected one
_log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(
    settings: NatsSettings,
    *,
    name: str,
    wait_seconds: float = 30.0,
    on_restored: Callable[[Client], Awaitable[None]] | None = None,
) -> AsyncIterator[Client]:
    """A connection that heals itself. Raises StoreUnavailable if no server answers within `wait_seconds`.

    `on_restored` is called after it was healed, to make again what a restarted server has forgotten.
    """
    closing = False

    async def on_disconnect() -> None:
        if not closing:
            _log.warning("connection to the queue lost")

    async def on_reconnect() -> None:
        _log.info("connection to the queue restored")
        while on_restored is not None and client.is_connected:
            try:
                return await on_restored(client)
            except StoreUnavailable:  # nats-py would take it for a failed connection, and connect once more
                await asyncio.sleep(0.5)

    client = Client()
    try:
        await _connect_first(client, settings, name, wait_seconds, on_disconnect, on_reconnect)
        yield client
    finally:  # also of a first attempt that is broken off: nats-py would leave its socket open
        closing = True
        with suppress(OSError):  # it tries to send what is left, also when the server is gone
            await client.close()


async def _connect_first(
    client: Client,
    settings: NatsSettings,
    name: str,
    wait_seconds: float,
    on_disconnect: Callable[[], Awaitable[None]],
    on_reconnect: Callable[[], Awaitable[None]],
) -> None:
    token = settings.token.get_secret_value() if settings.token else None
    try:
        # nats-py tries for ever by itself, the first time too, because of max_reconnect_attempts.
        async with asyncio.timeout(wait_seconds):
            await client.connect(
                settings.url.split(","),
                name=name,
                token=token,
                connect_timeout=2,
                reconnect_time_wait=0.1,  # type: ignore[arg-type]  # annotated as whole seconds, but only slept
                max_reconnect_attempts=-1,
                error_cb=_on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
            )
    except (nats.errors.Error, OSError, TimeoutError) as err:
        raise StoreUnavailable("queue") from err


async def _on_error(error: Exception) -> None:
    _log.debug("nats: %s", error)


@contextmanager
def unavailable() -> Iterator[None]:
    """Turns "no answer" of NATS into StoreUnavailable. Other errors pass.

    A task that is cancelled within it ends as cancelled: nats-py waits by asyncio.wait_for, which swallows a cancellation that comes together
    with the answer, and a loop would go on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
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
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
