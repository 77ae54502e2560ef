"""Protobuf answers to values, one function a message. What this version does not know is left out, never an error."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from flashbulb import _frames as frames
from flashbulb import _results as results
from flashbulb._encode import short_name
from flashbulb._errors import from_outcome
from flashbulb._inputs import BY_FIELD, Input, Lora, TextualInversion
from flashbulb.v1 import generation_pb2, image_pb2, input_pb2, model_pb2, queue_pb2, realtime_pb2, storage_pb2

_NESTED: Mapping[str, type[Lora | TextualInversion]] = {"LoraWeight": Lora, "TextualInversion": TextualInversion}


def image(message: image_pb2.Image) -> results.Image:
    """A picture."""
    return results.Image(
        url=message.url,
        content=message.content,
        content_type=message.content_type,
        width=message.width,
        height=message.height,
        native_width=message.native_width,
        native_height=message.native_height,
        size_bytes=message.size_bytes,
        seed=message.seed,
        url_expire_time=_time(message, "url_expire_time"),
    )


def result(message: generation_pb2.GenerationOutput, request_id: str) -> results.Result:
    """The pictures of a request; `request_id` is empty for a direct call."""
    return results.Result(
        images=tuple(image(item) for item in message.images),
        seed=message.seed,
        prompt=message.prompt,
        has_nsfw_concepts=tuple(message.has_nsfw_concepts),
        timings=dict(message.timings),
        resolved_input=typed_input(message.resolved_input),
        fidelity=_enum(generation_pb2.Fidelity.DESCRIPTOR, message.fidelity),
        mean_batch_size=message.mean_batch_size,
        request_id=request_id,
        label=message.request_id,
        model_name=message.model_name,
        backend=message.backend,
    )


def status(message: queue_pb2.GenerationRequest) -> results.RequestStatus:
    """A request in the queue."""
    return results.RequestStatus(
        request_id=message.request_id,
        endpoint=message.endpoint,
        model_name=message.model_name,
        state=state(message.state),
        priority=_enum(queue_pb2.Priority.DESCRIPTOR, message.priority),
        queue_position=message.queue_position if message.HasField("queue_position") else None,
        eta=_seconds(message.eta) if message.HasField("eta") else None,
        step=message.progress.step,
        total_steps=message.progress.total_steps,
        create_time=_time(message, "create_time"),
        start_time=_time(message, "start_time"),
        end_time=_time(message, "end_time"),
        expire_time=_time(message, "expire_time"),
        attempt=message.attempt,
        logs=tuple(log_line(line) for line in message.logs),
        error=from_outcome(message.error) if message.HasField("error") else None,
        webhook=webhook(message.webhook) if message.HasField("webhook") else None,
    )


def webhook(message: queue_pb2.WebhookDelivery) -> results.WebhookDelivery:
    """How a webhook fares."""
    return results.WebhookDelivery(
        url_host=message.url_host,
        state=_enum(queue_pb2.WebhookDelivery.State.DESCRIPTOR, message.state),
        attempts=tuple(
            results.WebhookAttempt(_time(attempt, "attempt_time"), attempt.status_code, attempt.error)
            for attempt in message.attempts
        ),
        next_attempt_time=_time(message, "next_attempt_time"),
    )


def state(number: int) -> results.State:
    """A state; UNKNOWN for one that a later server has."""
    name = _enum(queue_pb2.GenerationRequest.State.DESCRIPTOR, number).upper()
    return results.State(name) if name in results.State.__members__ else results.State.UNKNOWN


def log_line(message: generation_pb2.LogEntry) -> results.LogLine:
    """A line of a log."""
    return results.LogLine(
        _time(message, "log_time"), _enum(generation_pb2.LogLevel.DESCRIPTOR, message.level), message.message
    )


def event(message: queue_pb2.WatchStatusResponse) -> results.Event | None:
    """An event of a request; None for a heartbeat and for what this version does not know."""
    when = _time(message, "event_time")
    match message.WhichOneof("event"):
        case "request":
            return results.StatusChanged(message.sequence, when, status(message.request))
        case "log":
            return results.Logged(message.sequence, when, log_line(message.log))
        case "progress":
            return stepped(message.progress, message.sequence, when)
        case "preview":
            return previewed(message.preview, message.sequence, when)
        case _:
            return None


def stepped(message: generation_pb2.StepProgress, sequence: int = 0, when: datetime | None = None) -> results.Stepped:
    """A finished step."""
    return results.Stepped(sequence, when, message.step, message.total_steps)


def previewed(message: generation_pb2.Preview, sequence: int = 0, when: datetime | None = None) -> results.Previewed:
    """A preview."""
    return results.Previewed(sequence, when, message.image_index, message.step, message.content, message.content_type)


def receipt(message: queue_pb2.CancelResponse) -> results.CancelReceipt:
    """What a cancellation did."""
    return results.CancelReceipt(
        state(message.previous_state), status(message.request), message.stopped_at_step, message.saved_steps
    )


def frame(message: realtime_pb2.OutputFrame, frame_id: int, latency: float, superseded: int) -> frames.Frame:
    """A picture of a session. `superseded` are the frames that the server does not know of."""
    return frames.Frame(
        frame_id=frame_id,
        images=tuple(image(item) for item in message.images),
        seed=message.seed,
        timings=dict(message.timings),
        age=_seconds(message.age),
        latency=latency,
        superseded=message.superseded_frames + superseded,
        has_nsfw_concepts=tuple(message.has_nsfw_concepts),
        fidelity=_enum(generation_pb2.Fidelity.DESCRIPTOR, message.fidelity),
        model_name=message.model_name,
        backend=message.backend,
    )


def dropped(message: realtime_pb2.DroppedFrame) -> frames.Dropped:
    """A frame of a session that was not drawn."""
    return frames.Dropped(
        message.frame_id,
        _enum(realtime_pb2.DropReason.DESCRIPTOR, message.reason),
        message.stopped_at_step,
        from_outcome(message.error) if message.HasField("error") else None,
    )


def close_reason(number: int) -> str:
    """Why a session ends, such as IDLE."""
    return _enum(realtime_pb2.CloseReason.DESCRIPTOR, number).upper()


def token(message: realtime_pb2.CreateTokenResponse) -> frames.Token:
    """A token."""
    return frames.Token(message.token, _time(message, "expire_time"))


def file(message: storage_pb2.File) -> results.File:
    """A stored file."""
    return results.File(
        message.uri, message.url, message.content_type, message.size_bytes, _time(message, "expire_time")
    )


def model(message: model_pb2.Model) -> results.Model:
    """Installed weights."""
    return results.Model(
        name=message.name,
        endpoints=tuple(message.endpoints),
        native_size=message.native_size,
        resamples=message.resamples,
        max_image_pixels=message.max_image_pixels,
        fidelity=_enum(generation_pb2.Fidelity.DESCRIPTOR, message.fidelity),
        live_workers=message.live_workers,
        safety_checker_versions=tuple(message.safety_checker_versions),
        safe_by_construction=message.safe_by_construction,
        backend=message.backend,
        stands_in_for=tuple(message.stands_in_for),
    )


def endpoint(message: model_pb2.Endpoint) -> results.Endpoint:
    """A typed task with its fields."""
    fields = tuple(map(field_spec, message.fields))
    return results.Endpoint(
        message.endpoint, message.description, message.input_field, fields, tuple(message.models), message.default_model
    )


def field_spec(message: model_pb2.FieldSpec) -> results.FieldSpec:
    """A field with its limits."""
    return results.FieldSpec(
        name=message.name,
        required=message.required,
        default=json.loads(message.default_json) if message.default_json else None,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
        choices=tuple(message.choices),
        items=tuple(map(field_spec, message.items)),
    )


def typed_input(message: input_pb2.GenerationInput) -> Input | None:
    """The typed input of a message; None for an endpoint that this version does not know."""
    input_class = BY_FIELD.get(message.WhichOneof("input") or "")
    if input_class is None:
        return None
    return input_class(**_values(getattr(message, input_class.field), input_class))


def _values(message: Message, target: type[Any]) -> dict[str, Any]:
    """The set fields of a message that `target` has too; a required one that is not set is empty."""
    known = {field.name: field for field in dataclasses.fields(target)}
    empty = {name: "" for name, field in known.items() if field.default is dataclasses.MISSING}
    return empty | {field.name: _value(field, value) for field, value in message.ListFields() if field.name in known}


def _value(field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401  # any value of any field
    if field.is_repeated:
        return tuple(_item(field, item) for item in value)
    return _item(field, value)


def _item(field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401  # any value of any field
    if isinstance(value, image_pb2.ImageSize):
        if value.WhichOneof("size") == "preset":
            return _enum(image_pb2.ImageSizePreset.DESCRIPTOR, value.preset)
        return (value.dimensions.width, value.dimensions.height)
    if isinstance(value, image_pb2.ImageSource):
        return value.uri if value.WhichOneof("source") == "uri" else value.content
    if field.message_type is not None:
        nested = _NESTED[field.message_type.name]
        return nested(**_values(value, nested))
    return value if field.enum_type is None else _enum(field.enum_type, value)


def _enum(enum: EnumDescriptor, number: int) -> str:
    """The short name of a value; `unspecified` for zero, the number for one that a later server has."""
    value = enum.values_by_number.get(number)
    return str(number) if value is None else short_name(enum, value.name)


def _time(message: Message, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    stamp: Timestamp = getattr(message, name)
    return stamp.ToDatetime(UTC)


def _seconds(span: Duration) -> float:
    return span.ToTimedelta().total_seconds()
