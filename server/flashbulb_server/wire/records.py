"""What stands in the stores and travels between roles: records, jobs, events, announcements. Bytes out, values in.

Every decoder raises Unreadable for bytes that it does not understand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flashbulb.internal.v1 import engine_pb2, record_pb2
from flashbulb.v1 import queue_pb2
from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.requests import Failure, LogLine, Priority, Request, State
from flashbulb_server.wire.carrying import carry
from flashbulb_server.wire.inputs import to_input, to_spec
from flashbulb_server.wire.link import is_address
from flashbulb_server.wire.outputs import (
    from_log,
    from_output,
    from_preview,
    from_progress,
    to_log,
    to_output,
    to_preview,
    to_progress,
)
from flashbulb_server.wire.times import from_duration, from_timestamp, to_duration, to_timestamp
from flashbulb_server.wire.unreadable import Unreadable, absent, name_in, parse, word_of
from flashbulb_server.wire.webhooks import from_webhook, to_webhook


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the queue; the record holds the input. `start_deadline` in unix seconds."""

    request_id: str
    owner: str
    start_deadline: float
    model_name: str
    num_images: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a request: a state (read the record), a log line, a step, or a preview. `time` in unix seconds."""

    sequence: int
    time: float
    body: State | LogLine | Progress | PreviewImage


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker says of itself. `seconds_per_image` 0 while nothing was measured."""

    worker_id: str
    address: str
    models: tuple[str, ...]
    capacity: int
    in_flight: int
    seconds_per_image: float
    draining: bool
    time: float


def to_state(state: State) -> queue_pb2.GenerationRequest.State.ValueType:
    """The state as protobuf numbers it."""
    return queue_pb2.GenerationRequest.State.Value(f"STATE_{state}")


def from_state(number: queue_pb2.GenerationRequest.State.ValueType) -> State:
    """The state of a number. ValueError if it is unspecified or unknown."""
    return State(queue_pb2.GenerationRequest.State.Name(number).removeprefix("STATE_"))


def to_priority(priority: Priority) -> queue_pb2.Priority.ValueType:
    """The priority as protobuf numbers it."""
    return queue_pb2.Priority.Value(f"PRIORITY_{priority.upper()}")


def from_priority(number: queue_pb2.Priority.ValueType) -> Priority:
    """The priority of a number; absent is NORMAL. ValueError if it is unknown."""
    if number == queue_pb2.PRIORITY_UNSPECIFIED:
        return Priority.NORMAL
    return Priority(queue_pb2.Priority.Name(number).removeprefix("PRIORITY_").lower())


def encode_request(request: Request) -> bytes:
    """A record."""
    return _to_record(request).SerializeToString()


def encode_change(stored: bytes, before: Request, after: Request) -> bytes:
    """The record of `after`, once `before` was read from what is stored: what a newer release wrote there, and this one does not know, stays."""
    known, wanted = _to_record(before), _to_record(after)
    if known.SerializeToString() == stored:  # as nearly always: there is nothing else in it
        return wanted.SerializeToString()
    record = parse(record_pb2.RequestRecord, stored)
    carry(record, known, wanted)
    return record.SerializeToString()


def decode_request(data: bytes) -> Request:
    """The request of a record."""
    return _from_record(parse(record_pb2.RequestRecord, data))


def _to_record(request: Request) -> record_pb2.RequestRecord:
    record = record_pb2.RequestRecord(
        request_id=request.request_id,
        owner=request.owner,
        input=to_input(request.spec),
        model_name=request.spec.model_name,
        state=to_state(request.state),
        priority=to_priority(request.priority),
        runner_hint=request.runner_hint,
        create_time=to_timestamp(request.create_time),
        start_deadline=to_timestamp(request.start_deadline),
        start_time=to_timestamp(request.start_time),
        end_time=to_timestamp(request.end_time),
        expire_time=to_timestamp(request.expire_time),
        attempt=request.attempt,
        worker_id=request.worker_id,
        sequence=request.sequence,
        steps_done=request.steps_done,
        total_steps=request.total_steps,
        logs=[to_log(line) for line in request.logs],
    )
    if request.result is not None:
        record.output.CopyFrom(to_output(request.result))
        record.image_keys.extend(image.key for image in request.result.images)
    if request.failure is not None:
        record.failure.reason = request.failure.reason
        record.failure.message = request.failure.message
        record.failure.metadata.update(request.failure.metadata)
    record.no_retry = request.no_retry
    if request.keep:
        record.keep.CopyFrom(to_duration(request.keep))
    if request.webhook is not None:
        record.webhook.CopyFrom(to_webhook(request.webhook))
    return record


