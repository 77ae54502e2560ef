"""Short-lived tokens for browsers: a key makes one, and it opens realtime sockets and streams of the apps that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from flashbulb_server.api.http.addressing import OWNERS
from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.auth import authenticate
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.inputs import read_object
from flashbulb_server.api.tokens import DEFAULT_LIFETIME, MAX_ENDPOINTS, MAX_LIFETIME, Token
from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.errors import FieldViolation, InvalidRequest, TokenForbids

_WAYS = ("realtime", "stream")  # that a token opens; clients name them behind the app
_BODY_BYTES = 1 << 16


def endpoints_of(app: str) -> list[str]:
    """The endpoints that an entry of `allowed_apps` stands for; none for an app that there is not.

    An app (`fast-lcm-diffusion`, `fal-ai/fast-lcm-diffusion`) stands for all that is below it, as clients that connect to a sub-path ask
    for the app alone. With `/realtime` or `/stream` behind it, it stands for itself.
    """
    parts = [part for part in app.split("/") if part]
    if parts and parts[0] in OWNERS:
        parts = parts[1:]
    exact = bool(parts) and parts[-1] in _WAYS
    name = "/".join(parts[:-1] if exact else parts)
    if exact:
        return [name] if name in ENDPOINTS else []
    return [endpoint for endpoint in ENDPOINTS if endpoint == name or endpoint.startswith(f"{name}/")]


def wanted(body: Mapping[str, object], lifetime_field: str) -> tuple[list[str], list[str], float]:
    """Endpoints, names that stand for none, and lifetime in seconds. Raises InvalidRequest with every bad field."""
    problems: list[FieldViolation] = []
    apps = body.get("allowed_apps")
    if not isinstance(apps, list) or not apps or not all(isinstance(app, str) for app in apps):
        problems.append(FieldViolation("allowed_apps", "must be a list of the names of apps"))
        apps = []
    if len(apps) > MAX_ENDPOINTS:
        problems.append(FieldViolation("allowed_apps", f"must name 1 to {MAX_ENDPOINTS} apps"))
        apps = []
    lifetime = body.get(lifetime_field)
    if lifetime is None:
        lifetime = DEFAULT_LIFETIME
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not 1 <= lifetime <= MAX_LIFETIME:
        problems.append(FieldViolation(lifetime_field, f"must be from 1 to {MAX_LIFETIME:g} seconds"))
    if problems:
        raise InvalidRequest(problems)
    found = {app: endpoints_of(app) for app in apps}
    endpoints = sorted({endpoint for names in found.values() for endpoint in names})
    return endpoints, [app for app, names in found.items() if not names], float(lifetime)  # type: ignore[arg-type]  # judged above


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """Tokens of the rest surface."""

    async def bare(request: Request) -> Response:
        """The token as a JSON string, as clients ask for it by themselves.

        They do not say so when this fails. An app that there is not is told where they listen: when they connect.
        """
        token, _ = await _made(gateway, request, "token_expiration")
        return json_answer(token.text)

    async def realtime(request: Request) -> Response:
        """The token in an object, as the backends of applications ask for it."""
        token, unknown = await _made(gateway, request, "duration")
        if unknown:
            known = ", ".join(f"{OWNERS[0]}/{endpoint}" for endpoint in ENDPOINTS)
            raise InvalidRequest([FieldViolation("allowed_apps", f"{unknown[0][:100]!r} is not among {known}")])
        return json_answer({"token": token.text, "expires_at": token.expire_time})

    return [
        *(Route(path, bare, methods=["POST"]) for path in ("/tokens", "/tokens/")),
        *(Route(path, realtime, methods=["POST"]) for path in ("/tokens/realtime", "/tokens/realtime/")),
    ]


async def _made(gateway: Gateway, request: Request, lifetime_field: str) -> tuple[Token, list[str]]:
    grant = authenticate(gateway, request)
    if grant.endpoints is not None:
        raise TokenForbids("making tokens", sorted(grant.endpoints))
    endpoints, unknown, lifetime = wanted(await read_object(request, limit=_BODY_BYTES), lifetime_field)
    return gateway.tokens.create(grant.owner, endpoints, lifetime, allow_none=True), unknown
