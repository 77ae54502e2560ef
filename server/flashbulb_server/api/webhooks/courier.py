"""Delivers webhooks: takes from the queue what is due, posts it, writes what came of it into the record, and settles the message last.

Whatever happens between, the message comes back, and the record says whether it is still owed. So a webhook is delivered at least
once, and twice only if this process or NATS is lost between the receiver's answer and the record.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from flashbulb_server.api.webhooks.body import Bodies
from flashbulb_server.api.webhooks.sending import Letter, Sender
from flashbulb_server.config import WebhookSettings
from flashbulb_server.core import requests, webhooks
from flashbulb_server.core.delivery_lanes import Lanes
from flashbulb_server.core.requests import IllegalChange, Request
from flashbulb_server.core.tasks import task_group
from flashbulb_server.core.webhooks import Attempt, DeliveryState, Verdict, Webhook
from flashbulb_server.errors import DataUnreadable, NewerRelease, RequestNotFound, StoreUnavailable
from flashbulb_server.messaging.records import RequestRecords
from flashbulb_server.messaging.webhooks import WebhookConsumer, WebhookLease

_EARLY_SECONDS = 0.02  # a message that comes so little before its time is not put back for it
_RETRY_SECONDS = 0.5
_NEWER_SECONDS = 10.0  # until one that is of a newer release comes again, perhaps to an api of that
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Hand:
    """A webhook in hand."""

    lease: WebhookLease
    task: asyncio.Task[None] | None = None


class Courier:
    """Delivers until it is stopped. `clock` gives unix seconds; `chance` numbers in 0..1."""

    def __init__(
        self,
        records: RequestRecords,
        consumer: WebhookConsumer,
        bodies: Bodies,
        sender: Sender,
        settings: WebhookSettings,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._records = records
        self._consumer = consumer
        self._bodies = bodies
        self._sender = sender
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._lanes = Lanes(settings.concurrency_per_target)
        self._hands: dict[str, _Hand] = {}
        self._room = asyncio.Event()

    async def run(self, *, drain_seconds: float, stop: asyncio.Event) -> None:
        """Takes and delivers until `stop`; then finishes what it has in hand for so long, and gives the rest back."""
        async with task_group() as tasks:
            tasks.create_task(self._wake_when(stop))
            while not stop.is_set():
                self._room.clear()
                if len(self._hands) >= self._settings.concurrency:
                    await self._room.wait()
                    continue
                lease = await self._consumer.next()
                if lease is not None:
                    await self._take(lease, tasks, stopping=stop.is_set())
            await self._drain(drain_seconds)

    async def _take(self, lease: WebhookLease, tasks: asyncio.TaskGroup, *, stopping: bool) -> None:
        due = lease.webhook
        held = self._hands.get(due.request_id)
        if held is not None and held.lease.webhook.series == due.series:
            held.lease = lease  # an outage kept it from being renewed; the newest message is the one to settle
            return
        if stopping or held is not None:
            await lease.give_back(1.0 if held is not None else 0.0)
            return
        if (wait := self._lanes.enter(due.target, time.monotonic())) > 0:
            await lease.give_back(wait)
            return
        hand = self._hands[due.request_id] = _Hand(lease)
        hand.task = tasks.create_task(self._work(hand, due.target))

    async def _wake_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._room.set()

    async def _drain(self, seconds: float) -> None:
        tasks = [hand.task for hand in self._hands.values() if hand.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    async def _work(self, hand: _Hand, target: str) -> None:
        started, done = time.monotonic(), asyncio.Event()
        try:
            async with task_group() as tasks:
                tasks.create_task(self._renew(hand, done))
                try:
                    await self._settle(hand)
                finally:
                    done.set()
        finally:
            self._lanes.leave(target, time.monotonic() - started)
            self._hands.pop(hand.lease.webhook.request_id, None)
            self._room.set()

    async def _renew(self, hand: _Hand, done: asyncio.Event) -> None:
        while not done.is_set():
            try:
                async with asyncio.timeout(self._settings.lease_seconds / 4):
                    await done.wait()
            except TimeoutError:
                await hand.lease.renew()

    async def _settle(self, hand: _Hand) -> None:
        """Delivers and settles the message, or gives it back. Cancelled, it gives it back too."""
        try:
            wait = await self._deliver(hand.lease)
            if wait is None:
                await hand.lease.done()
            else:
                await hand.lease.give_back(wait)
        except StoreUnavailable as err:
            _log.warning("webhook put off", extra={"request_id": hand.lease.webhook.request_id, "problem": str(err)})
            await hand.lease.give_back(1.0)
        except asyncio.CancelledError:
            await hand.lease.give_back()
            raise

    async def _deliver(self, lease: WebhookLease) -> float | None:
        """One attempt, if it is due. Gives the seconds to the next one; None if nothing is owed any more."""
        due = lease.webhook
        try:
            request = (await self._records.get(due.owner, due.request_id)).request
        except (RequestNotFound, DataUnreadable):
            return None
        except NewerRelease:
            return _NEWER_SECONDS
        if request.webhook is None or not request.owes_webhook or request.webhook.series != due.series:
            return None
        early = request.webhook.next_attempt_time - self._clock()
        if early > _EARLY_SECONDS:
            return early
        attempt, verdict = await self._attempt(request, request.webhook)
        after = await self._record(request, due.series, attempt, verdict)
        if after is None or after.series != due.series or after.state is not DeliveryState.PENDING:
            return None
        return max(0.0, after.next_attempt_time - self._clock())

    async def _attempt(self, request: Request, webhook: Webhook) -> tuple[Attempt, Verdict]:
        first = not webhook.failures
        seconds = self._settings.first_timeout_seconds if first else self._settings.retry_timeout_seconds
        letter = Letter(webhook.url, request.request_id, request.owner, self._bodies.make(request))
        try:
            return await self._sender.send(letter, seconds=seconds)
        except Exception:  # noqa: BLE001  # whatever it was, the webhook must come to an end
            _log.exception("webhook not sent", extra={"request_id": request.request_id})
            return Attempt(self._clock(), 0, "a fault of the server"), Verdict.AGAIN

    async def _record(self, request: Request, series: int, attempt: Attempt, verdict: Verdict) -> Webhook | None:
        """Writes the outcome, for as long as it takes: what was delivered must not be delivered again. None if the record is gone."""
        now, chance = self._clock(), self._chance()

        def change(webhook: Webhook) -> Webhook:
            delay = webhooks.retry_delay(webhook.failures + 1, self._settings.retry_seconds, chance)
            return webhooks.attempted(webhook, series, attempt, verdict, now=now, delay=delay)

        while True:
            try:
                _, after = await self._records.change(
                    request.owner, request.request_id, lambda r: requests.deliver(r, change)
                )
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except (RequestNotFound, IllegalChange, DataUnreadable, NewerRelease):
                return None
            _log.info(
                "webhook %s",
                verdict.lower(),
                extra={"request_id": request.request_id, "status": attempt.status_code, "problem": attempt.error},
            )
            return after.webhook
