"""Answers with a JSON body."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response


def to_json(value: object) -> bytes:
    """Compact JSON in ASCII: halves of characters, which a caller may have sent, survive as escapes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a JSON body."""
    return Response(to_json(value), status, headers, media_type="application/json")
