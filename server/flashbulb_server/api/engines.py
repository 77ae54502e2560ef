"""The api's side of EngineService: one channel and one stream a worker, shared by all calls to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType

import grpc

from flashbulb.internal.v1 import engine_pb2, engine_pb2_grpc
from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.tasks import task_group
from flashbulb_server.wire.inputs import to_input
from flashbulb_server.wire.outputs import from_preview, from_progress
from flashbulb_server.wire.status import from_status
from flashbulb_server.wire.times import to_duration

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.max_pings_without_data", 0),  # any number
)
_PING_SECONDS = 5.0
_CONNECT_SECONDS = 2.0  # a worker that announces itself answers at once
_WAITING_EVENTS = 64
_WORK_CLASSES: Mapping[WorkClass, engine_pb2.WorkClass.ValueType] = {
    WorkClass.DIRECT: engine_pb2.WORK_CLASS_DIRECT,
    WorkClass.REALTIME: engine_pb2.WORK_CLASS_REALTIME,
}
_log = logging.getLogger(__name__)

DrawingEvent = Progress | PreviewImage | GenerationOutput
"""What a worker says of a drawing. The pictures pass through as they came: unpacking them here would only be undone at the edge."""


class WorkerGone(Exception):
    """The worker's connection broke. `started`: whether it had said anything of the call."""

    def __init__(self, *, started: bool) -> None:
        super().__init__("the worker's connection broke")
        self.started = started


@dataclass(frozen=True, slots=True)
class DrawOrder:
    """What a worker is asked for. `timeout`: seconds in which the caller wants the answer, None for any."""

    request_id: str
    owner: str
    spec: GenerationSpec
    work_class: WorkClass = WorkClass.DIRECT
    timeout: float | None = None
    progress: bool = False
    previews: bool = False


