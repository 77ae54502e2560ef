"""Inputs between protobuf and core, driven by the descriptors: a new field needs a line in the catalog and none here."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from flashbulb.v1 import image_pb2, input_pb2
from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.core.generation import ATTRIBUTES, USES, EmbeddingUse, GenerationSpec, LoraUse, SourceImage
from flashbulb_server.errors import FieldViolation, InvalidRequest
from flashbulb_server.wire.unreadable import Unreadable, absent, require_known

_ENDPOINT_OF_MEMBER = {endpoint.input_field: endpoint.id for endpoint in ENDPOINTS.values()}


def _without_default(values: type[GenerationSpec] | type[LoraUse] | type[EmbeddingUse]) -> frozenset[str]:
    """The attributes that must be given."""
    return frozenset(
        field.name
        for field in dataclasses.fields(values)
        if field.default is field.default_factory is dataclasses.MISSING
    )


_NEEDED: Mapping[str, frozenset[str]] = {
    endpoint.id: frozenset(
        field.name
        for field in endpoint.fields
        if field.required or ATTRIBUTES.get(field.name, field.name) in _without_default(GenerationSpec) - {"model_name"}
    )
    for endpoint in ENDPOINTS.values()
}
"""Fields that every resolved input has, by endpoint. Those of later releases must have a default in the spec, as earlier records lack them."""


def given_fields(message: input_pb2.GenerationInput) -> tuple[str, dict[str, object]]:
    """Endpoint id, and the fields that the caller set by name, as `validation.resolve` takes them.

    Raises InvalidRequest if no member is set, or only one that this server does not know.
    """
    member = message.WhichOneof("input")
    if member is None:
        raise InvalidRequest([FieldViolation("input", "one endpoint's input must be set, and be known to this server")])
    return _ENDPOINT_OF_MEMBER[member], _given(getattr(message, member), _plan(member))


def _given(message: Message, plan: Mapping[str, _Field]) -> dict[str, object]:
    """The fields of a message that were set and are known, by name."""
    given: dict[str, object] = {}
    for descriptor, value in message.ListFields():
        field = plan.get(descriptor.name)
        if field is None:
            continue
        if field.many:
            read: object = [field.read(item) for item in value]
        else:
            read = value if field.kind is _Kind.PLAIN else field.read(value)
        if read is not None:
            given[field.name] = read
    return given


def named_model(message: input_pb2.GenerationInput) -> str:
    """The model that an input names, empty where it names none."""
    member = message.WhichOneof("input")
    return str(getattr(getattr(message, member), "model_name", "")) if member else ""


def digest(message: input_pb2.GenerationInput) -> bytes:
    """SHA-256 of an input as it was given, 32 bytes. Equal inputs have equal digests."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def to_input(spec: GenerationSpec, *, echo: bool = False) -> input_pb2.GenerationInput:
    """The input with every value resolved. `echo`: for an answer, in which pictures that came inline are left out."""
    member = ENDPOINTS[spec.endpoint].input_field
    # In one call, which is several times as fast as setting one field after another.
    fields = {
        name: getattr(spec, field.attribute) if field.kind in _AS_THEY_ARE else _written(field, spec, echo=echo)
        for name, field in _plan(member).items()
    }
    return input_pb2.GenerationInput(**{member: fields})  # type: ignore[arg-type]  # protobuf takes dicts for messages


def to_spec(message: input_pb2.GenerationInput, model_name: str) -> GenerationSpec:
    """The spec of an input that this service resolved before; it is not judged again.

    `model_name`: the model that draws. Empty where an earlier release did not say it beside the input: then the input names it.
    Raises Unreadable if the input is not whole, or asks for what only a newer release knows.
    """
    member = message.WhichOneof("input")
    if member is None:
        raise absent(message, "input")
    require_known(message)
    endpoint, given = given_fields(message)
    if not _is_size(given.get("image_size")):
        raise absent(getattr(message, member).image_size, "image_size")
    _require(_NEEDED[endpoint], given)
    values = {name: _kept(name, value) for name, value in given.items()}
    chosen = model_name or str(given.get("model_name", ""))
    if not chosen:
        raise Unreadable("it has no model_name")
    return GenerationSpec.of(endpoint, chosen, values)


def _kept(name: str, value: object) -> object:
    """A value that was given, as a spec holds it."""
    if not isinstance(value, list):
        return value
    return tuple(_use(name, item) if isinstance(item, dict) else item for item in value)


def _use(name: str, parts: Mapping[str, object]) -> LoraUse | EmbeddingUse:
    _require(_without_default(USES[name]), parts)
    fields: dict[str, Any] = {part: _kept(part, value) for part, value in parts.items()}
    return USES[name](**fields)


