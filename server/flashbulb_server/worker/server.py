"""Direct drawings for the api, many at once over one connection. One that breaks cancels its drawings at the next step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from flashbulb.internal.v1 import engine_pb2
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import Draining
from flashbulb_server.wire.link import Link, listen
from flashbulb_server.wire.status import to_status
from flashbulb_server.worker.calls import Call, Means
from flashbulb_server.worker.delivery import Delivery
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.inputs import Inputs


class EngineServicer:
    """The engine for apis. `connection` makes the worker's end of a connection; `ended` is set while there is none."""

    def __init__(self, engine: StepEngine, inputs: Inputs, delivery: Delivery) -> None:
        self._means = Means(engine, inputs, delivery)
        self._streams: set[_Stream] = set()
        self._draining = False
        self._tasks: asyncio.TaskGroup | None = None
        self.ended = asyncio.Event()
        self.ended.set()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Owns the drawings; on exit those that are left are stopped."""
        async with task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                for stream in self._streams.copy():
                    stream.break_off()

    def connection(self) -> Link[engine_pb2.DrawRequest]:
        """A new one, to be served until the api closes it, or until the worker drains and its last drawing has ended."""
        assert self._tasks is not None, "the servicer is not working"
        stream = _Stream(self._means, self._tasks, self._gone)
        self._streams.add(stream)
        self.ended.clear()
        if self._draining:
            stream.drain()
        return stream.link

    def drain(self) -> None:
        """Refuses new drawings; connections end with their last one."""
        self._draining = True
        for stream in self._streams.copy():
            stream.drain()

    def _gone(self, stream: _Stream) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self.ended.set()


class _Stream:
    """The drawings of one api."""

    def __init__(self, means: Means, tasks: asyncio.TaskGroup, gone: Callable[[_Stream], None]) -> None:
        # An api that does not read gets nothing more drawn: pictures that it was not sent yet are all that it costs.
        self.link = Link(engine_pb2.DrawRequest, self._take, self._lost, holds_back=True)
        self._means = means
        self._tasks = tasks
        self._gone = gone
        self._calls: dict[int, Call] = {}
        self._draining = False

    def drain(self) -> None:
        """Ends the connection once nothing is being drawn."""
        self._draining = True
        if not self._calls:
            self.link.close()

    def break_off(self) -> None:
        """Ends the connection at once, and all that is being drawn."""
        self.link.abort()
        self._stop()

    def _stop(self) -> None:
        for call in list(self._calls.values()):
            call.stop()

    def _lost(self) -> None:
        self._stop()
        self._gone(self)

    def _take(self, request: engine_pb2.DrawRequest) -> None:
        call_id = request.call_id
        call = self._calls.get(call_id)
        if request.HasField("cancel") and call is not None:
            call.cancel()
        elif request.HasField("start") and call is None:
            if self._draining:
                self.link.send(engine_pb2.DrawResponse(call_id=call_id, error=to_status(Draining())))
                return
            call = self._calls[call_id] = Call(
                call_id, request.start, self._means, self._tasks, tell=self._tell, answered=self._answered
            )
            call.begin()

    def _answered(self, call: Call, response: engine_pb2.DrawResponse) -> None:
        self._calls.pop(call.call_id, None)
        self.link.send(response)
        if self._draining and not self._calls:
            self.link.close()

    def _tell(self, response: engine_pb2.DrawResponse) -> None:
        """Sends what an api can do without when it does not read."""
        if not self.link.congested:
            self.link.send(response)


@asynccontextmanager
async def serve_engine(servicer: EngineServicer, address: str, *, drain_seconds: float) -> AsyncIterator[str]:
    """Serves while the context is open; gives the address that was bound. On exit drawings may go on for `drain_seconds`.

    Raises OSError if the address is taken.
    """
    async with servicer.working(), listen(address, servicer.connection) as bound:
        try:
            yield bound
        finally:
            servicer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_seconds):
                    await servicer.ended.wait()
