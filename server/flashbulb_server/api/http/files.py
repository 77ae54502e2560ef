"""Files by their links. Whoever has a link may read, unless the file was made for its owner alone.

Files come from callers and lie at the gateway's origin, so nothing in them may act there: types are not guessed, and what a browser would run
is saved instead of shown, in a sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from flashbulb_server.api.http.addressing import Surface, public_url
from flashbulb_server.api.http.auth import authenticate
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.problem import Problem
from flashbulb_server.core.file_links import Access, LinkedFile
from flashbulb_server.core.generation import DrawnImage, GenerationResult
from flashbulb_server.errors import FileNotFound, Unauthenticated
from flashbulb_server.storage.objects import STALL_SECONDS, Found

_CONDITIONS = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
_PASSED_ON = (
    "content-type",
    "content-length",
    "content-range",
    "content-disposition",
    "accept-ranges",
    "etag",
    "last-modified",
)
_SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "cross-origin",
}
_REFUSED = (412, 416)
_DRAWN_SECONDS = 3600  # a picture never changes, but may be gone


def at_gateway(gateway: Gateway, connection: HTTPConnection, result: GenerationResult) -> GenerationResult:
    """The result with links to the gateway in the place of those to the store, which the caller may not reach."""
    images = tuple(replace(image, url=link_at_gateway(gateway, connection, image)) for image in result.images)
    return replace(result, images=images)


def link_at_gateway(gateway: Gateway, connection: HTTPConnection, image: DrawnImage) -> str:
    """The gateway's link to a picture, that works as long as the one to the store; "" for one that is not stored."""
    path = gateway.uploads.path_of(image.url, image.url_expire_time)
    return f"{public_url(connection, Surface.CDN, gateway.settings)}/{path}" if path else image.url


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """`GET` and `HEAD` of the cdn surface."""

    async def get(request: Request) -> Response:
        """The file, or the part of it that was asked for."""
        mark, key = request.path_params["mark"], request.path_params["key"]
        file = gateway.uploads.links.check(mark, key, request.query_params.get("until", "0"))
        if file is None:
            raise FileNotFound(request.url.path)
        owner = None if file.access is Access.ALLOW else _caller(gateway, request)
        if file.access is Access.FORBID and not file.readable_by(owner):
            raise Problem(403, "the file is for its owner alone", "forbidden")
        conditions = {name: request.headers[name] for name in _CONDITIONS if name in request.headers}
        stack = AsyncExitStack()
        found = await stack.enter_async_context(
            gateway.uploads.read(file, owner, head=request.method == "HEAD", conditions=conditions)
        )
        if found.status in _REFUSED:  # what the store says about it is its own affair
            await stack.aclose()
            headers = {name: found.headers[name] for name in ("content-range",) if name in found.headers}
            return Response(status_code=found.status, headers={**headers, "cache-control": "no-store"})
        return _FileResponse(found, _headers(found, file, gateway.clock()), stack)

    return [Route("/files/{mark}/{key:path}", get, methods=["GET"])]  # HEAD comes with it


def _headers(found: Found, file: LinkedFile, now: float) -> Mapping[str, str]:
    headers = {name: found.headers[name] for name in _PASSED_ON if name in found.headers}
    if file.access is not Access.ALLOW:
        return {**headers, **_SAFE, "cache-control": "private, no-store"}
    end = min((end for end in (file.key.expire_time, file.until) if end), default=now + _DRAWN_SECONDS)
    seconds = max(0, int(end - now))
    return {**headers, **_SAFE, "cache-control": f"public, max-age={seconds}, immutable"}


def _caller(gateway: Gateway, request: Request) -> str | None:
    try:
        grant = authenticate(gateway, request)
    except (Problem, Unauthenticated):
        return None
    return grant.owner if grant.endpoints is None else None


class _FileResponse(StreamingResponse):
    """A file on its way. `stack` holds the connection to the store, and is closed in the end, whatever that is."""

    def __init__(self, found: Found, headers: Mapping[str, str], stack: AsyncExitStack) -> None:
        super().__init__(found.chunks, found.status, headers, media_type=headers.get("content-type"))
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        async with self._stack:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """As the base's, but a caller that stops reading does not hold a connection of the store for ever."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self.body_iterator:
            async with asyncio.timeout(STALL_SECONDS):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
