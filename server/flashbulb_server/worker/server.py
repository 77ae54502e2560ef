"""EngineService: direct drawings for the api, many at once over one stream. A stream that breaks cancels its drawings at the next step."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

from flashbulb.internal.v1 import engine_pb2, engine_pb2_grpc
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import Draining, EngineFailed, FlashbulbError, RequestCancelled, WorkersBusy
from flashbulb_server.wire.inputs import to_spec
from flashbulb_server.wire.outputs import to_output, to_preview, to_progress
from flashbulb_server.wire.status import to_status
from flashbulb_server.wire.times import from_duration
from flashbulb_server.worker.delivery import Delivery, Origin
from flashbulb_server.worker.drawing import Drawing
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.inputs import Inputs

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_WAITING = 1024  # messages of one stream; beyond them steps and previews are left out
_WORK_CLASSES: Mapping[int, WorkClass] = {engine_pb2.WORK_CLASS_REALTIME: WorkClass.REALTIME}
_Context = grpc.aio.ServicerContext[Any, Any]
_log = logging.getLogger(__name__)


class EngineServicer(engine_pb2_grpc.EngineServiceServicer):
    """The engine over gRPC."""

    def __init__(self, engine: StepEngine, inputs: Inputs, delivery: Delivery) -> None:
        self._engine = engine
        self._inputs = inputs
        self._delivery = delivery
        self._streams: set[_Stream] = set()
        self._draining = False

    async def Draw(
        self, request_iterator: AsyncIterator[engine_pb2.DrawRequest], context: _Context
    ) -> AsyncIterator[engine_pb2.DrawResponse]:
        """Draws until the api closes the stream, or until the worker drains and the last drawing has ended."""
        stream = _Stream(self._engine, self._inputs, self._delivery)
        self._streams.add(stream)
        if self._draining:
            stream.drain()
        try:
            async with task_group() as tasks:
                reading = tasks.create_task(stream.read(request_iterator, tasks))
                try:
                    while (response := await stream.outbox.get()) is not None:
                        yield response
                finally:
                    reading.cancel()
                    stream.stop()
        finally:
            self._streams.discard(stream)

    def drain(self) -> None:
        """Refuses new drawings; streams end with their last one."""
        self._draining = True
        for stream in self._streams:
            stream.drain()


class _Stream:
    """The drawings of one api. `outbox` ends with None."""

    def __init__(self, engine: StepEngine, inputs: Inputs, delivery: Delivery) -> None:
        self.outbox: asyncio.Queue[engine_pb2.DrawResponse | None] = asyncio.Queue()
        self._engine = engine
        self._inputs = inputs
        self._delivery = delivery
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._drawings: dict[int, Drawing] = {}
        self._draining = False

    async def read(self, requests: AsyncIterator[engine_pb2.DrawRequest], tasks: asyncio.TaskGroup) -> None:
        """Takes the api's messages until it closes its side."""
        async for request in requests:
            call_id = request.call_id
            if request.WhichOneof("message") == "cancel":
                self._cancel(call_id)
            elif request.WhichOneof("message") == "start" and call_id not in self._tasks:
                self._tasks[call_id] = tasks.create_task(self._draw(call_id, request.start))
        self.outbox.put_nowait(None)

    def drain(self) -> None:
        """Ends the stream once nothing is being drawn."""
        self._draining = True
        if not self._tasks:
            self.outbox.put_nowait(None)

    def stop(self) -> None:
        """Cancels everything: nobody hears the answers any more."""
        for task in self._tasks.values():
            task.cancel()

    def _cancel(self, call_id: int) -> None:
        if call_id in self._drawings:
            self._drawings[call_id].cancel()  # its end tells the step
        elif call_id in self._tasks:
            self._tasks[call_id].cancel()

    async def _draw(self, call_id: int, start: engine_pb2.StartDrawing) -> None:
        try:
            response = await self._outcome(call_id, start)
        except asyncio.CancelledError:
            # By the api, before or after the steps; or the stream is gone and nobody hears this.
            response = engine_pb2.DrawResponse(call_id=call_id, error=to_status(RequestCancelled()))
        except FlashbulbError as err:
            response = engine_pb2.DrawResponse(call_id=call_id, error=to_status(err))
        except Exception:  # noqa: BLE001  # the edge: every error gets a status
            _log.exception("drawing failed", extra={"request_id": start.request_id})
            response = engine_pb2.DrawResponse(call_id=call_id, error=to_status(EngineFailed()))
        finally:
            self._drawings.pop(call_id, None)
            self._tasks.pop(call_id, None)
        self.outbox.put_nowait(response)
        if self._draining and not self._tasks:
            self.outbox.put_nowait(None)

    async def _outcome(self, call_id: int, start: engine_pb2.StartDrawing) -> engine_pb2.DrawResponse:
        if self._draining:
            raise Draining
        spec = to_spec(start.input)
        work_class = _WORK_CLASSES.get(start.work_class, WorkClass.DIRECT)
        deadline = None
        if start.HasField("timeout"):
            deadline = time.monotonic() + from_duration(start.timeout)
            _admit(deadline, self._engine.estimate(spec, work_class=work_class, owner=start.owner))
        sources = await self._inputs.gather(spec, start.owner)
        drawing = self._drawings[call_id] = self._engine.start(
            spec,
            sources=sources,
            work_class=work_class,
            owner=start.owner,
            deadline=deadline,
            on_progress=self._teller(call_id) if start.include_progress else None,
            on_preview=self._teller(call_id) if start.include_previews else None,
        )
        drawn = await drawing.result()
        del self._drawings[call_id]
        try:
            result = await self._delivery.hand_over(drawn, spec, Origin(start.owner, start.request_id))
        except asyncio.CancelledError:
            raise RequestCancelled(drawing.step, drawing.total_steps) from None
        resolved = None if spec.sources else start.input
        return engine_pb2.DrawResponse(call_id=call_id, output=to_output(result, resolved=resolved))

    def _teller(self, call_id: int) -> Callable[[Progress | PreviewImage], None]:
        def tell(event: Progress | PreviewImage) -> None:
            if self.outbox.qsize() >= _WAITING:
                return
            response = engine_pb2.DrawResponse(call_id=call_id)
            if isinstance(event, Progress):
                response.progress.CopyFrom(to_progress(event))
            else:
                response.preview.CopyFrom(to_preview(event))
            self.outbox.put_nowait(response)

        return tell


def _admit(deadline: float, needed: float) -> None:
    """Refuses at once what cannot be done in time, rather than answer late. `needed` in seconds; raises WorkersBusy."""
    remaining = deadline - time.monotonic()
    if needed > remaining:
        raise WorkersBusy(
            f"needs about {needed:.2f} s, the deadline leaves {max(0.0, remaining):.2f} s",
            retry_after=max(0.1, needed - remaining),
        )


@asynccontextmanager
async def serve_engine(servicer: EngineServicer, listen: str, *, drain_seconds: float) -> AsyncIterator[str]:
    """Serves while the context is open; gives the address that was bound. On exit drawings may go on for `drain_seconds`.

    Raises OSError if the address is taken.
    """
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # an api asks every 5 s whether the worker lives
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
        servicer.drain()
        await server.stop(drain_seconds)
