"""Changes to a message that may hold more than this release knows: what it does not know stays as it was."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def carry(onto: Message, before: Message, after: Message) -> None:
    """Makes in `onto` the changes that lead from `before` to `after`, messages of one type. Whatever else it holds stays.

    `before` is what this release understands of `onto`. What did not change is not written again, so it keeps values that were read as
    something less. A list that did change is replaced as a whole.
    """
    fields: Sequence[FieldDescriptor] = after.DESCRIPTOR.fields  # type: ignore[assignment]  # of one implementation or another
    for field in fields:
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new and _has(before, field) == _has(after, field):
            continue
        if _is_single_message(field) and _has(after, field) and _has(before, field) and _has(onto, field):
            carry(getattr(onto, field.name), old, new)
            continue
        onto.ClearField(field.name)
        if not _has(after, field):
            continue
        if field.is_repeated:  # a map too
            getattr(onto, field.name).MergeFrom(new)
        elif field.message_type is not None:
            getattr(onto, field.name).CopyFrom(new)
        else:
            setattr(onto, field.name, new)


def _is_single_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.is_repeated


def _has(message: Message, field: FieldDescriptor) -> bool:
    """Whether it is set; what knows no presence always is."""
    return message.HasField(field.name) if field.has_presence else True
