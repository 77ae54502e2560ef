"""Direct generation: picks a worker and passes on what it draws. Nothing is queued and nothing is recorded."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from flashbulb_server.api.engines import Engines, WorkerGone
from flashbulb_server.core.generation import GenerationResult, GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.errors import NoWorker
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


class Generating:
    """The use-case. `clock` gives unix seconds."""

    def __init__(self, fleet: Fleet, engines: Engines, *, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._engines = engines
        self._clock = clock

    async def generate(
        self, spec: GenerationSpec, call: DirectCall
    ) -> AsyncGenerator[Progress | PreviewImage | GenerationResult, None]:
        """What the worker sends; the result is last. A worker that is lost before it said anything is replaced by another.

        Raises NoWorker, WorkersBusy, EngineFailed, TimeoutError.
        """
        request_id = new_request_id(self._clock())
        candidates = self._candidates(spec, call.runner_hint)
        await self._engines.forget(self._fleet.addresses())
        for worker in candidates:
            try:
                drawing = self._engines.run(
                    worker.address,
                    request_id=request_id,
                    owner=call.owner,
                    spec=spec,
                    progress=call.progress,
                    previews=call.previews,
                    timeout=call.timeout,
                )
                async with aclosing(drawing) as events:
                    async for event in events:
                        yield event
                return
            except WorkerGone as err:
                if err.started:
                    # Without a hint to try again: it would be drawn, and paid for, a second time.
                    raise NoWorker("the worker was lost while drawing", retry_after=None) from err
        raise NoWorker

    def _candidates(self, spec: GenerationSpec, hint: str) -> list[Announcement]:
        """Workers that have the model: the hinted one first while it has room, then by load."""
        able = [worker for worker in self._fleet.workers() if spec.model_name in worker.models]
        able.sort(key=lambda w: (w.in_flight / w.capacity, w.worker_id))
        if hint and able:
            # Rendezvous hashing: a hint keeps its worker when others come or go.
            favourite = max(able, key=lambda w: hashlib.sha256(f"{hint}\0{w.worker_id}".encode()).digest())
            if favourite.in_flight < favourite.capacity:
                able.remove(favourite)
                able.insert(0, favourite)
        return able
