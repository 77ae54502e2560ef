"""How long a file is to be kept and who may read it, as fal's headers say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers

from flashbulb_server.core.file_links import Access
from flashbulb_server.core.files import MAX_LIFETIME, MIN_LIFETIME
from flashbulb_server.errors import FieldViolation, InvalidRequest

PREFERENCE = "x-fal-object-lifecycle-preference"
"""Of what a call makes; clients send it with uploads, too."""
_HEADERS = ("x-fal-object-lifecycle", PREFERENCE)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """`seconds` None: as long as files are kept by default."""

    seconds: float | None = None
    access: Access = Access.ALLOW


def lifecycle_of(headers: Headers) -> Lifecycle:
    """What a call says of the file that it makes. A time beyond what is possible here is cut to it. Raises InvalidRequest."""
    name = next((name for name in _HEADERS if headers.get(name)), None)
    if name is None:
        return Lifecycle()
    wish = _object(headers[name], name)
    return Lifecycle(_seconds(wish.get("expiration_duration_seconds"), name), _access(wish.get("initial_acl"), name))


def lifetime_in(text: str, header: str) -> float | None:
    """Seconds in a lifecycle object, None if it says nothing of them. Who may read is not looked at. Raises InvalidRequest."""
    return _seconds(_object(text, header).get("expiration_duration_seconds"), header)


def _object(text: str, header: str) -> Mapping[str, object]:
    try:
        wish = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InvalidRequest([FieldViolation(header, "must be JSON")]) from err
    if not isinstance(wish, Mapping):
        raise InvalidRequest([FieldViolation(header, "must be a JSON object")])
    return wish


def _seconds(wish: object, header: str) -> float | None:
    if wish is None:
        return None
    if isinstance(wish, bool) or not isinstance(wish, int | float) or not math.isfinite(wish) or wish <= 0:
        problem = f"must be a number of seconds above 0, not {str(wish)[:40]}"
        raise InvalidRequest([FieldViolation(f"{header}.expiration_duration_seconds", problem)])
    return float(min(max(wish, MIN_LIFETIME), MAX_LIFETIME))


def _access(wish: object, header: str) -> Access:
    """Rules that let single users in or keep them out are left out: a caller with no key is nobody in particular."""
    if wish is None:
        return Access.ALLOW
    default = wish.get("default", Access.ALLOW) if isinstance(wish, Mapping) else None
    if default not in tuple(Access):
        names = ", ".join(Access)
        raise InvalidRequest([FieldViolation(f"{header}.initial_acl.default", f"must be one of {names}")])
    return Access(default)
