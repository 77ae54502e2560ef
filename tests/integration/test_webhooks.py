"""Deliveries over a real nats-server to a real receiver, through every trouble that they can meet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import cast

import pytest

from flashbulb_server.api.results import Results
from flashbulb_server.api.webhooks.body import Bodies
from flashbulb_server.api.webhooks.courier import Courier
from flashbulb_server.api.webhooks.sending import Letter, Sender
from flashbulb_server.api.webhooks.signing import Signer
from flashbulb_server.config import WebhookSettings
from flashbulb_server.core import requests, webhooks
from flashbulb_server.core.requests import Failure, Request
from flashbulb_server.core.tasks import task_group
from flashbulb_server.core.webhooks import Attempt, DeliveryState, Verdict, Webhook
from flashbulb_server.errors import EngineFailed, RequestCancelled, RequestNotFound, StartTimeout, StoreUnavailable
from flashbulb_server.messaging.connection import REQUEST_SECONDS
from flashbulb_server.messaging.signing import SigningKeys
from flashbulb_server.messaging.topology import WEBHOOKS, ensure_topology
from flashbulb_server.messaging.webhooks import WebhookConsumer, WebhookLease
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.web import guard
from flashbulb_server.wire.webhooks import WebhookMessage, encode_webhook
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import (
    GARBAGE,
    Queue,
    dead,
    eventually,
    make_request,
    open_queue,
    put_newer_record,
    put_record,
    record_of,
)
from tests.receiver import Receiver, verified

pytestmark = pytest.mark.integration
QUICK = WebhookSettings(
    allow_private_targets=True,
    retry_seconds=(0.3, 0.3, 0.3, 0.3),
    first_timeout_seconds=1.0,
    retry_timeout_seconds=2.0,
    lease_seconds=1.0,
)


class CountingSender(Sender):
    """Counts what it sends."""

    sent = 0

    async def send(self, letter: Letter, *, seconds: float) -> tuple[Attempt, Verdict]:
        self.sent += 1
        return await super().send(letter, seconds=seconds)


@dataclass
class Office:
    """An api's courier at work."""

    queue: Queue
    signer: Signer
    sender: CountingSender
    stop: asyncio.Event

    async def ended(self, url: str, *, queued: bool = True, **values: object) -> Request:
        """A request with a webhook that has failed just now."""
        return await end(self.queue, url, queued=queued, **values)

    async def now(self, request: Request) -> Request:
        return (await self.queue.records.get(request.owner, request.request_id)).request

    async def settled(self, request: Request, seconds: float = 20.0) -> Webhook:
        """Its webhook, once nothing is owed any more, neither by the record nor in the queue."""

        async def settled() -> bool:
            return not (await self.now(request)).owes_webhook and await waiting(self.queue) == 0

        await eventually(settled, seconds)
        webhook = (await self.now(request)).webhook
        assert webhook is not None
        return webhook

    def accepted(self, receiver: Receiver) -> bool:
        """Whether everything that came can be verified."""
        keys = cast(list[dict[str, str]], self.signer.jwks()["keys"])
        return all(verified(d.headers, d.body, keys) for d in receiver.came)


async def end(queue: Queue, url: str, *, queued: bool = True, failure: Failure | None = None, **values) -> Request:
    request = make_request(webhook=Webhook(url), **values)
    await queue.records.create(request)
    why = failure or Failure.of(EngineFailed())
    _, ended = await queue.records.change(
        request.owner, request.request_id, lambda r: requests.fail(r, why, now=time.time(), keep=3600.0)
    )
    if queued:
        await queue.webhooks.publish(ended)
    return ended


async def waiting(queue: Queue) -> int:
    return (await queue.js.stream_info(WEBHOOKS)).state.messages


