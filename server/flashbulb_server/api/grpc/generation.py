"""GenerationService: converts, calls the use-case, converts. A caller that leaves closes the generator, which stops the drawing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from flashbulb.v1 import generation_pb2, generation_pb2_grpc, input_pb2
from flashbulb_server.api.engines import DrawingEvent
from flashbulb_server.api.generating import DirectCall, Generating
from flashbulb_server.api.grpc.interceptors import caller
from flashbulb_server.api.grpc.trailing import tell_stand_in
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.submission import hint_problems
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import NoWorker
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.wire.inputs import given_fields
from flashbulb_server.wire.outputs import to_preview, to_progress

_Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Direct generation over gRPC."""

    def __init__(self, generating: Generating, fleet: Fleet) -> None:
        self._generating = generating
        self._fleet = fleet

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: _Context
    ) -> generation_pb2.GenerateResponse:
        """Draws pictures and answers with them."""
        spec = self._spec(request.input, request.runner_hint)
        call = DirectCall(caller(), timeout=context.time_remaining(), runner_hint=request.runner_hint)
        async with aclosing(self._generating.generate(spec, call)) as events:
            async for event in events:
                if isinstance(event, generation_pb2.GenerationOutput):
                    tell_stand_in(context, spec)
                    return generation_pb2.GenerateResponse(output=event)
        raise NoWorker("the worker ended without a picture")

    async def GenerateStream(
        self, request: generation_pb2.GenerateStreamRequest, context: _Context
    ) -> AsyncIterator[generation_pb2.GenerateStreamResponse]:
        """Draws pictures and streams the progress."""
        spec = self._spec(request.input, request.runner_hint)
        call = DirectCall(
            caller(),
            timeout=context.time_remaining(),
            progress=True,
            previews=request.include_previews,
            runner_hint=request.runner_hint,
        )
        tell_stand_in(context, spec)
        async with aclosing(self._generating.generate(spec, call)) as events:
            async for event in events:
                yield _response(event)

    def _spec(self, message: input_pb2.GenerationInput, runner_hint: str) -> GenerationSpec:
        endpoint, given = given_fields(message)
        return resolve(endpoint, given, self._fleet.installed(), also=hint_problems(runner_hint))


def _response(event: DrawingEvent) -> generation_pb2.GenerateStreamResponse:
    match event:
        case Progress():
            return generation_pb2.GenerateStreamResponse(progress=to_progress(event))
        case PreviewImage():
            return generation_pb2.GenerateStreamResponse(preview=to_preview(event))
        case generation_pb2.GenerationOutput():
            return generation_pb2.GenerateStreamResponse(output=event)
