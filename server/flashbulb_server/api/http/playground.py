"""The page at `/`, and what it needs to know of this server. Its files are in the folder of the same name; it talks to the other surfaces."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.auth import authenticate
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint, ModelInfo, default_model, models_of
from flashbulb_server.core.fields import IMAGE_SIZES

_FOLDER = Path(__file__).with_suffix("")
_PAGE = "index.html"
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob: http: https:",  # pictures of the queue may be links into the file store
        "connect-src 'self' ws: wss:",
        "media-src 'self' blob: mediastream:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Mapping[str, str] = {
    "cache-control": "no-cache",  # asked for anew every time, and not sent again while its tag is the same
    "content-security-policy": _POLICY,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """`/`, the page's files, and `playground/catalog.json`: the endpoints that can be drawn here."""
    files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.is_file()}

    async def page(request: Request) -> Response:
        return _file(request, _PAGE, files)

    async def file(request: Request) -> Response:
        return _file(request, request.path_params["name"], files)

    async def catalog(request: Request) -> Response:
        authenticate(gateway, request)
        installed = gateway.fleet.installed()
        able = [endpoint for endpoint in ENDPOINTS.values() if models_of(endpoint, installed)]
        host = request.url.hostname or "127.0.0.1"
        return json_answer(
            {
                "grpc_address": f"{host}:{gateway.grpc_listen.rpartition(':')[2]}",
                "image_sizes": IMAGE_SIZES,
                "endpoints": [_endpoint(endpoint, installed) for endpoint in able],
            }
        )

    return [
        Route("/", page),
        Route("/playground/catalog.json", catalog),
        Route("/playground/{name}", file),
    ]


def _file(request: Request, name: str, files: Mapping[str, bytes]) -> Response:
    content = files.get(name)
    if content is None:
        return json_answer({"detail": f"no file {name!r}"}, 404)
    headers = {**_HEADERS, "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=mimetypes.guess_type(name)[0])


def _endpoint(endpoint: Endpoint, installed: Sequence[ModelInfo]) -> dict[str, object]:
    default = default_model(endpoint, installed)
    return {
        "endpoint": endpoint.id,
        "input_field": endpoint.input_field,
        "default_model": default.name if default else "",
        "models": [
            {
                "name": model.name,
                "native_size": model.native_size,
                "resamples": model.resamples,
                "max_image_pixels": model.max_image_pixels,
                "needs_checker": not model.safe_by_construction,
                "safety_checker_versions": model.safety_checker_versions,
                "stands_in_for": model.stands_in_for,
            }
            for model in models_of(endpoint, installed)
        ],
    }
