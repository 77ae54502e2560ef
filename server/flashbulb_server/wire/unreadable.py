"""What cannot be read. Decoders raise Unreadable for any bytes that they do not understand, and nothing else.

1. Damaged bytes can be read by nobody. Whoever meets them sets them aside and goes on.
2. What is whole but says something in a word that is not known here was written by a newer release (`newer`), and is left to it. Fields
   that are not known do no harm: they are passed over, and kept where the rest is changed (`wire.carrying`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from flashbulb_server.errors import DataUnreadable, FlashbulbError, NewerRelease

M = TypeVar("M", bound=Message)
_N = TypeVar("_N", bound=int)
_V = TypeVar("_V")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of requests, owners and workers: each is a token of a subject


class Unreadable(Exception):
    """Bytes that this release cannot read. `newer`: because a newer one wrote them."""

    def __init__(self, problem: str, *, newer: bool = False) -> None:
        super().__init__(problem)
        self.newer = newer

    def told(self, what: str) -> FlashbulbError:
        """The error for a caller. `what` is named by it, such as "the record of request 'x'"."""
        return NewerRelease(what) if self.newer else DataUnreadable(what)


def parse(kind: type[M], data: bytes) -> M:
    """The message. Raises Unreadable."""
    try:
        return kind.FromString(data)
    except DecodeError as err:
        raise Unreadable(f"it is no {kind.DESCRIPTOR.name}") from err


def name_in(text: str, field: str) -> str:
    """A name that may stand in a subject. Raises Unreadable for any other."""
    if _NAME.fullmatch(text) is None:
        raise Unreadable(f"its {field} is no name")
    return text


def word_of(convert: Callable[[_N], _V], number: _N, field: str) -> _V:
    """What an enum's number stands for, of which `convert` raises ValueError for one that it does not know. Raises Unreadable."""
    try:
        return convert(number)
    except ValueError as err:
        raise _unknown(field, number) from err


def absent(message: Message, field: str) -> Unreadable:
    """The error for a message without something that it always has: a newer release may have put something new in its place."""
    return Unreadable(f"it has no {field}", newer=len(UnknownFieldSet(message)) > 0)


def require_known(message: Message) -> None:
    """Raises Unreadable if a message, or one within it, holds a value of an enum that is not known here."""
    plan = _plan(message.DESCRIPTOR)
    for word in plan.words:
        value = getattr(message, word.field)
        for number in value if word.many else (value,):
            if number not in word.numbers:
                raise _unknown(word.field, number)
    for name, many in plan.parts:
        if many:
            for part in getattr(message, name):
                require_known(part)
        elif message.HasField(name):
            require_known(getattr(message, name))


def _unknown(field: str, number: int) -> Unreadable:
    return Unreadable(f"its {field} is {number}", newer=number > 0)


@dataclass(frozen=True, slots=True)
class _Word:
    """A field that holds an enum, whose known values are `numbers`; `many`: a list of them."""

    field: str
    many: bool
    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where a message has words: in itself, and in the messages within it (name of the field, whether it is a list)."""

    words: tuple[_Word, ...]
    parts: tuple[tuple[str, bool], ...]


@functools.cache
def _plan(message: Descriptor) -> _Plan:
    words, parts = [], []
    for field in message.fields:
        many = bool(field.is_repeated)
        if field.enum_type is not None:
            words.append(_Word(field.name, many, frozenset(value.number for value in field.enum_type.values)))
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            below = _plan(field.message_type)
            if below.words or below.parts:
                parts.append((field.name, many))
    return _Plan(tuple(words), tuple(parts))
