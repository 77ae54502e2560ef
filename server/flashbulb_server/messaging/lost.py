"""Jobs that were delivered as often as they may: JetStream leaves them in the queue and tells once. The telling is kept in LOST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError

from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.topology import LOST

_DURABLE = "janitor"


class LostJobs:
    """Reads the tellings, each by one api replica."""

    def __init__(self, subscription: JetStreamContext.PullSubscription) -> None:
        self._subscription = subscription

    @classmethod
    async def open(cls, js: JetStreamContext) -> LostJobs:
        """Binds to the shared consumer. Raises StoreUnavailable."""
        with unavailable():
            await js.add_consumer(
                LOST, ConsumerConfig(durable_name=_DURABLE, ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
            )
            return cls(await js.pull_subscribe_bind(durable=_DURABLE, stream=LOST))

    async def waiting(self) -> AsyncIterator[int]:
        """Sequence in JOBS of each lost job. Ends when none is left. Raises StoreUnavailable.

        One is dealt with when the next is asked for; a caller that leaves before will be told of it again.
        """
        while True:
            try:
                messages = await self._subscription.fetch(16, timeout=0.5)
            except (nats.errors.Error, TimeoutError, APIError):
                return
            for message in messages:
                yield int(json.loads(message.data)["stream_seq"])
                with unavailable():
                    await message.ack()
