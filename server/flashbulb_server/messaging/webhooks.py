"""The queue of webhooks that are due. Whoever ends a request publishes; every api role takes from the one consumer.

A message says only whose turn it is: the record is the truth, and one that is found a second time does no harm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from flashbulb_server.core.requests import Request
from flashbulb_server.core.webhooks import target_of
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind
from flashbulb_server.messaging.lease import Lease
from flashbulb_server.messaging.topology import WEBHOOK_CONSUMER, WEBHOOKS
from flashbulb_server.wire.unreadable import Unreadable
from flashbulb_server.wire.webhooks import WebhookMessage, decode_webhook, encode_webhook

_MAX_MESSAGES_EXCEEDED = 10077
_PULL_SECONDS = 1.0  # a pull is not served after a restart of the server, so none may last long
_ANSWER_SECONDS = 1.0  # how much later its answer may come


class WebhookQueue:
    """Where webhooks wait. Every method raises StoreUnavailable when NATS does not answer."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def publish(self, request: Request) -> bool:
        """Makes the webhook of an ended request due, if it owes one. Doing it twice adds nothing (within two minutes).

        Gives whether it is added. StoreUnavailable also if the queue is full.
        """
        if request.webhook is None or not request.owes_webhook:
            return False
        series = request.webhook.series
        message = WebhookMessage(request.request_id, request.owner, series, target_of(request.webhook.url))
        with unavailable():
            try:
                ack = await self._js.publish(
                    f"webhooks.{request.request_id}",
                    encode_webhook(message),
                    stream=WEBHOOKS,
                    headers={Header.MSG_ID: f"{request.request_id}/{series}" if series else request.request_id},
                )
            except APIError as err:
                if err.err_code == _MAX_MESSAGES_EXCEEDED:
                    raise StoreUnavailable("queue", retry_after=5.0) from err
                raise
        return not ack.duplicate

    async def holds(self, request: Request) -> bool:
        """Whether a message for the request's webhook waits or is being worked on."""
        try:
            with unavailable():
                found = await self._js.get_last_msg(WEBHOOKS, f"webhooks.{request.request_id}", direct=True)
        except NotFoundError:
            return False
        try:
            return request.webhook is not None and decode_webhook(found.data or b"").series >= request.webhook.series
        except Unreadable:  # whoever takes it out of the queue will set it aside
            return False


class WebhookLease(Lease):
    """A webhook that this api has in hand."""

    def __init__(self, message: Msg) -> None:
        super().__init__(message)
        self.webhook = decode_webhook(message.data)


class WebhookConsumer:
    """The api's side of the queue."""

    def __init__(self, nc: Client, dead: DeadLetters | None = None) -> None:
        self._nc = nc
        self._dead = dead or DeadLetters(nc.jetstream())
        self._inbox = nc.new_inbox()
        self._answers: asyncio.Queue[Msg] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def open(cls, nc: Client, dead: DeadLetters | None = None) -> AsyncIterator[WebhookConsumer]:
        """Listens for the answers to its pulls."""
        consumer = cls(nc, dead)
        with unavailable():
            subscription = await nc.subscribe(consumer._inbox, cb=consumer._answers.put)
        try:
            yield consumer
        finally:
            if not nc.is_closed:
                await subscription.unsubscribe()
            while not consumer._answers.empty():
                if (lease := await consumer._lease(consumer._answers.get_nowait())) is not None:
                    await lease.give_back()

    async def next(self) -> WebhookLease | None:
        """The next webhook that is due, or None after about a second without one.

        Do not cancel it: one that is on its way would wait for the next call. Not nats-py's fetch, for the reasons in `JobConsumer`.
        """
        while not self._answers.empty():  # late ones
            if (lease := await self._lease(self._answers.get_nowait())) is not None:
                return lease
        if not self._nc.is_connected:
            await asyncio.sleep(_PULL_SECONDS)
            return None
        pull = json.dumps({"batch": 1, "expires": int(_PULL_SECONDS * 1e9)}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{WEBHOOKS}.{WEBHOOK_CONSUMER}"
        try:
            await self._nc.publish(subject, pull, reply=self._inbox)
            async with asyncio.timeout(_PULL_SECONDS + _ANSWER_SECONDS):
                message = await self._answers.get()
        except (nats.errors.Error, TimeoutError):
            return None
        return await self._lease(message)

    async def _lease(self, message: Msg) -> WebhookLease | None:
        """The webhook in the answer to a pull, if it is one that can be read: a status says that there is none."""
        if "Status" in (message.headers or {}):
            return None
        return await self._dead.opened(Kind.WEBHOOK, message, WebhookLease)
