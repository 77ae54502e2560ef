"""One value of a field: what is wrong with it, or what a spec holds in its place. Knows a field by its kind, never by its name.

A value comes as `validation.resolve` describes. What is wrong with it is told by its path, such as `image_size.width` or `loras[1].scale`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flashbulb_server.core.fields import IMAGE_SIZES, Field, Kind
from flashbulb_server.core.generation import USES, SourceImage
from flashbulb_server.core.sources import source_problem
from flashbulb_server.errors import FieldViolation

DEFAULT_SIDE = 512  # of custom dimensions, when one is left out
_REQUIRED = "is required"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # controls, and halves of a character
_UNPRINTABLE_IN_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
shown = reprlib.Repr()  # a bad value is quoted in the answer, which must stay small
shown.maxstring = 100

Report = Callable[[FieldViolation], None]


def value_of(field: Field, value: object, path: str, report: Report) -> object:
    """The value as a spec holds it, or the default where there is none. Reports what is bad, and gives None then."""
    if value is None or (value == "" and field.kind not in (Kind.TEXT, Kind.REFERENCE)):
        if field.required:
            report(FieldViolation(path, _REQUIRED, "missing"))
            return None
        return default_of(field)
    if field.kind.many:
        return _many(field, value, path, report)
    problems = _problems(field, value, path)
    for problem in problems:
        report(problem)
    if problems:
        return None
    if field.kind is Kind.SIZE:
        return _dimensions(value)
    return float(value) if field.kind is Kind.NUMBER else value  # type: ignore[arg-type]  # _number_problem passed it


def default_of(field: Field) -> object:
    """What a field has when nothing is given."""
    if field.kind is Kind.SIZE:
        return IMAGE_SIZES[str(field.default)]
    return () if field.kind.many and field.default is None else field.default


def _many(field: Field, value: object, path: str, report: Report) -> object:
    """The items of a list."""
    if not isinstance(value, list | tuple):
        report(FieldViolation(path, "must be a list", "list_type"))
        return None
    if field.maximum is not None and len(value) > field.maximum:
        most = int(field.maximum)
        text = f"has {len(value)} items, at most {most} are allowed"
        report(FieldViolation(path, text, "sequence_too_long", {"max_length": most}))
        return None
    if not value:
        return default_of(field)
    read = _object if field.objects else _item
    return tuple(read(field, item, f"{path}[{index}]", report) for index, item in enumerate(value))


def _item(field: Field, value: object, path: str, report: Report) -> object:
    return value_of(field.items[0], value, path, report)


def _object(field: Field, value: object, path: str, report: Report) -> object:
    """An item that has fields of its own. What it does not know is passed over, as in the input itself."""
    if not isinstance(value, Mapping):
        names = ", ".join(part.name for part in field.items)
        report(FieldViolation(path, f"must be an object with {names}", "dict_type"))
        return None
    bad: list[FieldViolation] = []
    parts: dict[str, Any] = {
        part.name: value_of(part, value.get(part.name), f"{path}.{part.name}", bad.append) for part in field.items
    }
    for violation in bad:
        report(violation)
    return None if bad else USES[field.name](**parts)


def _problems(field: Field, value: object, path: str) -> list[FieldViolation]:
    """What is wrong with a value that is no list."""
    problem: FieldViolation | None = None
    match field.kind:
        case Kind.TEXT | Kind.REFERENCE:
            problem = _text_problem(field, value, path)
        case Kind.INTEGER | Kind.NUMBER:
            problem = _number_problem(path, value, field.minimum, field.maximum, whole=field.kind is Kind.INTEGER)
        case Kind.CHOICE:
            if value not in field.choices:
                problem = _not_among(path, field.choices)
        case Kind.BOOLEAN:
            if not isinstance(value, bool):
                problem = FieldViolation(path, "must be true or false", "bool_type")
        case Kind.SIZE:
            return _size_problems(field, value, path)
        case Kind.SOURCE:
            problem = _source_problem(value, path)
    return [problem] if problem else []


def _text_problem(field: Field, value: object, path: str) -> FieldViolation | None:
    if not isinstance(value, str):
        return FieldViolation(path, "must be a text", "string_type")
    if field.required and not value.strip():
        return FieldViolation(path, "must not be empty", "sequence_too_short", {"min_length": 1})
    if field.maximum is not None and len(value) > field.maximum:
        most = int(field.maximum)
        text = f"has {len(value)} characters, at most {most} are allowed"
        return FieldViolation(path, text, "sequence_too_long", {"max_length": most})
    unprintable = _UNPRINTABLE_IN_LINE if field.kind is Kind.REFERENCE else _UNPRINTABLE
    if unprintable.search(value):
        return FieldViolation(path, "must not hold control characters")
    return None


def _number_problem(
    path: str, value: object, low: float | None, high: float | None, *, whole: bool
) -> FieldViolation | None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        text = f"must be a {'whole ' if whole else ''}number, not {shown.repr(value)}"
        return FieldViolation(path, text, "int_type" if whole else "float_type")
    assert low is not None and high is not None, "every number of the catalog has a range"
    if not low <= value <= high:  # NaN is in no range
        text = f"must be from {low} to {high}, not {shown.repr(value)}"
        if value < low:
            return FieldViolation(path, text, "greater_than_equal", {"ge": low})
        return FieldViolation(path, text, "less_than_equal", {"le": high})
    return None


def _not_among(path: str, names: Iterable[str], more: str = "") -> FieldViolation:
    expected = list(names)
    return FieldViolation(path, f"must be one of {', '.join(expected)}{more}", "one_of", {"expected": expected})


def _source_problem(value: object, path: str) -> FieldViolation | None:
    if not isinstance(value, SourceImage):
        return FieldViolation(path, "must be a picture", "string_type")
    text = source_problem(value)
    return FieldViolation(path, text) if text else None


def _size_problems(field: Field, value: object, path: str) -> list[FieldViolation]:
    """Of a named size, or of (width, height), where None is an absent side."""
    if isinstance(value, str):
        return [] if value in field.choices else [_not_among(path, field.choices, ", or dimensions")]
    if not (isinstance(value, tuple) and len(value) == 2):
        return [FieldViolation(path, "must be a named size, or width and height")]
    sides = ((f"{path}.{name}", side) for name, side in zip(("width", "height"), value, strict=True))
    high = int(field.maximum or 0)
    found = (_number_problem(side_path, side, 1, high, whole=True) for side_path, side in sides if side is not None)
    return [problem for problem in found if problem]


def _dimensions(value: Any) -> tuple[int, int]:  # noqa: ANN401  # _size_problems passed it
    return IMAGE_SIZES[value] if isinstance(value, str) else (value[0] or DEFAULT_SIDE, value[1] or DEFAULT_SIDE)
