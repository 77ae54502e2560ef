"""For probes of an orchestrator; open, as they hold no key."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.gateway import Gateway


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """`/healthz`: the process answers. `/readyz`: it knows what can be drawn, so calls may come."""

    async def alive(_: Request) -> Response:
        return json_answer({"status": "ok"})

    async def ready(_: Request) -> Response:
        models = sorted(model.name for model in gateway.fleet.models())
        if not models:
            return json_answer({"status": "no worker has come yet"}, 503)
        return json_answer({"status": "ok", "models": models, "workers": len(gateway.fleet.workers())})

    return [Route("/healthz", alive), Route("/readyz", ready)]
