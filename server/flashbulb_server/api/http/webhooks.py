"""Webhooks over HTTP: the keys that check them, how a delivery fares, and a delivery once more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.webhooks.signing import JWKS_MAX_AGE
from flashbulb_server.core.webhooks import Webhook, host_of


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """`GET /.well-known/jwks.json`: public keys, for anybody."""

    async def jwks(_: Request) -> Response:
        headers = {"cache-control": f"public, max-age={JWKS_MAX_AGE}"}
        return json_answer(gateway.signer.jwks(), headers=headers)

    return [Route("/.well-known/jwks.json", jwks, methods=["GET"])]


def webhook_json(webhook: Webhook) -> dict[str, object]:
    """A delivery as the status shows it. The URL's path often holds a secret, and is left out."""
    return {
        "url_host": host_of(webhook.url),
        "state": webhook.state.value,
        "attempts": [
            {"time": iso(attempt.time), "status_code": attempt.status_code or None, "error": attempt.error or None}
            for attempt in webhook.attempts
        ],
        "next_attempt_time": iso(webhook.next_attempt_time) if webhook.next_attempt_time else None,
    }


def iso(seconds: float) -> str:
    """Unix seconds as RFC 3339 to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
