"""Webhooks and their keys come back from bytes as they were, and their owners do not see the URL's secrets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashbulb.v1 import queue_pb2
from flashbulb_server.core.key_ring import SigningKey
from flashbulb_server.core.webhooks import Attempt, DeliveryState, Webhook
from flashbulb_server.wire.records import decode_request, encode_request
from flashbulb_server.wire.webhooks import (
    WebhookMessage,
    decode_ring,
    decode_webhook,
    encode_ring,
    encode_webhook,
    to_delivery,
)
from tests.unit.wire.test_records import every_request

NOW = 1_700_000_000.123456
TRIED = Webhook(
    "https://user.example/hook?token=s3cret",
    DeliveryState.PENDING,
    series=2,
    failures=1,
    next_attempt_time=NOW + 60,
    attempts=(Attempt(NOW, 0, "the receiver takes no connection"), Attempt(NOW + 1, 503, "the receiver answered 503")),
)


@pytest.mark.parametrize("request_", every_request(), ids=lambda r: f"{r.state}-{r.attempt}")
@pytest.mark.parametrize("webhook", [Webhook("http://a.example/"), TRIED, replace(TRIED, state=DeliveryState.GAVE_UP)])
def test_a_request_comes_back_with_its_webhook(request_, webhook):
    before = replace(request_, webhook=webhook)
    assert decode_request(encode_request(before)) == before


@pytest.mark.parametrize("state", list(DeliveryState))
def test_every_state_of_a_delivery_has_a_number(state):
    before = replace(every_request()[0], webhook=replace(TRIED, state=state))
    assert decode_request(encode_request(before)) == before
    assert len(DeliveryState) + 1 == len(queue_pb2.WebhookDelivery.State.keys())


def test_a_message_and_a_ring_come_back_as_they_were():
    message = WebhookMessage("r", "demo", 3, "user.example:443")
    assert decode_webhook(encode_webhook(message)) == message
    ring = (SigningKey(bytes(range(32)), NOW, NOW), SigningKey(b"\xff" * 32, NOW + 1, NOW + 90_000))
    assert decode_ring(encode_ring(ring)) == ring


def test_the_owner_sees_the_host_and_the_log_alone():
    delivery = to_delivery(replace(every_request()[4], webhook=TRIED))
    assert (delivery.url_host, delivery.state) == ("user.example", queue_pb2.WebhookDelivery.STATE_PENDING)
    assert [(a.status_code, a.error) for a in delivery.attempts] == [(a.status_code, a.error) for a in TRIED.attempts]
    assert delivery.next_attempt_time.seconds == int(NOW + 60)
    assert "s3cret" not in str(delivery)
    assert to_delivery(every_request()[4]) is None
