"""The queue surface: submit, status, result, cancel. Translates; the use-cases are those of gRPC's QueueService."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from flashbulb_server.api.http.addressing import Surface, public_url
from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.calls import Target, admit, read_call, target_of
from flashbulb_server.api.http.errors import REQUEST_ID, headers_of_failure
from flashbulb_server.api.http.events import stream_of
from flashbulb_server.api.http.files import at_gateway
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.inputs import digest
from flashbulb_server.api.http.polls import repeatable
from flashbulb_server.api.http.status import (
    Links,
    cancelled_json,
    links_of,
    status_answer,
    submitted_json,
    told_events,
    wants_logs,
    wants_previews,
)
from flashbulb_server.api.http.webhooks import webhook_json
from flashbulb_server.api.stand_ins import said
from flashbulb_server.api.tokens import Grant
from flashbulb_server.api.watching import Watch
from flashbulb_server.core.requests import Failure
from flashbulb_server.wire.fal import failure_json, output_json


class _Queue:
    """The handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def submit(self, request: Request) -> Response:
        """Queues a request. Bad inputs are told now, not with the result."""
        call = await read_call(self._gateway, request)
        spec = call.resolve(self._gateway, also=await self._gateway.webhooks.problems(call.submission))
        queued, _ = await self._gateway.queueing.submit(
            call.owner, spec, call.submission, digest=digest(call.target.endpoint, call.given)
        )
        view = await self._gateway.queueing.view(queued)
        links = self._links(request, call.target, queued.request_id)
        return json_answer(submitted_json(view, links), headers={REQUEST_ID: queued.request_id, **said(queued.spec)})

    async def status(self, request: Request) -> Response:
        """Where a request stands."""
        target, grant, request_id = self._named(request)
        logs = wants_logs(request)
        snapshot = await self._gateway.polling.status(grant.owner, request_id, logs=logs)
        grant.check(snapshot.view.request.spec.endpoint)
        if grant.expire_time is None:
            repeatable(request, snapshot)
        return status_answer(snapshot.view, self._links(request, target, request_id), logs=logs)

    async def status_stream(self, request: Request) -> Response:
        """Where a request stands, told whenever that changes."""
        target, grant, request_id = self._named(request)
        await self._check(grant, request_id)
        links = self._links(request, target, request_id)
        wish = Watch(logs=wants_logs(request), previews=wants_previews(request))
        watch = self._gateway.watching.watch(grant.owner, request_id, wish)
        return await stream_of(told_events(watch, links, logs=wants_logs(request)), {REQUEST_ID: request_id})

    async def result(self, request: Request) -> Response:
        """The output, or why there is none."""
        _, grant, request_id = self._named(request)
        await self._check(grant, request_id)
        outcome = await self._gateway.queueing.result(grant.owner, request_id)
        headers = {REQUEST_ID: request_id}
        if isinstance(outcome, Failure):
            status, body = failure_json(outcome)
            return json_answer(body, status, headers | headers_of_failure(status, body))
        headers |= said(outcome.spec)
        return json_answer(output_json(at_gateway(self._gateway, request, outcome)), headers=headers)

    async def cancel(self, request: Request) -> Response:
        """Stops a request."""
        _, grant, request_id = self._named(request)
        await self._check(grant, request_id)
        receipt = await self._gateway.queueing.cancel(grant.owner, request_id)
        self._gateway.polling.forget(request_id)
        body, status = cancelled_json(receipt)
        return json_answer(body, status, {REQUEST_ID: request_id})

    async def redeliver(self, request: Request) -> Response:
        """Sends the webhook again."""
        _, grant, request_id = self._named(request)
        await self._check(grant, request_id)
        renewed = await self._gateway.webhooks.redeliver(grant.owner, request_id)
        self._gateway.polling.forget(request_id)
        assert renewed.webhook is not None, "or it would not have been renewed"
        return json_answer(webhook_json(renewed.webhook), 202, {REQUEST_ID: request_id})

    def _named(self, request: Request) -> tuple[Target, Grant, str]:
        """Which request of whom. The endpoint in the path may be the whole or its beginning; only the request's own id counts."""
        target = target_of(request.path_params["path"])
        return target, admit(self._gateway, request, target.endpoint), request.path_params["request_id"]

    async def _check(self, grant: Grant, request_id: str) -> None:
        """A token is good for requests of its endpoints; the path could name any of them."""
        if grant.endpoints is not None:
            grant.check((await self._gateway.queueing.current(grant.owner, request_id)).spec.endpoint)

    def _links(self, request: Request, target: Target, request_id: str) -> Links:
        base = public_url(request, Surface.QUEUE, self._gateway.settings)
        return links_of(base, target.address, request_id)


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """All of the surface. Paths may end in a slash."""
    queue = _Queue(gateway)
    found: list[BaseRoute] = []
    for slash in ("", "/"):
        one = "/{path:path}/requests/{request_id}"
        found += [
            Route(f"{one}/status{slash}", queue.status, methods=["GET"]),
            Route(f"{one}/status/stream{slash}", queue.status_stream, methods=["GET"]),
            Route(f"{one}/response{slash}", queue.result, methods=["GET"]),
            Route(f"{one}/cancel{slash}", queue.cancel, methods=["PUT", "POST"]),
            Route(f"{one}/webhook{slash}", queue.redeliver, methods=["POST"]),
            Route(f"{one}{slash}", queue.result, methods=["GET"]),
        ]
    return [*found, Route("/{path:path}", queue.submit, methods=["POST"])]
