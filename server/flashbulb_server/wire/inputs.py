"""Inputs between protobuf and core, driven by the descriptors: a new field needs a line in the catalog and none here."""

from __future__ import annotations

import hashlib
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from flashbulb.v1 import image_pb2, input_pb2
from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.core.generation import TextToImageSpec
from flashbulb_server.errors import FieldViolation, InvalidRequest

_ENDPOINT_OF_MEMBER = {endpoint.input_field: endpoint.id for endpoint in ENDPOINTS.values()}


def given_fields(message: input_pb2.GenerationInput) -> tuple[str, dict[str, object]]:
    """Endpoint id, and the fields that the caller set by name, as `validation.resolve` takes them.

    Raises InvalidRequest if no member is set, or only one that this server does not know.
    """
    member = message.WhichOneof("input")
    if member is None:
        raise InvalidRequest([FieldViolation("input", "one endpoint's input must be set, and be known to this server")])
    fields = getattr(message, member)
    given: dict[str, object] = {}
    for field in fields.DESCRIPTOR.fields:
        if not field.is_repeated and (value := _value(fields, field)) is not None:
            given[field.name] = value
    return _ENDPOINT_OF_MEMBER[member], given


def digest(message: input_pb2.GenerationInput) -> bytes:
    """SHA-256 of an input as it was given, 32 bytes. Equal inputs have equal digests."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def to_input(spec: TextToImageSpec) -> input_pb2.GenerationInput:
    """The input with every value resolved."""
    fields = input_pb2.FastLcmTextToImageInput(
        model_name=spec.model_name,
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        num_inference_steps=spec.num_inference_steps,
        seed=spec.seed,
        guidance_scale=spec.guidance_scale,
        sync_mode=spec.sync_mode,
        num_images=spec.num_images,
        enable_safety_checker=spec.enable_safety_checker,
        expand_prompt=spec.expand_prompt,
        guidance_rescale=spec.guidance_rescale,
        request_id=spec.request_id,
    )
    fields.image_size.dimensions.width = spec.width
    fields.image_size.dimensions.height = spec.height
    for name in ("safety_checker_version", "format"):
        enum = fields.DESCRIPTOR.fields_by_name[name].enum_type
        assert enum is not None
        setattr(fields, name, enum.values_by_name[_prefix(enum) + getattr(spec, name).upper()].number)
    return input_pb2.GenerationInput(fast_lcm_text_to_image=fields)


def to_spec(message: input_pb2.GenerationInput) -> TextToImageSpec:
    """The spec of an input that this service resolved before; it is not judged again."""
    endpoint, given = given_fields(message)
    size: Any = given.pop("image_size")
    fields: dict[str, Any] = {"negative_prompt": "", "request_id": ""} | given
    return TextToImageSpec(endpoint=endpoint, width=size[0], height=size[1], **fields)


def _value(message: Message, field: FieldDescriptor) -> object:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if field.message_type is not None:
        return _size(value) if field.message_type.name == "ImageSize" else value
    if field.enum_type is not None:
        return _choice(field.enum_type, value) if value else None
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return float(f"{value:.7g}")  # the decimal that was meant: 0.01 as a 32-bit float is below 0.01
    return value if field.has_presence or value else None


def _size(size: image_pb2.ImageSize) -> object:
    which = size.WhichOneof("size")
    if which is None:
        return ()  # sent but empty, or a kind of size that is not known here: refused, not taken for the default
    value = getattr(size, which)
    if which == "preset":
        return _choice(image_pb2.ImageSizePreset.DESCRIPTOR, value) if value else None
    return value.width, value.height


def _choice(enum: EnumDescriptor, number: int) -> str:
    known = enum.values_by_number.get(number)
    return known.name.removeprefix(_prefix(enum)).lower() if known else f"unknown value {number}"


def _prefix(enum: EnumDescriptor) -> str:
    """`IMAGE_FORMAT_` of ImageFormat: every value starts with it, the zero value ends in UNSPECIFIED."""
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")
