"""Jobs that were delivered as often as they may: JetStream leaves them in the queue and tells once. The telling is kept in LOST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind
from flashbulb_server.messaging.topology import LOST
from flashbulb_server.wire.unreadable import Unreadable

_DURABLE = "janitor"
_LATER_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class LostJob:
    """A lost job, by its sequence in JOBS. `leave` it, and an api is told of it again in a while."""

    sequence: int
    left: bool = False

    def leave(self) -> None:
        """It is not dealt with here."""
        self.left = True


class LostJobs:
    """Reads the tellings, each by one api replica."""

    def __init__(self, subscription: JetStreamContext.PullSubscription, dead: DeadLetters) -> None:
        self._subscription = subscription
        self._dead = dead

    @classmethod
    async def open(cls, js: JetStreamContext, dead: DeadLetters | None = None) -> LostJobs:
        """Binds to the shared consumer. Raises StoreUnavailable."""
        with unavailable():
            await js.add_consumer(
                LOST, ConsumerConfig(durable_name=_DURABLE, ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
            )
            return cls(await js.pull_subscribe_bind(durable=_DURABLE, stream=LOST), dead or DeadLetters(js))

    async def waiting(self) -> AsyncIterator[LostJob]:
        """Each lost job. Ends when none is left. Raises StoreUnavailable.

        One is dealt with when the next is asked for; a caller that ends before will be told of it again.
        """
        while True:
            try:
                with unavailable():
                    messages = await self._subscription.fetch(16, timeout=0.5)
            except (StoreUnavailable, nats.errors.Error):  # there are none, as a rule
                return
            for message in messages:
                lost = await self._dead.opened(Kind.ADVISORY, message, _lost)
                if lost is None:
                    continue
                yield lost
                if lost.left:
                    with suppress(nats.errors.Error):
                        await message.nak(delay=_LATER_SECONDS)
                    continue
                with unavailable():
                    await message.ack()


def _lost(message: Msg) -> LostJob:
    try:
        told = json.loads(message.data)
    except ValueError as err:
        raise Unreadable("it is no JSON") from err
    sequence = told.get("stream_seq") if isinstance(told, dict) else None
    if not isinstance(sequence, int):
        raise Unreadable("it has no stream_seq")
    return LostJob(sequence)
