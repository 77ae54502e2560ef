"""Where the queue lives: what its use-cases and the janitor work with."""

from __future__ import annotations

from dataclasses import dataclass

from flashbulb_server.core.requests import Request
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.messaging.jobs import JobQueue
from flashbulb_server.messaging.records import IdempotencyKeys, RequestRecords
from flashbulb_server.messaging.webhooks import WebhookQueue
from flashbulb_server.wire.records import Job


@dataclass(frozen=True, slots=True)
class Stores:
    """The parts of the queue."""

    records: RequestRecords
    keys: IdempotencyKeys
    jobs: JobQueue
    events: EventBus
    fleet: Fleet
    webhooks: WebhookQueue


def job_of(request: Request) -> Job:
    """The job that a request is queued as."""
    return Job(
        request.request_id, request.owner, request.start_deadline, request.spec.model_name, request.spec.num_images
    )