class DrawCall:
    """One call on a worker's stream. Iterate it: the result comes last. `close` it in any case; an unfinished one is then cancelled."""

    def __init__(self, stream: _Stream, call_id: int) -> None:
        self._stream = stream
        self._call_id = call_id
        self._events: asyncio.Queue[DrawingEvent | Exception] = asyncio.Queue()
        self._started = False
        self._over = False
        self._cancelled = False

    def cancel(self) -> None:
        """Stops it at the next step; iterating then raises RequestCancelled, which tells the step. Without effect once it is over."""
        if not self._over and not self._cancelled:
            self._cancelled = True
            self._stream.send(engine_pb2.DrawRequest(call_id=self._call_id, cancel=engine_pb2.CancelDrawing()))

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled from here."""
        return self._cancelled

    def close(self) -> None:
        """Forgets the call."""
        self.cancel()
        self._stream.forget(self._call_id)

    def __aiter__(self) -> AsyncIterator[DrawingEvent]:
        return self

    async def __anext__(self) -> DrawingEvent:
        """The next event. Raises WorkerGone, and what the worker says: WorkersBusy, Draining, RequestCancelled, EngineFailed and so on."""
        if self._over:
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, Exception):
            self._over = True
            raise event
        self._over = isinstance(event, GenerationOutput)
        return event

    def take(self, response: engine_pb2.DrawResponse) -> None:
        """An answer from the worker. Steps and previews that nobody fetches push out older ones, so a slow caller costs no memory."""
        self._started = True
        match response.WhichOneof("event"):
            case "progress":
                self._offer(from_progress(response.progress))
            case "preview":
                self._offer(from_preview(response.preview))
            case "output":
                self._events.put_nowait(response.output)
            case "error":
                self._events.put_nowait(from_status(response.error))

    def _offer(self, event: Progress | PreviewImage) -> None:
        if self._events.qsize() >= _WAITING_EVENTS:
            self._events.get_nowait()
        self._events.put_nowait(event)

    def fail(self) -> None:
        """The stream broke."""
        self._events.put_nowait(WorkerGone(started=self._started))


class _Stream:
    """The open stream to one worker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.broken = False
        self._outbox: asyncio.Queue[engine_pb2.DrawRequest] = asyncio.Queue()
        self._calls: dict[int, DrawCall] = {}
        self._last_id = 0
        self._wire: grpc.aio.StreamStreamCall[engine_pb2.DrawRequest, engine_pb2.DrawResponse] | None = None

    def start(self, order: DrawOrder) -> DrawCall:
        """Begins a call."""
        self._last_id += 1
        call = self._calls[self._last_id] = DrawCall(self, self._last_id)
        message = engine_pb2.StartDrawing(
            request_id=order.request_id,
            owner=order.owner,
            input=to_input(order.spec),
            work_class=_WORK_CLASSES[order.work_class],
            timeout=None if order.timeout is None else to_duration(order.timeout),
            include_progress=order.progress,
            include_previews=order.previews,
        )
        self.send(engine_pb2.DrawRequest(call_id=self._last_id, start=message))
        return call

    def send(self, message: engine_pb2.DrawRequest) -> None:
        """Sends a message soon. A call sends two at most, so what waits is bounded by the calls."""
        if not self.broken:
            self._outbox.put_nowait(message)

    def forget(self, call_id: int) -> None:
        """What still comes for the call is dropped."""
        self._calls.pop(call_id, None)

    async def run(self) -> None:
        """Hands answers to their calls until the stream breaks."""
        stream = self._wire = engine_pb2_grpc.EngineServiceStub(self.channel).Draw()
        try:
            async with task_group() as tasks:
                writing = tasks.create_task(self._write(stream))
                while isinstance(response := await stream.read(), engine_pb2.DrawResponse):
                    if call := self._calls.get(response.call_id):
                        call.take(response)
                writing.cancel()
        except grpc.aio.AioRpcError as err:
            _log.info("stream to a worker ended", extra={"code": err.code().name})
        finally:
            self.broken = True
            stream.cancel()
            for call in self._calls.values():
                call.fail()

    async def _write(self, stream: grpc.aio.StreamStreamCall[engine_pb2.DrawRequest, engine_pb2.DrawResponse]) -> None:
        """Sends what is in the outbox. By hand: the task that grpc would iterate a generator with outlives a broken stream."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # reading tells how it ended
            while True:
                await stream.write(await self._outbox.get())

    def close(self) -> None:
        """Breaks the stream off: its calls raise WorkerGone."""
        self.broken = True
        if self._wire is not None:
            self._wire.cancel()


class Engines:
    """Streams to workers, opened when they are needed. `async with`: closes them at the end.

    A worker that hangs, or whose host is gone, says nothing. After `ping_seconds` of silence it is asked, and after as many again its calls
    raise WorkerGone.
    """

    def __init__(self, *, ping_seconds: float = _PING_SECONDS) -> None:
        limit = int(ping_seconds * 1000)
        self._options = (
            *_CHANNEL_OPTIONS,
            ("grpc.keepalive_time_ms", limit),
            ("grpc.keepalive_timeout_ms", limit),
            # Also for pings that measure bandwidth: while one is on its way no other is sent.
            ("grpc.http2.ping_timeout_ms", limit),
        )
        self._streams: dict[str, _Stream] = {}
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Engines:
        self._tasks = await self._stack.enter_async_context(task_group())
        self._stack.callback(lambda: [task.cancel() for task in self._running])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    async def start(self, address: str, order: DrawOrder) -> DrawCall:
        """Begins to draw on a worker. Raises WorkerGone if it does not answer."""
        stream = self._streams.get(address)
        if stream is None or stream.broken:
            stream = await self._open(address)
        return stream.start(order)

    def forget(self, addresses: set[str]) -> None:
        """Closes the streams of workers that are not among `addresses`."""
        for address in [a for a in self._streams if a not in addresses]:
            self._streams.pop(address).close()

    async def _open(self, address: str) -> _Stream:
        assert self._tasks is not None, "Engines is not entered"
        channel = grpc.aio.insecure_channel(address, options=self._options)
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_SECONDS)
        except TimeoutError:
            await channel.close()
            raise WorkerGone(started=False) from None
        known = self._streams.get(address)
        if known is not None and not known.broken:  # somebody else was faster
            await channel.close()
            return known
        stream = self._streams[address] = _Stream(channel)
        task = self._tasks.create_task(self._keep(stream))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return stream

    async def _keep(self, stream: _Stream) -> None:
        try:
            await stream.run()
        finally:
            await stream.channel.close()
