"""Values to protobuf inputs, by the messages' own descriptors: a field that the contract gains needs no code here.

All problems are collected and reported at once, and before anything is sent. Pictures that must be read or uploaded are left as
`pending`: the message to fill and the value to fill it with. Knows no channel.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from flashbulb._errors import FieldViolation, InvalidInput, UnknownField
from flashbulb._inputs import BY_ENDPOINT, Input
from flashbulb._results import File, Image
from flashbulb.v1 import image_pb2, input_pb2

MAX_SECONDS = 315_576_000_000  # protobuf's limit of a Duration
_INTEGERS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
_NUMBERS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An input, and its pictures that are still to be read: message and value, with the field's path."""

    message: input_pb2.GenerationInput
    pending: tuple[tuple[image_pb2.ImageSource, object, str], ...]


def encode(endpoint: str | Input, fields: Mapping[str, object]) -> Encoded:
    """The input of an endpoint id with `fields`, or of a typed input, whose values `fields` replace.

    Raises:
        InvalidInput: fields are unknown (UnknownField) or hold what they cannot; `violations` names each.
    """
    if isinstance(endpoint, Input):
        input_class = type(endpoint)
        fields = {f.name: getattr(endpoint, f.name) for f in dataclasses.fields(endpoint)} | dict(fields)
    else:
        found = BY_ENDPOINT.get(endpoint)
        if found is None:
            raise _bad(
                "endpoint",
                f"no endpoint {endpoint!r}{_close(endpoint, BY_ENDPOINT)}; there are: {', '.join(BY_ENDPOINT)}",
            )
        input_class = found
    message = input_pb2.GenerationInput()
    member: Message = getattr(message, input_class.field)
    member.SetInParent()
    filler = _Filler()
    filler.fill(member, fields, "")
    if filler.violations:
        text = "; ".join(f"{v.field}: {v.description}" for v in filler.violations)
        raise (UnknownField if filler.unknown else InvalidInput)(text, violations=filler.violations)
    return Encoded(message, tuple(filler.pending))


def enum_name(argument: str, enum: EnumDescriptor, name: str) -> str:
    """The full name of an enum's value by its short one, such as IMAGE_FORMAT_JPEG for `jpeg`. InvalidInput if there is none."""
    try:
        return _full_name(enum, name)
    except ValueError as error:
        raise _bad(argument, str(error)) from error


