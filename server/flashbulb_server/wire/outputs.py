"""Results, progress and models between protobuf and core."""

from __future__ import annotations

from typing import Any

from flashbulb.v1 import generation_pb2, image_pb2, input_pb2, model_pb2
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import DrawnImage, GenerationResult, PreviewImage, Progress
from flashbulb_server.core.requests import LogLevel, LogLine
from flashbulb_server.wire.inputs import to_input, to_spec
from flashbulb_server.wire.times import from_timestamp, to_timestamp
from flashbulb_server.wire.unreadable import Unreadable, parse

_FIDELITIES = {name.removeprefix("FIDELITY_"): number for name, number in generation_pb2.Fidelity.items()}
_FIDELITY_NAMES = {number: name for name, number in _FIDELITIES.items()}
_LEVELS = {number: name.removeprefix("LOG_LEVEL_") for name, number in generation_pb2.LogLevel.items()}


def to_fidelity(fidelity: str) -> generation_pb2.Fidelity.ValueType:
    """The fidelity as protobuf numbers it."""
    return generation_pb2.Fidelity.ValueType(_FIDELITIES[fidelity] if fidelity in _FIDELITIES else int(fidelity))


def from_fidelity(number: generation_pb2.Fidelity.ValueType) -> str:
    """The fidelity of a number; the number in digits, as protobuf's JSON has it, where a newer release gave one that is not known here."""
    return _FIDELITY_NAMES.get(number, str(number))


def to_output(result: GenerationResult) -> generation_pb2.GenerationOutput:
    """The result as callers see it. Keys of stored images are not part of it, nor are pictures that came inline."""
    return generation_pb2.GenerationOutput(**output_fields(result))


def output_fields(
    result: GenerationResult, *, resolved: input_pb2.GenerationInput | None = None
) -> dict[str, Any]:  # as protobuf's constructors take them
    """The fields of `to_output`, for a message around it: made in one call, and pictures are not copied from one to the other.

    `resolved`: the message of the result's spec, if it is at hand and holds no inline pictures.
    """
    return {
        "images": [_image_fields(image) for image in result.images],
        "timings": dict(result.timings),
        "seed": result.spec.seed,
        "has_nsfw_concepts": result.has_nsfw_concepts,
        "prompt": result.spec.prompt,
        "request_id": result.spec.request_id,
        "resolved_input": resolved or to_input(result.spec, echo=True),
        "fidelity": to_fidelity(result.fidelity),
        "mean_batch_size": result.mean_batch_size,
        "backend": result.backend,
        "model_name": result.spec.model_name,
    }


def from_output(output: generation_pb2.GenerationOutput, keys: tuple[str, ...] | None = None) -> GenerationResult:
    """The result; `keys` are those of the images, in order, if they are stored. Raises Unreadable."""
    padded = ("",) * len(output.images) if keys is None else keys
    if len(padded) != len(output.images):
        raise Unreadable(f"it has {len(output.images)} images under {len(padded)} keys")
    return GenerationResult(
        spec=to_spec(output.resolved_input, output.model_name),
        images=tuple(_from_image(image, key) for image, key in zip(output.images, padded, strict=True)),
        has_nsfw_concepts=tuple(output.has_nsfw_concepts),
        fidelity=from_fidelity(output.fidelity),
        mean_batch_size=output.mean_batch_size,
        timings=dict(output.timings),
        backend=output.backend,
    )


def _image_fields(image: DrawnImage) -> dict[str, Any]:
    return {
        "url": image.url,
        "content": image.content,
        "content_type": image.content_type,
        "width": image.width,
        "height": image.height,
        "native_width": image.native_width,
        "native_height": image.native_height,
        "size_bytes": image.size_bytes,
        "seed": image.seed,
        "url_expire_time": to_timestamp(image.url_expire_time),
    }


def _from_image(image: image_pb2.Image, key: str) -> DrawnImage:
    return DrawnImage(
        content_type=image.content_type,
        width=image.width,
        height=image.height,
        native_width=image.native_width,
        native_height=image.native_height,
        size_bytes=image.size_bytes,
        seed=image.seed,
        key=key,
        content=image.content,
        url=image.url,
        url_expire_time=from_timestamp(image.url_expire_time),
    )


def to_progress(progress: Progress) -> generation_pb2.StepProgress:
    """A finished step."""
    return generation_pb2.StepProgress(step=progress.step, total_steps=progress.total_steps)


def from_progress(progress: generation_pb2.StepProgress) -> Progress:
    """A finished step."""
    return Progress(progress.step, progress.total_steps)


def to_preview(preview: PreviewImage) -> generation_pb2.Preview:
    """A preview."""
    return generation_pb2.Preview(
        image_index=preview.image_index, step=preview.step, content=preview.content, content_type="image/jpeg"
    )


def from_preview(preview: generation_pb2.Preview) -> PreviewImage:
    """A preview."""
    return PreviewImage(preview.image_index, preview.step, preview.content)


def to_log(line: LogLine) -> generation_pb2.LogEntry:
    """A log line."""
    return generation_pb2.LogEntry(
        log_time=to_timestamp(line.time),
        level=generation_pb2.LogLevel.Value(f"LOG_LEVEL_{line.level}"),
        message=line.message,
    )


def from_log(entry: generation_pb2.LogEntry) -> LogLine:
    """A log line. Of a level that is not known here it is INFO."""
    level = _LEVELS.get(entry.level) if entry.level else None
    return LogLine(from_timestamp(entry.log_time), LogLevel(level) if level else LogLevel.INFO, entry.message)


def to_model(model: ModelInfo, live_workers: int = 0) -> model_pb2.Model:
    """A model as ModelService lists it and as workers announce it."""
    return model_pb2.Model(
        name=model.name,
        endpoints=model.endpoints,
        native_size=model.native_size,
        resamples=model.resamples,
        max_image_pixels=model.max_image_pixels,
        fidelity=to_fidelity(model.fidelity),
        live_workers=live_workers,
        safety_checker_versions=model.safety_checker_versions,
        safe_by_construction=model.safe_by_construction,
        backend=model.backend,
        stands_in_for=model.stands_in_for,
    )


def decode_model(data: bytes) -> ModelInfo:
    """The model of an announcement. Raises Unreadable."""
    model = parse(model_pb2.Model, data)
    if not model.name:
        raise Unreadable("it has no name")
    return from_model(model)


def from_model(model: model_pb2.Model) -> ModelInfo:
    """A model as a worker announced it."""
    return ModelInfo(
        name=model.name,
        endpoints=tuple(model.endpoints),
        native_size=model.native_size,
        resamples=model.resamples,
        max_image_pixels=model.max_image_pixels,
        fidelity=from_fidelity(model.fidelity),
        safety_checker_versions=tuple(model.safety_checker_versions),
        safe_by_construction=model.safe_by_construction,
        backend=model.backend,
    )
