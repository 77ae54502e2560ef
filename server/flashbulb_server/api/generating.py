"""Direct drawing: picks a worker and passes on what it draws. Nothing is queued and nothing is recorded."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from dataclasses import dataclass

from flashbulb_server.api.engines import DrawCall, DrawingEvent, DrawOrder, Engines, SourceSeen, WorkerGone
from flashbulb_server.api.stand_ins import log_stand_in
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.core.similarity import Comparison
from flashbulb_server.errors import Draining, FlashbulbError, NewerRelease, NoWorker, WorkersBusy
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.wire.records import Announcement


@dataclass(frozen=True, slots=True)
class DirectCall:
    """How to draw. `timeout`: seconds that the caller still waits, None for ever."""

    owner: str
    timeout: float | None = None
    progress: bool = False
    previews: bool = False
    runner_hint: str = ""
    work_class: WorkClass = WorkClass.DIRECT
    comparison: Comparison | None = None


class Generating:
    """The use-case. `clock` gives unix seconds."""

    def __init__(self, fleet: Fleet, engines: Engines, *, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._engines = engines
        self._clock = clock

    async def generate(self, spec: GenerationSpec, call: DirectCall) -> AsyncGenerator[DrawingEvent, None]:
        """What the worker sends; the result is last. A worker that refuses, or is lost before it said anything, is replaced by another.

        Closing the generator stops the drawing at the next step. Raises NoWorker, WorkersBusy, EngineFailed.
        """
        log_stand_in(spec)
        refusal: FlashbulbError = NoWorker()
        for worker in self._candidates(spec, call.runner_hint):
            started = False
            try:
                with closing(await self._engines.start(worker.address, self._order(spec, call))) as drawing:
                    async for event in drawing:
                        started = True
                        if not isinstance(event, SourceSeen):
                            yield event
                return
            except WorkerGone as err:
                if started:
                    # Without a hint to try again: it would be drawn, and paid for, a second time.
                    raise NoWorker("the worker was lost while drawing", retry_after=None) from err
            except (Draining, NewerRelease, WorkersBusy) as err:
                refusal = err
        raise refusal

    async def start(self, spec: GenerationSpec, call: DirectCall) -> DrawCall:
        """A call that a worker was sent; to be closed by the caller. Raises NoWorker."""
        for worker in self._candidates(spec, call.runner_hint):
            try:
                return await self._engines.start(worker.address, self._order(spec, call))
            except WorkerGone:
                continue
        raise NoWorker

    def _order(self, spec: GenerationSpec, call: DirectCall) -> DrawOrder:
        return DrawOrder(
            request_id=new_request_id(self._clock()),
            owner=call.owner,
            spec=spec,
            work_class=call.work_class,
            timeout=call.timeout,
            progress=call.progress,
            previews=call.previews,
            comparison=call.comparison,
        )

    def _candidates(self, spec: GenerationSpec, hint: str) -> list[Announcement]:
        """Workers that have the model: the hinted one first while it has room, then by load."""
        self._engines.forget(self._fleet.addresses())
        able = [worker for worker in self._fleet.workers() if spec.model_name in worker.models]
        able.sort(key=lambda w: (w.in_flight / w.capacity, w.worker_id))
        if hint and able:
            # Rendezvous hashing: a hint keeps its worker when others come or go.
            favourite = max(able, key=lambda w: hashlib.sha256(f"{hint}\0{w.worker_id}".encode()).digest())
            if favourite.in_flight < favourite.capacity:
                able.remove(favourite)
                able.insert(0, favourite)
        return able