@asynccontextmanager
async def open_office(server: RunningNats, settings: WebhookSettings = QUICK) -> AsyncIterator[Office]:
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(open_queue(server))
        await ensure_topology(queue.js, queue.settings, settings, replicas=1)
        await queue.js.add_consumer(
            WEBHOOKS,
            replace((await queue.js.consumer_info(WEBHOOKS, "senders")).config, ack_wait=settings.lease_seconds),
        )
        signer = await Signer.open(settings, SigningKeys(queue.js), clock=time.time)
        sender = await stack.enter_async_context(
            CountingSender(signer, allow_private=settings.allow_private_targets, clock=time.time)
        )
        consumer = await stack.enter_async_context(WebhookConsumer.open(queue.nc))
        bodies = Bodies(Results(cast(FileStore, None), url_seconds=60))  # no picture is delivered here
        courier = Courier(queue.records, consumer, bodies, sender, settings)
        stop = asyncio.Event()
        async with task_group() as tasks:
            running = tasks.create_task(courier.run(drain_seconds=5, stop=stop))
            yield Office(queue, signer, sender, stop)
            stop.set()
            await running


@pytest.fixture
async def office(nats_server: RunningNats) -> AsyncIterator[Office]:
    await forget_streams(nats_server)
    async with open_office(nats_server) as opened:
        yield opened


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (EngineFailed(), 500, "runner_server_error"),
        (RequestCancelled(2, 4), 499, "client_cancelled"),
        (StartTimeout(5.0), 504, "request_timeout"),
    ],
)
async def test_a_request_without_pictures_is_told_as_an_error(office, error, status, kind):
    async with Receiver() as receiver:
        request = await office.ended(receiver.url, failure=Failure.of(error))
        webhook = await office.settled(request)
    assert [a.status_code for a in webhook.attempts] == [200]
    assert webhook.state is DeliveryState.DELIVERED
    [came] = receiver.came
    assert came.path == "/hook?token=t0p-s3cret"
    assert came.headers["content-type"] == "application/json"
    assert came.headers["x-fal-webhook-request-id"] == request.request_id
    assert came.headers["x-fal-webhook-user-id"] == request.owner
    assert came.json == {
        "request_id": request.request_id,
        "gateway_request_id": request.request_id,
        "status": "ERROR",
        "error": f"Invalid status code: {status}",
        "payload": {"detail": error.message, "error_type": kind, "message": error.message},
    }
    assert office.accepted(receiver)


async def test_what_was_forged_is_found_out(office):
    async with Receiver() as receiver:
        await office.settled(await office.ended(receiver.url))
    [came] = receiver.came
    keys = office.signer.jwks()["keys"]
    assert verified(came.headers, came.body, keys)
    assert not verified(came.headers, came.body.replace(b"ERROR", b"OK"), keys)
    sent = int(came.headers["x-fal-webhook-timestamp"])
    assert verified(came.headers, came.body, keys, now=sent + 300)
    assert not verified(came.headers, came.body, keys, now=sent + 301)
    assert not verified(came.headers, came.body, keys, now=sent - 301)
    for name in ("request-id", "user-id", "timestamp"):
        header = f"x-fal-webhook-{name}"
        other = {**came.headers, header: str(int(came.headers[header]) + 1) if name == "timestamp" else "other"}
        assert not verified(other, came.body, keys)
    stranger = Signer((webhook_key(b"\x01" * 32),), None, 0.0, time.time)
    assert not verified(came.headers, came.body, stranger.jwks()["keys"])


def webhook_key(seed: bytes):
    from flashbulb_server.core.key_ring import SigningKey

    return SigningKey(seed, 0.0, 0.0)


async def test_a_receiver_that_fails_is_tried_again_by_schedule_and_every_try_is_logged(office):
    answers = iter([500, 0, 200])
    async with Receiver(lambda _: next(answers)) as receiver:
        webhook = await office.settled(await office.ended(receiver.url))
    assert webhook.state is DeliveryState.DELIVERED
    assert [(a.status_code, a.error) for a in webhook.attempts] == [
        (500, "the receiver answered 500"),
        (0, "the receiver broke off"),
        (200, ""),
    ]
    times = [d.time for d in receiver.came]
    assert all(b - a >= 0.3 * 0.9 for a, b in zip(times, times[1:], strict=False))
    assert office.accepted(receiver)  # every try is signed anew
    assert webhook.next_attempt_time == 0.0


