"""Webhooks in records and in their queue, and the keys that sign them. Bytes out, values in."""

from __future__ import annotations

from dataclasses import dataclass

from flashbulb.internal.v1 import record_pb2
from flashbulb.v1 import queue_pb2
from flashbulb_server.core.key_ring import SEED_BYTES, Ring, SigningKey
from flashbulb_server.core.requests import Request
from flashbulb_server.core.webhooks import Attempt, DeliveryState, Webhook, has_target, host_of
from flashbulb_server.wire.times import from_timestamp, to_timestamp
from flashbulb_server.wire.unreadable import Unreadable, absent, name_in, parse, word_of


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """A webhook that is due; the record holds the rest. `target` is the `host:port` that it goes to."""

    request_id: str
    owner: str
    series: int
    target: str


def encode_webhook(message: WebhookMessage) -> bytes:
    """A webhook that is due."""
    return record_pb2.WebhookMessage(
        request_id=message.request_id, owner=message.owner, series=message.series, target=message.target
    ).SerializeToString()


def decode_webhook(data: bytes) -> WebhookMessage:
    """The webhook of a message. Raises Unreadable."""
    message = parse(record_pb2.WebhookMessage, data)
    request_id, owner = name_in(message.request_id, "request_id"), name_in(message.owner, "owner")
    return WebhookMessage(request_id, owner, message.series, message.target)


def encode_ring(ring: Ring) -> bytes:
    """The signing keys."""
    return record_pb2.SigningKeyRing(
        keys=[
            record_pb2.SigningKey(
                seed=key.seed, create_time=to_timestamp(key.create_time), sign_time=to_timestamp(key.sign_time)
            )
            for key in ring
        ]
    ).SerializeToString()


def decode_ring(data: bytes) -> Ring:
    """The signing keys of a record. Raises Unreadable."""
    ring = parse(record_pb2.SigningKeyRing, data)
    if not ring.keys:
        raise absent(ring, "key")
    return tuple(_to_key(key) for key in ring.keys)


def _to_key(key: record_pb2.SigningKey) -> SigningKey:
    if len(key.seed) != SEED_BYTES:
        raise absent(key, "seed")
    return SigningKey(key.seed, from_timestamp(key.create_time), from_timestamp(key.sign_time))


def to_webhook(webhook: Webhook) -> record_pb2.Webhook:
    """A webhook as a record holds it."""
    return record_pb2.Webhook(
        url=webhook.url,
        state=to_delivery_state(webhook.state),
        series=webhook.series,
        failures=webhook.failures,
        next_attempt_time=to_timestamp(webhook.next_attempt_time),
        attempts=[to_attempt(attempt) for attempt in webhook.attempts],
    )


def from_webhook(webhook: record_pb2.Webhook) -> Webhook:
    """The webhook of a record. Raises Unreadable."""
    if not has_target(webhook.url):
        raise Unreadable("its webhook goes nowhere")
    return Webhook(
        url=webhook.url,
        state=word_of(from_delivery_state, webhook.state, "webhook.state"),
        series=webhook.series,
        failures=webhook.failures,
        next_attempt_time=from_timestamp(webhook.next_attempt_time),
        attempts=tuple(Attempt(from_timestamp(a.attempt_time), a.status_code, a.error) for a in webhook.attempts),
    )


def to_delivery_state(state: DeliveryState) -> queue_pb2.WebhookDelivery.State.ValueType:
    """The state of a delivery as protobuf numbers it."""
    return queue_pb2.WebhookDelivery.State.Value(f"STATE_{state}")


def from_delivery_state(number: queue_pb2.WebhookDelivery.State.ValueType) -> DeliveryState:
    """The state of a number. ValueError if it is unspecified or unknown."""
    return DeliveryState(queue_pb2.WebhookDelivery.State.Name(number).removeprefix("STATE_"))


def to_attempt(attempt: Attempt) -> queue_pb2.WebhookAttempt:
    """A try to deliver a webhook."""
    return queue_pb2.WebhookAttempt(
        attempt_time=to_timestamp(attempt.time), status_code=attempt.status_code, error=attempt.error
    )


def to_delivery(request: Request) -> queue_pb2.WebhookDelivery | None:
    """The delivery as the owner sees it, None without a webhook."""
    webhook = request.webhook
    if webhook is None:
        return None
    return queue_pb2.WebhookDelivery(
        url_host=host_of(webhook.url),
        state=to_delivery_state(webhook.state),
        attempts=[to_attempt(attempt) for attempt in webhook.attempts],
        next_attempt_time=to_timestamp(webhook.next_attempt_time),
    )
