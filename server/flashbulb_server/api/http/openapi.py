"""The gateway's OpenAPI documents (version 3.1.0), of one endpoint or of all, and the page that shows them. Open: they hold no secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from flashbulb_server.api.http.addressing import OWNERS, Surface, public_url
from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.calls import target_of
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.schemas import COMPONENTS, Schema, field_schema, input_schema
from flashbulb_server.api.stand_ins import STAND_IN
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint
from flashbulb_server.core.fields import Kind

_INVALID, _ERROR = "#/components/schemas/Invalid", "#/components/schemas/Error"
_TELLING: Mapping[int, str] = {
    400: "The call is no HTTP, or what it asks for is not there yet.",
    401: "No key, or one that is not known.",
    403: "The token is not good for this endpoint.",
    404: "No such endpoint or request, or no installed model runs the endpoint.",
    413: "The body is too large.",
    422: "Fields are wrong; each is named.",
    429: "There is no room now.",
    499: "The request was cancelled.",
    500: "Drawing failed, or a fault of the server.",
    503: "No worker, or a store that does not answer.",
    504: "It was not started in the time that was given.",
}
_ID: Schema = {"name": "request_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_LOGS: Schema = {
    "name": "logs",
    "in": "query",
    "schema": {"type": "string", "enum": ["0", "1", "true", "false"]},
    "description": "Whether to tell the log lines.",
}


_STANDS_IN: Schema = {
    "schema": {"type": "string"},
    "description": "Where another model drew than the one that was asked for: `<asked> drawn by <model_name>`.",
}


def _header(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "header", "schema": schema, "description": description}


_START = _header(
    "x-fal-request-timeout",
    {"type": "number", "minimum": 0.1, "maximum": 86_400},
    "Seconds in which it is to be started.",
)
_HINT = _header("x-fal-runner-hint", {"type": "string", "maxLength": 128}, "The same hint goes to the same worker.")
_SUBMISSION: Sequence[Schema] = (
    _START,
    _HINT,
    _header("x-fal-queue-priority", {"type": "string", "enum": ["normal", "low"]}, "Low goes after all others."),
    _header("x-fal-no-retry", {"type": "string"}, "`1`: not started again after its worker was lost."),
    _header("x-fal-store-io", {"type": "string"}, "`0`: the outcome is forgotten after an hour."),
    _header(
        "x-fal-object-lifecycle-preference", {"type": "string"}, "JSON; `expiration_duration_seconds` of the outcome."
    ),
    _header(
        "idempotency-key",
        {"type": "string", "pattern": "^[!-~]{1,128}$"},
        "A second submission under the same key is the first one again.",
    ),
    {
        "name": "fal_webhook",
        "in": "query",
        "schema": {"type": "string"},
        "description": "URL that the outcome is posted to.",
    },
    {
        "name": "fal_max_queue_length",
        "in": "query",
        "schema": {"type": "integer", "minimum": 0},
        "description": "Refused with 429 if so many requests wait already.",
    },
)


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """`/openapi.json`, of all endpoints or of `?endpoint_id=`, and `/docs`."""
    page = (files("flashbulb_server.api.http") / "reference.html").read_text()

    async def openapi(request: Request) -> Response:
        wanted = request.query_params.get("endpoint_id")
        endpoints = [target_of(wanted).endpoint] if wanted else list(ENDPOINTS.values())
        base = public_url(request, Surface.RUN, gateway.settings).removesuffix(f"/{Surface.RUN}")
        return json_answer(document(endpoints, base, single=bool(wanted)))

    async def reference(_: Request) -> Response:
        policy = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data: http: https:"
        return HTMLResponse(page, headers={"content-security-policy": policy})

    return [Route("/openapi.json", openapi), Route("/docs", reference)]


def document(endpoints: Iterable[Endpoint], base: str, *, single: bool = False) -> Schema:
    """The document of some endpoints. `base`: where the gateway is."""
    chosen = list(endpoints)
    paths: Schema = {}
    for endpoint in chosen:
        paths |= _paths(endpoint)
    info: Schema = {"title": "Flashbulb", "version": version("flashbulb-server")}
    if single:
        info |= {"title": chosen[0].id, "description": chosen[0].description}
        info["x-fal-metadata"] = {"endpointId": f"{OWNERS[0]}/{chosen[0].id}"}
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": base}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "authorization",
                    "description": "`Key <id>:<secret>`, or `Bearer <token>`.",
                }
            },
            "schemas": {**COMPONENTS, **{_name(endpoint): input_schema(endpoint) for endpoint in chosen}},
        },
    }


def _paths(endpoint: Endpoint) -> Schema:
    address = f"{OWNERS[0]}/{endpoint.id}"
    one = f"/queue/{address}/requests/{{request_id}}"
    output, status = _json("Output"), _json("Status")
    drawn = (401, 403, 404, 413, 422, 429, 499, 500, 503, 504)
    asked = (401, 403, 404, 500, 503)

    def operation(name: str, summary: str, answers: Schema, errors: Sequence[int], **more: object) -> Schema:
        given = {str(code): _told(code) for code in errors if str(code) not in answers}
        return {
            "operationId": f"{name}_{_name(endpoint)}",
            "tags": [address],
            "summary": summary,
            **more,
            "responses": {**answers, **given},
        }

    body = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_name(endpoint)}"}}},
    }
    events: Schema = {"200": {"description": "Events, a JSON object in each.", "content": {"text/event-stream": {}}}}
    return {
        f"/run/{address}": {
            "post": operation(
                "run",
                f"Draws at once. {endpoint.description}",
                {"200": output},
                drawn,
                requestBody=body,
                parameters=[_START, _HINT],
            ),
            "get": operation(
                "run_query",
                "Draws at once; the input stands in the query.",
                {"200": output},
                drawn,
                parameters=_query(endpoint),
            ),
        },
        f"/run/{address}/stream": {
            "post": operation(
                "stream", "Draws at once, with previews; the output is the last event.", events, drawn, requestBody=body
            )
        },
        f"/queue/{address}": {
            "post": operation(
                "submit", "Queues a request.", {"200": status}, drawn, requestBody=body, parameters=list(_SUBMISSION)
            )
        },
        f"{one}/status": {
            "get": operation(
                "status",
                "Where a request stands: 202 while there is something to wait for.",
                {"200": status, "202": status},
                asked,
                parameters=[_ID, _LOGS],
            )
        },
        f"{one}/status/stream": {
            "get": operation("status_stream", "The same, whenever it changes.", events, asked, parameters=[_ID, _LOGS])
        },
        one: {
            "get": operation(
                "result",
                "The output, or why there is none.",
                {"200": output},
                (400, *asked, 422, 499, 504),
                parameters=[_ID],
            )
        },
        f"{one}/cancel": {
            "put": operation(
                "cancel",
                "Stops a request.",
                {"202": _json("Cancelled"), "400": _json("Cancelled")},
                asked,
                parameters=[_ID],
            )
        },
        f"{one}/webhook": {
            "post": operation(
                "redeliver",
                "Sends the webhook again.",
                {"202": {"description": "It is due.", "content": {"application/json": {"schema": {"type": "object"}}}}},
                (400, *asked),
                parameters=[_ID],
            )
        },
    }


def _query(endpoint: Endpoint) -> list[Schema]:
    """The fields that a query can hold."""
    return [
        {
            "name": field.name,
            "in": "query",
            "required": field.required,
            "schema": field_schema(field)
            if field.kind is not Kind.SIZE
            else {"type": "string", "enum": list(field.choices)},
        }
        for field in endpoint.fields
        if not field.kind.many
    ]


def _json(name: str) -> Schema:
    return {
        "description": name,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
        **({"headers": {STAND_IN: _STANDS_IN}} if name == "Output" else {}),
    }


def _told(code: int) -> Schema:
    schema = {"$ref": _INVALID if code == 422 else _ERROR}
    return {"description": _TELLING[code], "content": {"application/json": {"schema": schema}}}


def _name(endpoint: Endpoint) -> str:
    return "".join(part.capitalize() for part in endpoint.id.replace("/", "-").split("-")) + "Input"