async def test_the_next_attempt_is_told_while_one_is_due(nats_server):
    await forget_streams(nats_server)
    settings = QUICK.model_copy(update={"retry_seconds": (30.0,)})
    async with open_office(nats_server, settings) as office, Receiver(lambda _: 503) as receiver:
        request = await office.ended(receiver.url)
        await receiver.wait_for(1)
        await eventually(lambda: logged(office, request, 1))
        webhook = (await office.now(request)).webhook
        assert webhook.state is DeliveryState.PENDING
        assert 26 <= webhook.next_attempt_time - time.time() <= 34
        await asyncio.sleep(1.5)  # longer than the lease: its message waits, and is not taken for lost
        assert len(receiver.came) == 1


async def logged(office, request, count) -> bool:
    return len((await office.now(request)).webhook.attempts) >= count


async def test_a_receiver_that_is_down_gets_each_exactly_once_when_it_is_back(office):
    receiver = Receiver()
    await receiver.start()
    await receiver.stop()
    ended = [await office.ended(receiver.url) for _ in range(10)]
    await eventually(lambda: logged(office, ended[-1], 2))
    await receiver.start()
    for request in ended:
        webhook = await office.settled(request)
        assert webhook.state is DeliveryState.DELIVERED
        assert webhook.attempts[0].error == "the receiver takes no connection"
    await receiver.stop()
    assert sorted(receiver.ids()) == sorted(r.request_id for r in ended)
    assert office.accepted(receiver)


async def test_after_the_last_attempt_it_gives_up(office):
    async with Receiver(lambda _: 500) as receiver:
        webhook = await office.settled(await office.ended(receiver.url))
    assert webhook.state is DeliveryState.GAVE_UP
    assert len(receiver.came) == len(webhook.attempts) == webhook.failures == 5


@pytest.mark.parametrize("status", [302, 410])
async def test_redirects_and_gone_are_final(office, status):
    async with Receiver(lambda _: status) as receiver:
        webhook = await office.settled(await office.ended(receiver.url))
    assert len(receiver.came) == 1
    assert webhook.state is DeliveryState.GAVE_UP
    assert [a.status_code for a in webhook.attempts] == [status]


async def test_a_receiver_that_hangs_is_left_after_its_time(nats_server):
    await forget_streams(nats_server)
    settings = QUICK.model_copy(update={"retry_seconds": (0.1,), "retry_timeout_seconds": 1.5})

    async def hang(_) -> int:
        await asyncio.sleep(30)
        return 200

    async with open_office(nats_server, settings) as office, Receiver(hang) as receiver:
        webhook = await office.settled(await office.ended(receiver.url))
        assert [a.error for a in webhook.attempts] == [
            "the receiver did not answer within 1 s",
            "the receiver did not answer within 1.5 s",
        ]
        first, second = receiver.came
        assert second.time - first.time >= 1.0


async def test_a_delivery_longer_than_the_lease_is_not_begun_twice(nats_server):
    await forget_streams(nats_server)
    settings = QUICK.model_copy(update={"first_timeout_seconds": 10.0, "lease_seconds": 0.5})

    async def slow(_) -> int:
        await asyncio.sleep(2.5)
        return 200

    async with (
        open_office(nats_server, settings) as office,
        open_office(nats_server, settings),
    ):  # the other would take it
        async with Receiver(slow) as receiver:
            webhook = await office.settled(await office.ended(receiver.url))
            assert webhook.state is DeliveryState.DELIVERED
            assert len(receiver.came) == 1


