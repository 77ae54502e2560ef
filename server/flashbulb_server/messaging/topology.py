"""The streams and buckets, made at start by whichever role comes first.

JOBS       work queue, one durable consumer for each worker class, model and priority: a job goes to workers that have its model
EVENTS     what happened to requests, in memory, so that a watch can resume
LOST       JOBS messages that were delivered too often (advisories)
WEBHOOKS   work queue of webhooks that are due, one durable consumer for all api roles
DEAD       what nobody could read, for two weeks
requests   records; idempotency; workers (seconds); models; signing (keys of webhooks)
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import BadRequestError

from flashbulb_server.config import QueueSettings, WebhookSettings
from flashbulb_server.core.requests import Priority
from flashbulb_server.messaging.connection import unavailable

JOBS = "JOBS"
JOBS_ROOT = "jobs"
EVENTS = "EVENTS"
LOST = "LOST"
WEBHOOKS = "WEBHOOKS"
DEAD = "DEAD"
WEBHOOK_CONSUMER = "senders"
REQUESTS = "requests"
IDEMPOTENCY = "idempotency"
WORKERS = "workers"
MODELS = "models"
SIGNING = "signing"
WORKER_SECONDS = 4.0  # a worker that was not heard of for so long is gone; it announces itself every second
MODEL_SECONDS = 30 * 86_400.0  # a model stays installed while no worker runs, so that workers can be scaled to zero
DELIVERIES_PER_ATTEMPT = 3
"""Deliveries are not attempts: an outage redelivers a job that is in hand. Workers count attempts in the record; this only ends a job
that no worker gets so far with."""
_DEAD_SECONDS = 14 * 86_400.0
_DEAD_BYTES = 64 * 1024 * 1024
_DEAD_MESSAGES = 10_000
_EVENT_SECONDS = 3600.0
_EVENT_BYTES = 256 * 1024 * 1024
_EVENTS_PER_SUBJECT = 128
_STREAM_NAME_IN_USE = 10058
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_TOKEN_CHARS = 64


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers of a class that have a model: jobs for it wait in queues of their own, one a priority."""

    worker_class: str
    model_name: str

    @property
    def token(self) -> str:
        """The model in names and subjects, which may not hold all characters that names of models do: legible, and never that of another."""
        legible = _NOT_IN_NAMES.sub("-", self.model_name)
        if legible == self.model_name and len(legible) <= _TOKEN_CHARS:
            return legible
        return f"{legible[:_TOKEN_CHARS]}-{hashlib.sha256(self.model_name.encode()).hexdigest()[:8]}"

    def consumer(self, priority: Priority) -> str:
        """Name of the durable consumer, such as `default-flashbulb-tiny-1b2c3d4e-normal`."""
        return f"{self.worker_class}-{self.token}-{priority}"

    def subject(self, priority: Priority, request_id: str = "*") -> str:
        """Subject of a job; without an id, the filter of the consumer."""
        return f"{JOBS_ROOT}.{self.worker_class}.{self.token}.{priority}.{request_id}"


