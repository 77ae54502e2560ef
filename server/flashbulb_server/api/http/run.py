"""The run surface: draws at once and answers with the pictures. A caller that leaves stops the drawing at the next step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.api.engines import DrawingEvent
from flashbulb_server.api.generating import DirectCall
from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.calls import read_call
from flashbulb_server.api.http.files import at_gateway
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.stand_ins import said
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.submission import Submission
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import NoWorker, StartTimeout
from flashbulb_server.wire.fal import output_json
from flashbulb_server.wire.outputs import from_output

T = TypeVar("T")


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """`POST /{endpoint}`, and `GET` with the input in the query."""

    async def run(request: Request) -> Response:
        call = await read_call(gateway, request)
        spec = call.resolve(gateway)
        output = await unless_gone(request, _draw(gateway, call.owner, spec, call.submission))
        return json_answer(output_json(at_gateway(gateway, request, from_output(output))), headers=said(spec))

    return [drawn_at("/{path:path}", run)]


def drawn_at(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
    """A route that draws, by POST or GET. Not by HEAD, which starlette adds to every GET."""
    route = Route(path, handler, methods=["GET", "POST"])
    route.methods = {"GET", "POST"}
    return route


async def _draw(gateway: Gateway, owner: str, spec: GenerationSpec, submission: Submission) -> GenerationOutput:
    async with aclosing(drawing(gateway, owner, spec, submission)) as events:
        async for event in events:
            if isinstance(event, GenerationOutput):
                return event
    raise NoWorker("the worker ended without a picture")


async def drawing(
    gateway: Gateway, owner: str, spec: GenerationSpec, submission: Submission, *, previews: bool = False
) -> AsyncGenerator[DrawingEvent, None]:
    """What the worker sends, the output last. Raises StartTimeout if it does not begin in the time that the caller gave it."""
    timeout = submission.start_timeout
    call = DirectCall(
        owner, progress=previews or timeout is not None, previews=previews, runner_hint=submission.runner_hint
    )
    async with aclosing(gateway.generating.generate(spec, call)) as events:
        try:
            async with asyncio.timeout(timeout):
                first = await anext(events, None)
        except TimeoutError as err:
            raise StartTimeout(timeout or 0.0) from err
        if first is not None:
            yield first
        async for event in events:
            yield event


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The outcome of the work, which is cancelled if the caller leaves. Raises ClientDisconnect then. The body must have been read."""

    async def do() -> T:
        return await work

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        raise ClientDisconnect

    async with task_group() as tasks:
        waiting = tasks.create_task(leave())
        outcome = await tasks.create_task(do())
        waiting.cancel()
    return outcome
