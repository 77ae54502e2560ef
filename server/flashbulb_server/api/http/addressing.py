"""Which surface a call is for, where callers reach it, and which endpoint a path names.

A surface is addressed by a prefix of the path (`/queue/fal-ai/...`) or by the name that it has at fal (`queue.fal.run`), for clients whose
traffic is led here by DNS or by a proxy. `AddressedByHost` turns the second form into the first, so that routes know only prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from flashbulb_server.config import HttpSettings
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint


class Surface(StrEnum):
    """The parts of fal's service; their values are the prefixes."""

    RUN = "run"
    QUEUE = "queue"
    REST = "rest"
    CDN = "cdn"
    WS = "ws"


_HOSTS: Mapping[str, Surface] = {
    "fal.run": Surface.RUN,
    "falrun.com": Surface.RUN,
    "queue.fal.run": Surface.QUEUE,
    "queue.falrun.com": Surface.QUEUE,
    "rest.fal.ai": Surface.REST,
    "rest.alpha.fal.ai": Surface.REST,
    "v3.fal.media": Surface.CDN,
    "v3b.fal.media": Surface.CDN,
    "ws.fal.run": Surface.WS,
}
_NAMES: Mapping[Surface, str] = {surface: host for host, surface in reversed(list(_HOSTS.items()))}
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
OWNERS = ("fal-ai", "flashbulb")
"""First parts of an endpoint's address. Others are refused: an app of somebody else's, though of the same name, is another model."""


class AddressedByHost:
    """Puts the prefix of a surface before the path of a call that came to the surface's name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        if scope["type"] in ("http", "websocket"):
            surface = surface_of_host(_asked_host(Headers(scope=scope)))
            if surface is not None:
                path = f"/{surface}{scope['path']}"
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


def surface_of_host(host: str) -> Surface | None:
    """The surface that has this name, with a port or without."""
    return _HOSTS.get(host.partition(":")[0].lower())


def public_url(connection: HTTPConnection, surface: Surface, settings: HttpSettings) -> str:
    """Where the caller reaches a surface: by fal's name if it came by one, else by the public address, as far as that is known.

    fal's names are led here by something that speaks TLS for them, and clients send keys to them: never a link without it.
    """
    headers = connection.headers
    host = _asked_host(headers)
    scheme = _first(headers.get("x-forwarded-proto")) or connection.scope.get("scheme", "http")
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    if surface_of_host(host) is not None:
        port = host[len(host.partition(":")[0]) :]
        return f"https://{_NAMES[surface]}{port if port != ':80' else ''}"
    if settings.public_url:
        return f"{settings.public_url.rstrip('/')}/{surface}"
    if scheme not in ("http", "https") or not _HOST.fullmatch(host):
        scheme, host = "http", "{}:{}".format(*(connection.scope.get("server") or ("localhost", 80)))
    prefix = _first(headers.get("x-forwarded-prefix")).rstrip("/")
    return f"{scheme}://{host}{prefix if _PREFIX.fullmatch(prefix) else ''}/{surface}"


def known_ids() -> list[str]:
    """All endpoints, as callers name them."""
    return [f"{OWNERS[0]}/{endpoint}" for endpoint in ENDPOINTS]


def split_path(path: str) -> tuple[Endpoint, str, str] | None:
    """The endpoint that a path names, its address (`fal-ai/flux-lora/inpainting`), and what follows it. None if there is none.

    The longest endpoint counts: `fal-ai/flux-lora/inpainting` is not the sub-path `inpainting` of `fal-ai/flux-lora`.
    """
    owner, *parts = [part for part in path.split("/") if part] or [""]
    if owner not in OWNERS:
        return None
    for count in range(len(parts), 0, -1):
        endpoint = ENDPOINTS.get("/".join(parts[:count]))
        if endpoint is not None:
            return endpoint, f"{owner}/{endpoint.id}", "/".join(parts[count:])
    return None


def _asked_host(headers: Headers) -> str:
    return _first(headers.get("x-forwarded-host")) or headers.get("host", "")


def _first(value: str | None) -> str:
    return (value or "").partition(",")[0].strip()
