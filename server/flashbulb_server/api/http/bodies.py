"""Bodies that are passed on as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from starlette.requests import Request

from flashbulb_server.api.http.problem import Problem


def length_of(request: Request, *, limit: int) -> int:
    """The bytes that a body says it has, 1 to `limit`. Raises Problem (411, 413, 422)."""
    text = request.headers.get("content-length", "")
    if not text.isdecimal():
        raise Problem(
            411, "Content-Length is required: the size of a file must be known before it comes", "bad_request"
        )
    length = int(text[:19])
    if length > limit:
        problem = f"the body has {length} bytes, at most {limit} are allowed"
        raise Problem(413, problem, "file_too_large", headers={"connection": "close"})
    if length == 0:
        raise Problem(422, "the body is empty: a file has at least one byte", "value_error")
    return length


@asynccontextmanager
async def receiving(request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
    """The chunks of a body while the context is open."""
    async with aclosing(request.stream()) as chunks:
        yield chunks