def _is_size(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value)


def _require(names: frozenset[str], given: Mapping[str, object]) -> None:
    if missing := names - given.keys():
        raise Unreadable(f"it has no {min(missing)}")


class _Kind(Enum):
    PLAIN = auto()
    FLOAT = auto()
    CHOICE = auto()
    SIZE = auto()
    SOURCE = auto()
    PARTS = auto()


_AS_THEY_ARE = (_Kind.PLAIN, _Kind.FLOAT)


@dataclass(frozen=True, slots=True)
class _Field:
    """What its descriptor says of a field, looked up once: descriptors are slow to ask. `attribute` is its name in a spec.

    `many`: it is a list, and the rest is said of its items. `names` and `numbers` are of an enum's values, `parts` of a message's fields.
    """

    name: str
    attribute: str
    kind: _Kind
    many: bool
    names: Mapping[int, str]
    numbers: Mapping[str, int]
    parts: Mapping[str, _Field]

    def read(self, value: Any) -> object:  # noqa: ANN401  # whatever the field holds
        """The value as validation takes it; None for one that counts as absent."""
        match self.kind:
            case _Kind.PLAIN:
                return value
            case _Kind.FLOAT:
                return float(f"{value:.7g}")  # the decimal that was meant: 0.01 as a 32-bit float is below 0.01
            case _Kind.CHOICE:
                return self.names.get(value, f"unknown value {value}")
            case _Kind.SIZE:
                return _size(value)
            case _Kind.SOURCE:
                return SourceImage(uri=value.uri, content=value.content)  # both empty: refused, not taken for absent
            case _Kind.PARTS:
                return _given(value, self.parts)


@functools.cache
def _plan(member: str) -> Mapping[str, _Field]:
    """The fields of an endpoint's input, by name."""
    return _fields(input_pb2.GenerationInput.DESCRIPTOR.fields_by_name[member].message_type)


def _fields(message: Descriptor | None) -> Mapping[str, _Field]:
    assert message is not None
    return {field.name: _field(field) for field in message.fields}


def _field(field: FieldDescriptor) -> _Field:
    names: Mapping[int, str] = {}
    parts: Mapping[str, _Field] = {}
    kind = _Kind.PLAIN
    if field.message_type is not None:
        kind = {"ImageSize": _Kind.SIZE, "ImageSource": _Kind.SOURCE}.get(field.message_type.name, _Kind.PARTS)
        parts = _fields(field.message_type) if kind is _Kind.PARTS else {}
    elif field.enum_type is not None:
        kind, names = _Kind.CHOICE, _names(field.enum_type)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        kind = _Kind.FLOAT
    attribute = ATTRIBUTES.get(field.name, field.name)
    numbers = {name: number for number, name in names.items()}
    return _Field(field.name, attribute, kind, bool(field.is_repeated), names, numbers, parts)


def _names(enum: EnumDescriptor) -> dict[int, str]:
    """Names of an enum's values without their prefix: `IMAGE_FORMAT_JPEG` is `jpeg`. The zero value stands for absent."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values if value.number}


_PRESETS = _names(image_pb2.ImageSizePreset.DESCRIPTOR)


def _written(field: _Field, holder: Any, *, echo: bool) -> object:  # noqa: ANN401  # a spec, or an item of its lists
    """The value of a field as protobuf takes it."""
    if field.kind is _Kind.SIZE:
        return {"dimensions": {"width": holder.width, "height": holder.height}}
    value = getattr(holder, field.attribute)
    if field.kind in _AS_THEY_ARE:
        return value
    return [_one(field, item, echo=echo) for item in value] if field.many else _one(field, value, echo=echo)


def _one(field: _Field, value: Any, *, echo: bool) -> object:  # noqa: ANN401  # of any kind
    match field.kind:
        case _Kind.CHOICE:
            return field.numbers[value]
        case _Kind.SOURCE:
            return _to_source(value, echo=echo)
        case _:
            return {name: _written(part, value, echo=echo) for name, part in field.parts.items()}


def _to_source(source: SourceImage, *, echo: bool) -> image_pb2.ImageSource:
    if (echo and source.inline) or source == SourceImage():
        return image_pb2.ImageSource()
    return image_pb2.ImageSource(content=source.content) if source.content else image_pb2.ImageSource(uri=source.uri)


def _size(size: image_pb2.ImageSize) -> object:
    which = size.WhichOneof("size")
    if which is None:
        return ()  # sent but empty, or a kind of size that is not known here: refused, not taken for the default
    if which == "preset":
        return _PRESETS.get(size.preset, f"unknown value {size.preset}") if size.preset else None
    return size.dimensions.width or None, size.dimensions.height or None  # 0 is proto3's way to leave it out
