"""What only a call over HTTP can get wrong: a path, a method, a body that is no JSON. The use-cases' own errors are in errors.py of the server."""

from __future__ import annotations

from collections.abc import Mapping

from flashbulb_server.wire.fal import detail, detail_list, plain


class Problem(Exception):
    """An answer that is not 2xx, as it is to be sent."""

    def __init__(
        self,
        status: int,
        message: str,
        error_type: str,
        *,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.body = dict(body) if body is not None else plain(message, error_type)
        self.headers = dict(headers or {})


def bad_body(message: str, error_type: str) -> Problem:
    """The body as a whole is not what was to come."""
    return Problem(422, message, error_type, body=detail_list(message, [detail(("body",), message, error_type)]))
