"""The api's side of the engine's protocol: one connection a worker, shared by all calls to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from flashbulb.internal.v1 import engine_pb2
from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.similarity import Comparison
from flashbulb_server.wire.inputs import to_input
from flashbulb_server.wire.link import Link, connect
from flashbulb_server.wire.outputs import from_preview, from_progress
from flashbulb_server.wire.status import from_status
from flashbulb_server.wire.times import to_duration

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


@dataclass(frozen=True, slots=True)
class SourceSeen:
    """The picture to start from is not similar to what it was compared with."""

    thumbnail: bytes


class SourceSimilar(Exception):
    """Nothing is drawn: the picture to start from hardly differs from what it was compared with."""


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
    comparison: Comparison | None = None


class DrawCall:
    """One call to a worker. Iterate it: the result comes last. `close` it in any case; an unfinished one is then cancelled."""

    def __init__(self, stream: _Stream, call_id: int) -> None:
        self._stream = stream
        self._call_id = call_id
        self._events: asyncio.Queue[DrawingEvent | SourceSeen | Exception] = asyncio.Queue()
        self._started = False
        self._over = False
        self._cancelled = False

    def cancel(self) -> None:
        """Stops it at the next step; iterating then raises RequestCancelled, which tells the step. Without effect once it is over."""
        if not self._over and not self._cancelled:
            self._cancelled = True
            self._stream.cancel(self._call_id)

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled from here."""
        return self._cancelled

    def close(self) -> None:
        """Forgets the call."""
        self.cancel()
        self._stream.forget(self._call_id)

    def __aiter__(self) -> AsyncIterator[DrawingEvent | SourceSeen]:
        return self

    async def __anext__(self) -> DrawingEvent | SourceSeen:
        """The next event. Raises WorkerGone, SourceSimilar, and what the worker says: WorkersBusy, Draining, RequestCancelled, EngineFailed and so on."""
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
            case "seen":
                self._events.put_nowait(SourceSeen(response.seen.thumbnail))
            case "similar":
                self._events.put_nowait(SourceSimilar())

    def _offer(self, event: Progress | PreviewImage) -> None:
        if self._events.qsize() >= _WAITING_EVENTS:
            self._events.get_nowait()
        self._events.put_nowait(event)

    def fail(self) -> None:
        """The connection broke."""
        self._events.put_nowait(WorkerGone(started=self._started))


class _Stream:
    """The open connection to one worker."""

    def __init__(self, ping_seconds: float) -> None:
        self.link = Link(engine_pb2.DrawResponse, self._take, self._fail, ask_seconds=ping_seconds)
        self.broken = False
        self._calls: dict[int, DrawCall] = {}
        self._last_id = 0

    def start(self, order: DrawOrder) -> DrawCall:
        """Begins a call."""
        self._last_id += 1
        call = self._calls[self._last_id] = DrawCall(self, self._last_id)
        message = engine_pb2.StartDrawing(
            request_id=order.request_id,
            owner=order.owner,
            input=to_input(order.spec),
            model_name=order.spec.model_name,
            work_class=_WORK_CLASSES[order.work_class],
            timeout=None if order.timeout is None else to_duration(order.timeout),
            include_progress=order.progress,
            include_previews=order.previews,
            comparison=None if order.comparison is None else _to_comparison(order.comparison),
        )
        self.link.send(engine_pb2.DrawRequest(call_id=self._last_id, start=message))
        return call

    def cancel(self, call_id: int) -> None:
        """Stops a call at its next step."""
        self.link.send(engine_pb2.DrawRequest(call_id=call_id, cancel=engine_pb2.CancelDrawing()))

    def forget(self, call_id: int) -> None:
        """What still comes for the call is dropped."""
        self._calls.pop(call_id, None)

    def close(self) -> None:
        """Breaks the connection off: its calls raise WorkerGone."""
        self.link.abort()
        self._fail()

    def _take(self, response: engine_pb2.DrawResponse) -> None:
        if call := self._calls.get(response.call_id):
            call.take(response)

    def _fail(self) -> None:
        self.broken = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail()


class Engines:
    """Connections to workers, opened when they are needed. `async with`: closes them at the end.

    A worker that hangs, or whose host is gone, says nothing. After `ping_seconds` of silence it is asked, and after as many again its calls
    raise WorkerGone.
    """

    def __init__(self, *, ping_seconds: float = _PING_SECONDS) -> None:
        self._ping_seconds = ping_seconds
        self._streams: dict[str, _Stream] = {}

    async def __aenter__(self) -> Engines:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget(set())

    async def start(self, address: str, order: DrawOrder) -> DrawCall:
        """Begins to draw on a worker. Raises WorkerGone if it does not answer."""
        stream = self._streams.get(address)
        if stream is None or stream.broken:
            stream = await self._open(address)
        if stream.broken:  # as soon as it was open
            raise WorkerGone(started=False)
        return stream.start(order)

    def forget(self, addresses: set[str]) -> None:
        """Closes the connections to workers that are not among `addresses`."""
        for address in [a for a in self._streams if a not in addresses]:
            self._streams.pop(address).close()

    async def _open(self, address: str) -> _Stream:
        stream = _Stream(self._ping_seconds)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await connect(address, stream.link)
        except (TimeoutError, OSError) as err:
            _log.info("a worker does not answer", extra={"address": address, "problem": str(err)})
            raise WorkerGone(started=False) from None
        known = self._streams.get(address)
        if known is not None and not known.broken:  # somebody else was faster
            stream.close()
            return known
        self._streams[address] = stream
        return stream


def _to_comparison(comparison: Comparison) -> engine_pb2.Comparison:
    return engine_pb2.Comparison(thumbnail=comparison.thumbnail, threshold=comparison.threshold)
