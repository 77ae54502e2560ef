"""The contract of fal's server-side proxy: one path that takes any call, with the address that is meant in `x-fal-target-url`.

The call goes on inside this process, as if it had come to the surface that the address names. It needs a key of its own, or the operator
names one that callers without a key act as. No other server is ever called.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from flashbulb_server.api.http.addressing import Surface, public_url, surface_of_host
from flashbulb_server.api.http.auth import ACTS_AS, TOKEN_PARAMETER
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.problem import Problem

PATH = "/api/fal/proxy"
_TARGET = "x-fal-target-url"


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """The one path, for every method."""
    proxy = Proxy(gateway)
    return [Route(path, proxy) for path in (PATH, f"{PATH}/")]


class Proxy:
    """Leads calls to where they are meant to go."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        headers = Headers(scope=scope)
        path, query = self._inside(HTTPConnection(scope), headers.get(_TARGET, ""))
        inner = {
            **scope,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name, value) for name, value in scope["headers"] if name != _TARGET.encode()],
            "state": {},
        }
        if self._gateway.settings.proxy_key_id and not _brings_key(headers, query):
            inner[ACTS_AS] = self._gateway.settings.proxy_key_id
        await scope["app"](inner, receive, send)

    def _inside(self, connection: HTTPConnection, target: str) -> tuple[str, str]:
        """Path and query of the target on this server. Raises Problem for one that lies elsewhere."""
        try:
            parts = urlsplit(target)
            surface = surface_of_host(parts.netloc)
        except ValueError as err:
            raise _refused() from err
        if parts.scheme not in ("http", "https") or not target.isascii():
            raise _refused()
        if surface is not None:
            return f"/{surface}{parts.path}", parts.query
        for own in Surface:
            base = urlsplit(public_url(connection, own, self._gateway.settings))
            if parts.netloc == base.netloc and parts.path.startswith(f"{base.path}/"):
                return f"/{own}{parts.path.removeprefix(base.path)}", parts.query
        raise _refused()


def _brings_key(headers: Headers, query: str) -> bool:
    return bool(headers.get("authorization")) or f"{TOKEN_PARAMETER}=" in query


def _refused() -> Problem:
    return Problem(
        400, f"Invalid request: {_TARGET} must name an address of fal, such as https://queue.fal.run/...", "bad_request"
    )
