"""What a field of an input may hold: its kind, its default and its limits. The endpoints are made of these (core.catalog)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MAX_SEED = 2**53 - 1  # a JSON number survives JavaScript
MAX_PROMPT_CHARS = 4096
MAX_LABEL_CHARS = 128
MAX_REFERENCE_CHARS = 2048
MAX_SIDE = 14142

IMAGE_SIZES: Mapping[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
"""Named sizes, (width, height) in pixels."""


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "text"
    REFERENCE = "reference"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    SIZE = "size"
    SOURCE = "source"
    SOURCES = "sources"
    REFERENCES = "references"
    LORAS = "loras"
    EMBEDDINGS = "embeddings"

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return self in (Kind.SOURCES, Kind.REFERENCES, Kind.LORAS, Kind.EMBEDDINGS)


Default = str | int | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an input. `minimum` and `maximum` are inclusive: values, characters of a text, or items of a list.

    A TEXT may have several lines, a REFERENCE has one. `default` None without `required` means that the server chooses (seed, model_name)
    or that the list is empty. `items`: of a list of objects the fields of each, of any other list the one that stands for every item.
    """

    name: str
    kind: Kind
    default: Default = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    items: tuple[Field, ...] = ()

    @property
    def objects(self) -> bool:
        """Whether it is a list whose items have fields of their own."""
        return self.kind in (Kind.LORAS, Kind.EMBEDDINGS)


def integer(name: str, default: int | None, low: int, high: int) -> Field:
    """A whole number."""
    return Field(name, Kind.INTEGER, default, minimum=low, maximum=high)


def number(name: str, default: float, low: float, high: float) -> Field:
    """A number."""
    return Field(name, Kind.NUMBER, default, minimum=low, maximum=high)


def flag(name: str, default: bool) -> Field:
    """True or false."""
    return Field(name, Kind.BOOLEAN, default)


def choice(name: str, *choices: str) -> Field:
    """One of these; the first is the default."""
    return Field(name, Kind.CHOICE, choices[0], choices=choices)


def size(default: str) -> Field:
    """Width and height of the picture, or one of the names for them."""
    return Field("image_size", Kind.SIZE, default, minimum=1, maximum=MAX_SIDE, choices=tuple(IMAGE_SIZES))


def reference(name: str, most: int = MAX_REFERENCE_CHARS) -> Field:
    """An address, or a name, in one line. Required."""
    return Field(name, Kind.REFERENCE, required=True, minimum=1, maximum=most)