async def test_a_message_that_is_given_out_again_while_it_is_in_hand_is_not_delivered_twice(nats_server, monkeypatch):
    await forget_streams(nats_server)

    async def lost(_) -> None:  # as while the connection is away
        return

    monkeypatch.setattr(WebhookLease, "renew", lost)
    settings = QUICK.model_copy(update={"first_timeout_seconds": 10.0, "lease_seconds": 0.5})

    async def slow(_) -> int:
        await asyncio.sleep(2.5)
        return 200

    async with open_office(nats_server, settings) as office, Receiver(slow) as receiver:
        webhook = await office.settled(await office.ended(receiver.url))
        assert webhook.state is DeliveryState.DELIVERED
        assert len(receiver.came) == 1


async def test_a_private_target_is_not_contacted(nats_server):
    await forget_streams(nats_server)
    settings = QUICK.model_copy(update={"allow_private_targets": False})
    async with open_office(nats_server, settings) as office, Receiver() as receiver:
        for host in ("127.0.0.1", "localhost", "127.1", "0x7f000001", "[::ffff:127.0.0.1]"):
            webhook = await office.settled(await office.ended(f"http://{host}:{receiver.port}/"))
            assert webhook.state is DeliveryState.GAVE_UP
            assert [a.error for a in webhook.attempts] == ["the receiver's address is not public"]
        assert receiver.came == []


async def test_a_name_is_looked_up_once_an_attempt_and_its_address_is_pinned(office, monkeypatch):
    looked = []

    def lookup(host, port):
        looked.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(guard, "resolve", lookup)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with Receiver() as receiver:
        webhook = await office.settled(await office.ended(f"http://receiver.test:{receiver.port}/"))
    assert webhook.state is DeliveryState.DELIVERED
    assert looked == ["receiver.test"]
    assert receiver.came[0].headers["host"] == f"receiver.test:{receiver.port}"


async def test_dead_name_servers_hold_up_nobody_else(office, monkeypatch):
    released, real = threading.Event(), guard.resolve

    def lookup(host, port):
        if host.startswith("dead"):
            released.wait(20)
            raise OSError
        return real(host, port)

    monkeypatch.setattr(guard, "resolve", lookup)
    async with Receiver() as receiver:
        for n in range(20):
            await office.ended(f"http://dead-{n}.test/")
        await office.ended(receiver.url)
        await receiver.wait_for(1, seconds=5)
    released.set()


async def test_a_name_that_is_not_known_is_tried_again(office):
    webhook = await office.settled(await office.ended("http://nowhere.invalid/"))
    assert [a.error for a in webhook.attempts] == ["the receiver's name is not known"] * 5


async def test_two_apis_share_the_work(nats_server):
    await forget_streams(nats_server)

    async def answer(_) -> int:
        await asyncio.sleep(0.05)
        return 200

    async with open_office(nats_server) as one, open_office(nats_server) as two, Receiver(answer) as receiver:
        ended = [await one.ended(receiver.url) for _ in range(60)]
        for request in ended:
            assert (await one.settled(request)).state is DeliveryState.DELIVERED
        assert sorted(receiver.ids()) == sorted(r.request_id for r in ended)
        assert one.sender.sent + two.sender.sent == 60
        assert min(one.sender.sent, two.sender.sent) >= 10
        assert one.accepted(receiver) and two.accepted(receiver)


async def test_a_slow_receiver_does_not_hold_up_the_others_in_time(nats_server):
    await forget_streams(nats_server)
    settings = QUICK.model_copy(
        update={"first_timeout_seconds": 20.0, "concurrency_per_target": 4, "concurrency": 16, "lease_seconds": 5.0}
    )
    release = asyncio.Event()

    async def hang(_) -> int:
        await release.wait()
        return 200

    async with open_office(nats_server, settings) as office, Receiver(hang) as slow, Receiver() as quick:
        held = [await office.ended(slow.url) for _ in range(100)]
        await slow.wait_for(4)
        started = time.monotonic()
        for _ in range(5):
            await office.ended(quick.url)
        await quick.wait_for(5, seconds=3)
        assert time.monotonic() - started < 2
        assert slow.most_open == 4
        release.set()
        for request in held:
            assert (await office.settled(request, 60)).state is DeliveryState.DELIVERED
        assert slow.most_open == 4
        assert sorted(slow.ids()) == sorted(r.request_id for r in held)


