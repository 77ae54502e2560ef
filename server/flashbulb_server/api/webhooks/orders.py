"""What callers may ask of webhooks: whether a URL will do, and a delivery once more."""

from __future__ import annotations

import asyncio
import logging

import httpx

from flashbulb_server.api.queueing import Queueing
from flashbulb_server.config import WebhookSettings
from flashbulb_server.core import requests, webhooks
from flashbulb_server.core.requests import Request
from flashbulb_server.core.submission import Submission
from flashbulb_server.errors import FieldViolation, NoWebhook, RequestNotFinished, StoreUnavailable
from flashbulb_server.messaging.records import RequestRecords
from flashbulb_server.messaging.webhooks import WebhookQueue
from flashbulb_server.web.guard import AddressForbidden, NameUnknown, is_public, look_up

_LOOK_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Webhooks:
    """The use-cases."""

    def __init__(
        self, queueing: Queueing, records: RequestRecords, queue: WebhookQueue, settings: WebhookSettings
    ) -> None:
        self._queueing = queueing
        self._records = records
        self._queue = queue
        self._allow_private = settings.allow_private_targets

    async def problems(self, submission: Submission) -> list[FieldViolation]:
        """Whether the webhook's host has a private address now. Each attempt looks again; this spares callers a late surprise."""
        url = submission.webhook_url
        if not url or self._allow_private:
            return []
        if webhooks.url_problem(url) is not None:  # that is told with the other fields
            return []
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await look_up(httpx.URL(url), is_public)
        except AddressForbidden:
            return [FieldViolation("webhook_url", "its host has a private address, which this server does not post to")]
        except httpx.InvalidURL:
            return [FieldViolation("webhook_url", "is no valid URL")]
        except (NameUnknown, TimeoutError):  # it may be known by the time the request has ended
            return []
        return []

    async def redeliver(self, owner: str, request_id: str) -> Request:
        """Makes the webhook due again. Raises RequestNotFound, NoWebhook, RequestNotFinished, StoreUnavailable."""
        request = await self._queueing.current(owner, request_id)
        if request.webhook is None:
            raise NoWebhook(request_id)
        if not request.state.terminal:
            raise RequestNotFinished(request_id, request.state)
        _, renewed = await self._records.change(owner, request_id, lambda r: requests.deliver(r, webhooks.renewed))
        try:
            await self._queue.publish(renewed)
        except StoreUnavailable:  # it is recorded, and the janitor finds it
            _log.warning("webhook not queued yet", extra={"request_id": request_id})
        return renewed