async def ensure_topology(
    js: JetStreamContext, queue: QueueSettings, webhooks: WebhookSettings | None = None, *, replicas: int
) -> None:
    """Makes streams and buckets that are missing, and brings changed limits into force. Raises StoreUnavailable."""
    hooks = webhooks or WebhookSettings()
    with unavailable():
        await _ensure_stream(
            js,
            StreamConfig(
                name=JOBS,
                # The second is that of releases which did not part jobs by model: an api of such a one may run beside this one.
                subjects=[f"{JOBS_ROOT}.*.*.*.*", f"{JOBS_ROOT}.*.*.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW,
                max_msgs=queue.max_requests,
                duplicate_window=120,
                allow_direct=True,
                num_replicas=replicas,
            ),
        )
        await _ensure_stream(
            js,
            StreamConfig(
                name=LOST,
                subjects=[f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{JOBS}.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                max_age=86_400,
                num_replicas=replicas,
            ),
        )
        await _ensure_stream(
            js,
            StreamConfig(
                name=WEBHOOKS,
                subjects=["webhooks.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW,
                max_msgs=hooks.max_waiting,
                duplicate_window=120,
                allow_direct=True,
                num_replicas=replicas,
            ),
        )
        await _ensure_stream(
            js,
            StreamConfig(
                name=DEAD,
                subjects=["dead.*.>"],
                storage=StorageType.FILE,
                discard=DiscardPolicy.OLD,
                max_age=_DEAD_SECONDS,
                max_bytes=_DEAD_BYTES,
                max_msgs=_DEAD_MESSAGES,
                duplicate_window=86_400,  # a record or an announcement is met by every process that reads it
                allow_direct=True,
                num_replicas=replicas,
            ),
        )
        await js.add_consumer(
            WEBHOOKS,
            ConsumerConfig(
                durable_name=WEBHOOK_CONSUMER,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=hooks.lease_seconds,
                # Attempts are counted in the record. Those that wait for their next one are pending all the while.
                max_ack_pending=hooks.max_waiting,
                max_waiting=2048,
            ),
        )
        await _ensure_bucket(js, KeyValueConfig(bucket=SIGNING, replicas=replicas, direct=True))
        await _ensure_bucket(js, KeyValueConfig(bucket=REQUESTS, replicas=replicas, direct=True, limit_marker_ttl=60))
        await _ensure_bucket(
            js, KeyValueConfig(bucket=IDEMPOTENCY, ttl=queue.idempotency_seconds, replicas=replicas, direct=True)
        )
        await _ensure_bucket(js, KeyValueConfig(bucket=MODELS, ttl=MODEL_SECONDS, replicas=replicas, direct=True))
        await _ensure_volatile(js, replicas)


async def restore_topology(nc: Client, *, replicas: int) -> None:
    """After a reconnection: makes what a restarted server has forgotten, which is what it held in memory. Raises StoreUnavailable."""
    with unavailable():
        await _ensure_volatile(nc.jetstream(), replicas)


async def _ensure_volatile(js: JetStreamContext, replicas: int) -> None:
    await _ensure_stream(
        js,
        StreamConfig(
            name=EVENTS,
            subjects=["events.*.*"],
            storage=StorageType.MEMORY,
            discard=DiscardPolicy.OLD,
            max_age=_EVENT_SECONDS,
            max_bytes=_EVENT_BYTES,
            max_msgs_per_subject=_EVENTS_PER_SUBJECT,
            no_ack=True,
            allow_direct=True,
            num_replicas=replicas,
        ),
    )
    await _ensure_bucket(
        js,
        KeyValueConfig(bucket=WORKERS, ttl=WORKER_SECONDS, storage=StorageType.MEMORY, replicas=replicas, direct=True),
    )


async def ensure_consumers(js: JetStreamContext, queue: QueueSettings, pool: Pool) -> None:
    """Makes the consumers of a pool. Raises StoreUnavailable."""
    with unavailable():
        for priority in Priority:
            await js.add_consumer(
                JOBS,
                ConsumerConfig(
                    durable_name=pool.consumer(priority),
                    filter_subject=pool.subject(priority),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=queue.lease_seconds,
                    max_deliver=queue.max_attempts * DELIVERIES_PER_ATTEMPT,
                    max_ack_pending=10_000,
                    max_waiting=2048,
                ),
            )


async def _ensure_stream(js: JetStreamContext, config: StreamConfig) -> None:
    try:
        await js.add_stream(config)
    except BadRequestError as err:
        if err.err_code != _STREAM_NAME_IN_USE:
            raise
        await js.update_stream(config)


async def _ensure_bucket(js: JetStreamContext, config: KeyValueConfig) -> None:
    try:
        await js.create_key_value(config)
    except BadRequestError as err:
        if err.err_code != _STREAM_NAME_IN_USE:
            raise
        # Another release or another lifetime: the bucket keeps what it holds.
