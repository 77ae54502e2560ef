"""What a consumer holds of a work queue: renewed while it is worked on, and settled in the end."""

from __future__ import annotations

from contextlib import suppress

import nats.errors
from nats.aio.msg import Msg

from flashbulb_server.messaging.connection import REQUEST_SECONDS, unavailable


class Lease:
    """A message in hand. Settle it exactly once: `done`, or `give_back`."""

    def __init__(self, message: Msg) -> None:
        self._message = message

    async def renew(self) -> None:
        """Says that its holder is alive; must come more often than the lease lasts. Never fails: an outage may cost the lease."""
        with suppress(nats.errors.Error):
            await self._message.in_progress()

    async def done(self) -> None:
        """Takes it out of the queue. Comes last, after everything it stands for is stored. Raises StoreUnavailable."""
        with unavailable():
            await self._message.ack_sync(timeout=REQUEST_SECONDS)

    async def give_back(self, delay: float = 0.0) -> None:
        """Lets another have it, after `delay` seconds. Never fails: if it does not get through, the lease runs out by itself."""
        with suppress(nats.errors.Error):
            await self._message.nak(delay=delay or None)
