"""The gateway as an ASGI app: which routes each surface has, and what every call passes through on its way to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount, Router
from starlette.types import ASGIApp

from flashbulb_server.api.http import (
    files,
    health,
    openapi,
    playground,
    proxy,
    queue,
    realtime,
    run,
    storage,
    streaming,
    tokens,
    webhooks,
)
from flashbulb_server.api.http.addressing import AddressedByHost, Surface
from flashbulb_server.api.http.errors import EXPOSED_HEADERS, Answering
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.polls import Answers, RememberPolls

Routes = Callable[[Gateway], Sequence[BaseRoute]]

SURFACES: Mapping[Surface, tuple[Routes, ...]] = {
    Surface.RUN: (realtime.routes, streaming.routes, run.routes),
    Surface.QUEUE: (queue.routes,),
    Surface.REST: (tokens.routes, storage.rest_routes, webhooks.routes),
    Surface.CDN: (storage.cdn_routes, files.routes),
    Surface.WS: (),
}
"""What is mounted below each prefix. The first route that fits a path takes it, so those that fit any path come last."""

ROOT: tuple[Routes, ...] = (health.routes, playground.routes, openapi.routes, proxy.routes)
"""What has no prefix."""


def make_app(gateway: Gateway, answers: Answers) -> ASGIApp:
    """The app. A call passes, from outside: what is kept of polls, CORS, its id and its errors, the names of hosts, the routes."""
    mounts = [
        Mount(f"/{surface}", routes=[route for routes in found for route in routes(gateway)])
        for surface, found in SURFACES.items()
    ]
    root = [route for routes in ROOT for route in routes(gateway)]
    app = CORSMiddleware(
        Answering(AddressedByHost(Router([*root, *mounts], redirect_slashes=False))),
        allow_origins=gateway.settings.allowed_origins,
        allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"),
        allow_headers=("*",),
        expose_headers=EXPOSED_HEADERS,
        max_age=86_400,
    )
    return RememberPolls(app, answers)
