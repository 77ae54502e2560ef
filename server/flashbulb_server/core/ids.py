"""Ids of requests: UUIDs of version 7 (RFC 9562, section 5.7), which sort by the time they were made."""

from __future__ import annotations

import re
import secrets

_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_last_millis = 0
_last_counter = 0


def new_request_id(now: float) -> str:
    """An id for unix time `now`. Ids of one process grow strictly, also within a millisecond."""
    global _last_millis, _last_counter  # one counter a process, as RFC 9562 section 6.2 method 1 asks
    millis = int(now * 1000)
    if millis <= _last_millis and _last_counter < 0xFFF:
        millis, _last_counter = _last_millis, _last_counter + 1
    else:
        millis = max(millis, _last_millis + 1) if millis <= _last_millis else millis
        _last_counter = 0
    _last_millis = millis
    value = millis << 80 | 7 << 76 | _last_counter << 64 | 2 << 62 | secrets.randbits(62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_request_id(text: str) -> bool:
    """Whether it has the form of an id. Others need not be looked up."""
    return _FORM.fullmatch(text) is not None


def created_at(request_id: str) -> float:
    """Unix seconds at which an id was made."""
    return int(request_id[:8] + request_id[9:13], 16) / 1000