def _from_record(record: record_pb2.RequestRecord) -> Request:
    state = word_of(from_state, record.state, "state")
    outcome = record.WhichOneof("outcome")
    if state.terminal and outcome is None:
        raise absent(record, "outcome")
    failure = record.failure
    return Request(
        request_id=name_in(record.request_id, "request_id"),
        owner=name_in(record.owner, "owner"),
        spec=to_spec(record.input, record.model_name),
        state=state,
        priority=word_of(from_priority, record.priority, "priority"),
        runner_hint=record.runner_hint,
        create_time=from_timestamp(record.create_time),
        start_deadline=from_timestamp(record.start_deadline),
        start_time=from_timestamp(record.start_time),
        end_time=from_timestamp(record.end_time),
        expire_time=from_timestamp(record.expire_time),
        attempt=record.attempt,
        worker_id=name_in(record.worker_id, "worker_id") if record.worker_id else "",
        sequence=record.sequence,
        steps_done=record.steps_done,
        total_steps=record.total_steps,
        logs=tuple(from_log(entry) for entry in record.logs),
        result=from_output(record.output, tuple(record.image_keys)) if outcome == "output" else None,
        failure=Failure(failure.reason, failure.message, dict(failure.metadata)) if outcome == "failure" else None,
        webhook=from_webhook(record.webhook) if record.HasField("webhook") else None,
        no_retry=record.no_retry,
        keep=from_duration(record.keep),
    )


def encode_job(job: Job) -> bytes:
    """A job."""
    return record_pb2.Job(
        request_id=job.request_id,
        owner=job.owner,
        start_deadline=to_timestamp(job.start_deadline),
        model_name=job.model_name,
        num_images=job.num_images,
    ).SerializeToString()


def decode_job(data: bytes) -> Job:
    """The job of a message."""
    job = parse(record_pb2.Job, data)
    if job.num_images < 1:
        raise Unreadable(f"it is of {job.num_images} images")
    return Job(
        name_in(job.request_id, "request_id"),
        name_in(job.owner, "owner"),
        from_timestamp(job.start_deadline),
        job.model_name,
        job.num_images,
    )


def encode_event(event: Event) -> bytes:
    """An event."""
    message = record_pb2.Event(sequence=event.sequence, event_time=to_timestamp(event.time))
    match event.body:
        case State():
            message.state = to_state(event.body)
        case LogLine():
            message.log.CopyFrom(to_log(event.body))
        case Progress():
            message.progress.CopyFrom(to_progress(event.body))
        case PreviewImage():
            message.preview.CopyFrom(to_preview(event.body))
    return message.SerializeToString()


def decode_event(data: bytes) -> Event | None:
    """The event of a message, or None if it cannot be read, or a newer release made it and it is not known here: watchers can do without."""
    try:
        message = parse(record_pb2.Event, data)
        body = _event_body(message)
        return None if body is None else Event(message.sequence, from_timestamp(message.event_time), body)
    except Unreadable:
        return None


def _event_body(message: record_pb2.Event) -> State | LogLine | Progress | PreviewImage | None:
    match message.WhichOneof("event"):
        case "state":
            return word_of(from_state, message.state, "state")
        case "log":
            return from_log(message.log)
        case "progress":
            return from_progress(message.progress)
        case "preview":
            return from_preview(message.preview)
        case _:
            return None


def encode_announcement(announcement: Announcement) -> bytes:
    """An announcement."""
    return engine_pb2.WorkerAnnouncement(
        worker_id=announcement.worker_id,
        address=announcement.address,
        models=announcement.models,
        capacity=announcement.capacity,
        in_flight=announcement.in_flight,
        seconds_per_image=announcement.seconds_per_image,
        draining=announcement.draining,
        announce_time=to_timestamp(announcement.time),
    ).SerializeToString()


def decode_announcement(data: bytes) -> Announcement:
    """The announcement of a message."""
    message = parse(engine_pb2.WorkerAnnouncement, data)
    if not is_address(message.address):
        raise Unreadable("its address is none")
    if not (0 <= message.seconds_per_image < math.inf) or message.capacity < 1:
        raise Unreadable("a number in it cannot be")
    return Announcement(
        worker_id=name_in(message.worker_id, "worker_id"),
        address=message.address,
        models=tuple(message.models),
        capacity=message.capacity,
        in_flight=message.in_flight,
        seconds_per_image=message.seconds_per_image,
        draining=message.draining,
        time=from_timestamp(message.announce_time),
    )