def span(field: str, seconds: float | None) -> Duration | None:
    """The protobuf of an argument in seconds. InvalidInput if it is no finite number, 0 or more."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < MAX_SECONDS:
        raise _bad(field, f"must be a number of seconds, 0 or more, not {seconds!r}")
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _bad(field: str, description: str) -> InvalidInput:
    return InvalidInput(f"{field}: {description}", violations=[FieldViolation(field, description)])


def short_name(enum: EnumDescriptor, name: str) -> str:
    """The name of an enum's value without the enum's own.

    >>> short_name(image_pb2.ImageFormat.DESCRIPTOR, "IMAGE_FORMAT_JPEG")
    'jpeg'
    """
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.name).lstrip("_") + "_"
    return name.removeprefix(prefix).lower()


def _full_name(enum: EnumDescriptor, name: str) -> str:
    choices = {short_name(enum, value.name): value.name for value in enum.values if value.number}
    if name.lower() not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}, not {name!r}")
    return choices[name.lower()]


class _Filler:
    """Fills messages and remembers what went wrong and what is left to do."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []
        self.pending: list[tuple[image_pb2.ImageSource, object, str]] = []
        self.unknown = False

    def fill(self, message: Message, values: Mapping[str, object], path: str) -> None:
        """Sets the fields of a message; None is absent. `path` is that of the message, with a dot at its end."""
        known = message.DESCRIPTOR.fields_by_name
        for name, value in values.items():
            if value is None:
                continue
            field = known.get(name)
            if field is None:
                self.unknown = True
                self.violations.append(FieldViolation(path + name, f"no such field{_close(name, known)}"))
                continue
            try:
                self._set(message, cast("FieldDescriptor", field), value, path + name)
            except ValueError as error:
                self.violations.append(FieldViolation(path + name, str(error)))

    def _set(self, message: Message, field: FieldDescriptor, value: object, path: str) -> None:
        if field.is_repeated:
            self._extend(getattr(message, field.name), field, value, path)
        elif field.message_type is not None:
            child: Message = getattr(message, field.name)
            child.SetInParent()
            self._fill_message(child, value, path)
        else:
            setattr(message, field.name, _scalar(field, value))

    def _extend(self, items: Any, field: FieldDescriptor, value: object, path: str) -> None:  # noqa: ANN401  # protobuf's containers share no type
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise ValueError(f"must be a list, not {type(value).__name__}")
        for index, item in enumerate(value):
            if field.message_type is not None:
                self._fill_message(items.add(), item, f"{path}[{index}]")
            else:
                items.append(_scalar(field, item))

    def _fill_message(self, message: Message, value: object, path: str) -> None:
        if isinstance(message, image_pb2.ImageSource):
            self._fill_source(message, value, path)
        elif isinstance(message, image_pb2.ImageSize):
            self._fill_size(message, value, path)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self.fill(message, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, path + ".")
        elif isinstance(value, Mapping):
            self.fill(message, value, path + ".")
        else:
            raise ValueError(f"must be a {message.DESCRIPTOR.name} or a mapping, not {type(value).__name__}")

    def _fill_size(self, message: image_pb2.ImageSize, value: object, path: str) -> None:
        if isinstance(value, str):
            message.preset = image_pb2.ImageSizePreset.Value(_full_name(image_pb2.ImageSizePreset.DESCRIPTOR, value))
        elif isinstance(value, Mapping):
            self.fill(message.dimensions, value, path + ".")
        elif isinstance(value, tuple | list) and len(value) == 2:
            self.fill(message.dimensions, {"width": value[0], "height": value[1]}, path + ".")
        else:
            raise ValueError(f"must be the name of a size or (width, height), not {value!r}")

    def _fill_source(self, message: image_pb2.ImageSource, value: object, path: str) -> None:
        if isinstance(value, str):
            message.uri = value
        elif isinstance(value, File):
            message.uri = value.uri
        elif isinstance(value, Image) and not value.content:
            message.uri = value.url
        elif isinstance(value, Image):
            self.pending.append((message, value.content, path))
        elif is_readable(value):
            self.pending.append((message, value, path))
        else:
            raise ValueError(f"must be a link, bytes, a path, a file or a PIL image, not {type(value).__name__}")


def is_readable(value: object) -> bool:
    """Whether `flashbulb._payload` can read it: bytes, a path, a file object or a PIL image."""
    readable = isinstance(value, bytes | bytearray | memoryview | os.PathLike) or hasattr(value, "read")
    return readable or (hasattr(value, "save") and hasattr(value, "mode"))


def _scalar(field: FieldDescriptor, value: object) -> Any:  # noqa: ANN401  # what setattr of a protobuf field takes
    kind = field.cpp_type
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == FieldDescriptor.CPPTYPE_STRING and isinstance(value, str):
        return value
    if kind == FieldDescriptor.CPPTYPE_BOOL and isinstance(value, bool):
        return value
    if kind in _NUMBERS and is_number:
        return value
    if kind in _INTEGERS and isinstance(value, int) and not isinstance(value, bool):
        bits = 31 if kind == FieldDescriptor.CPPTYPE_INT32 else 63
        if not -(2**bits) <= value < 2**bits:
            raise ValueError(f"{value} does not fit into {bits + 1} bits")
        return value
    if field.enum_type is not None and isinstance(value, str):
        return field.enum_type.values_by_name[_full_name(field.enum_type, value)].number
    wanted = {
        FieldDescriptor.CPPTYPE_STRING: "a text",
        FieldDescriptor.CPPTYPE_BOOL: "true or false",
        FieldDescriptor.CPPTYPE_ENUM: "a text",
    }.get(kind, "a number" if kind in _NUMBERS else "a whole number")
    raise ValueError(f"must be {wanted}, not {type(value).__name__}")


def _close(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