async def test_deliveries_in_all_are_bounded(nats_server):
    await forget_streams(nats_server)
    settings = QUICK.model_copy(update={"concurrency_per_target": 100, "concurrency": 5})

    async def answer(_) -> int:
        await asyncio.sleep(0.1)
        return 200

    async with open_office(nats_server, settings) as office, Receiver(answer) as receiver:
        for request in [await office.ended(receiver.url) for _ in range(20)]:
            await office.settled(request)
        assert receiver.most_open == 5


async def test_a_webhook_is_delivered_once_however_often_it_is_queued(office):
    async with Receiver() as receiver:
        request = await office.ended(receiver.url)
        await office.queue.webhooks.publish(request)
        await office.settled(request)
        message = encode_webhook(WebhookMessage(request.request_id, request.owner, 0, "127.0.0.1:1"))
        for _ in range(3):  # without an id, JetStream takes them for others
            await office.queue.js.publish(f"webhooks.{request.request_id}", message, stream=WEBHOOKS)
        await office.settled(request)
    assert receiver.ids() == [request.request_id]


async def test_what_is_not_owed_is_taken_out(office):
    async with Receiver() as receiver:
        running = make_request(webhook=Webhook(receiver.url))
        await office.queue.records.create(running)
        await office.queue.webhooks.publish(running)  # it has not ended: nothing is queued
        assert await waiting(office.queue) == 0
        for request in (running, make_request(webhook=Webhook(receiver.url))):  # the second has no record
            message = encode_webhook(WebhookMessage(request.request_id, request.owner, 0, "x:1"))
            await office.queue.js.publish(f"webhooks.{request.request_id}", message, stream=WEBHOOKS)

        async def empty() -> bool:
            return await waiting(office.queue) == 0

        await eventually(empty)
    assert receiver.came == []


async def test_a_webhook_whose_record_cannot_be_read_is_taken_out_and_one_of_a_newer_release_left(office):
    async with Receiver() as receiver:
        damaged, newer = [await office.ended(receiver.url, queued=False) for _ in range(2)]
        await put_record(office.queue, damaged)
        left = await put_newer_record(office.queue, newer)
        for request in (damaged, newer):
            await office.queue.webhooks.publish(request)
        await office.queue.js.publish("webhooks.x", GARBAGE)
        good = await office.ended(receiver.url)

        async def one_is_left() -> bool:
            return await waiting(office.queue) == 1

        await eventually(one_is_left)
        assert not (await office.now(good)).owes_webhook
        assert await office.queue.webhooks.holds(newer)
        assert await record_of(office.queue, newer) == left
        assert receiver.ids() == [good.request_id]
    assert await dead(office.queue) == {"record": 1, "webhook": 1}


async def test_a_new_series_takes_over_from_one_that_waits(nats_server):
    await forget_streams(nats_server)
    settings = QUICK.model_copy(update={"retry_seconds": (60.0,)})
    answers = iter([500, 200])
    async with open_office(nats_server, settings) as office, Receiver(lambda _: next(answers)) as receiver:
        request = await office.ended(receiver.url)
        await eventually(lambda: logged(office, request, 1))
        _, renewed = await office.queue.records.change(
            request.owner, request.request_id, lambda r: requests.deliver(r, webhooks.renewed)
        )
        await office.queue.webhooks.publish(renewed)
        await receiver.wait_for(2, seconds=5)
        await eventually(lambda: logged(office, request, 2))
        webhook = (await office.now(request)).webhook
        assert (webhook.state, webhook.series) == (DeliveryState.DELIVERED, 1)
        assert [a.status_code for a in webhook.attempts] == [500, 200]


