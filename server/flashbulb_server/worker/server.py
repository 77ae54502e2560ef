"""EngineService: direct drawings for the api. The caller's going away cancels the drawing at the next step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from flashbulb.internal.v1 import engine_pb2, engine_pb2_grpc
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.errors import EngineFailed, FlashbulbError, WorkersBusy
from flashbulb_server.wire.inputs import to_spec
from flashbulb_server.wire.outputs import to_output, to_preview, to_progress
from flashbulb_server.wire.status import to_status
from flashbulb_server.worker.delivery import Delivery, Origin
from flashbulb_server.worker.drawing import Drawn
from flashbulb_server.worker.engine import StepEngine

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_WAITING_EVENTS = 64
_Context = grpc.aio.ServicerContext[Any, Any]
_log = logging.getLogger(__name__)


class EngineServicer(engine_pb2_grpc.EngineServiceServicer):
    """The engine over gRPC."""

    def __init__(self, engine: StepEngine, delivery: Delivery) -> None:
        self._engine = engine
        self._delivery = delivery

    async def Run(self, request: engine_pb2.RunRequest, context: _Context) -> AsyncIterator[engine_pb2.RunResponse]:
        """Draws a generation."""
        spec = to_spec(request.input)
        try:
            self._admit(spec, context.time_remaining())
            events: asyncio.Queue[Progress | PreviewImage | None] = asyncio.Queue(_WAITING_EVENTS)
            drawing = self._engine.start(
                spec,
                work_class=WorkClass.DIRECT,
                on_progress=_into(events) if request.include_progress else None,
                on_preview=_into(events) if request.include_previews else None,
            )
            try:
                if request.include_progress or request.include_previews:
                    drawing.outcome.add_done_callback(lambda _: _offer(events, None))
                    while (event := await events.get()) is not None:
                        yield _response(event)
                drawn = await drawing.result()
            finally:
                drawing.cancel()  # without effect once it has ended
            yield await self._output(drawn, spec, Origin(request.owner, request.request_id))
        except FlashbulbError as err:
            await _abort(context, err)
        except Exception:  # noqa: BLE001  # the edge: every error gets a status
            _log.exception("drawing failed", extra={"request_id": request.request_id})
            await _abort(context, EngineFailed())

    async def _output(self, drawn: Drawn, spec: GenerationSpec, origin: Origin) -> engine_pb2.RunResponse:
        return engine_pb2.RunResponse(output=to_output(await self._delivery.hand_over(drawn, spec, origin)))

    def _admit(self, spec: GenerationSpec, remaining: float | None) -> None:
        """Refuses at once what cannot be done in time, rather than answer late."""
        needed = self._engine.estimate(spec)
        if remaining is not None and needed > remaining:
            raise WorkersBusy(
                f"needs about {needed:.2f} s, the deadline leaves {max(0.0, remaining):.2f} s",
                retry_after=max(0.1, needed - remaining),
            )


def _into(events: asyncio.Queue[Progress | PreviewImage | None]) -> Any:  # noqa: ANN401  # serves both callbacks
    return lambda event: _offer(events, event)


def _offer(events: asyncio.Queue[Progress | PreviewImage | None], event: Progress | PreviewImage | None) -> None:
    """Adds an event; a full queue loses its oldest, so a slow caller costs no memory."""
    if events.full():
        events.get_nowait()
    events.put_nowait(event)


def _response(event: Progress | PreviewImage) -> engine_pb2.RunResponse:
    if isinstance(event, Progress):
        return engine_pb2.RunResponse(progress=to_progress(event))
    return engine_pb2.RunResponse(preview=to_preview(event))


async def _abort(context: _Context, error: FlashbulbError) -> NoReturn:
    await context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise asyncio.CancelledError  # abort raises; this tells the type checker


@asynccontextmanager
async def serve_engine(servicer: EngineServicer, listen: str, *, drain_seconds: float) -> AsyncIterator[str]:
    """Serves while the context is open; gives the address that was bound. Raises OSError if it is taken."""
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        )
    )
    engine_pb2_grpc.add_EngineServiceServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as err:
        raise OSError(f"cannot listen on {listen}") from err
    await server.start()
    try:
        yield listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(drain_seconds)