async def test_a_record_does_not_live_longer_for_its_deliveries(office):
    async with Receiver() as receiver:
        request = make_request(webhook=Webhook(receiver.url))
        await office.queue.records.create(request)
        _, ended = await office.queue.records.change(
            request.owner,
            request.request_id,
            lambda r: requests.fail(r, Failure.of(EngineFailed()), now=time.time() - 3598, keep=3600.0),
        )
        await office.queue.webhooks.publish(ended)
        await receiver.wait_for(1)

        async def forgotten() -> bool:
            try:
                await office.now(request)
            except RequestNotFound:
                return True
            return False

        await eventually(forgotten, 10)


async def test_the_queue_is_bounded(nats_server):
    await forget_streams(nats_server)
    async with open_queue(nats_server) as queue:
        await ensure_topology(queue.js, queue.settings, WebhookSettings(max_waiting=3), replicas=1)
        for _ in range(3):
            await end(queue, "http://127.0.0.1:1/")
        last = await end(queue, "http://127.0.0.1:1/", queued=False)
        with pytest.raises(StoreUnavailable):
            await queue.webhooks.publish(last)
        assert await waiting(queue) == 3
        assert not await queue.webhooks.holds(last)


@pytest.mark.parametrize("answered", ["during", "after"])
async def test_an_outage_of_the_queue_amid_a_delivery_makes_no_second_one(own_nats_server, answered):
    release = asyncio.Event()

    async def hold(_) -> int:
        await release.wait()
        return 200

    settings = QUICK.model_copy(update={"first_timeout_seconds": 30.0})
    async with open_office(own_nats_server, settings) as office, Receiver(hold) as receiver:
        request = await office.ended(receiver.url)
        await receiver.wait_for(1)
        own_nats_server.kill()
        if answered == "during":
            release.set()
            await asyncio.sleep(REQUEST_SECONDS + 1.5)  # so that what it writes is refused, not only late
        await own_nats_server.restart()
        await asyncio.sleep(2.5)  # the message is given out once more meanwhile
        release.set()
        webhook = await office.settled(request, 30)
        assert webhook.state is DeliveryState.DELIVERED
        assert len(receiver.came) == 1


async def test_an_outage_of_the_queue_keeps_what_waits(own_nats_server):
    async with open_office(own_nats_server) as office, Receiver(lambda _: 500) as receiver:
        ended = [await office.ended(receiver.url) for _ in range(5)]
        await receiver.wait_for(5)
        own_nats_server.kill()
        receiver.came.clear()
        receiver.answer = lambda _: 200
        await own_nats_server.restart()
        for request in ended:
            assert (await office.settled(request, 30)).state is DeliveryState.DELIVERED
        assert sorted(receiver.ids()) == sorted(r.request_id for r in ended)


async def test_a_drain_finishes_what_is_in_hand_and_takes_nothing_more(nats_server):
    await forget_streams(nats_server)

    async def slow(_) -> int:
        await asyncio.sleep(0.7)
        return 200

    settings = QUICK.model_copy(update={"lease_seconds": 30.0})  # what is not given back comes too late for this test
    async with Receiver(slow) as receiver:
        async with open_office(nats_server, settings) as office:
            first = await office.ended(receiver.url)
            await receiver.wait_for(1)
            office.stop.set()
            await asyncio.sleep(0)
            second = await office.ended(receiver.url)
        assert receiver.ids() == [first.request_id]
        async with open_office(nats_server, settings) as office:
            assert (await office.settled(second, 5)).state is DeliveryState.DELIVERED
            assert (await office.now(first)).webhook.state is DeliveryState.DELIVERED
        assert receiver.ids() == [first.request_id, second.request_id]
