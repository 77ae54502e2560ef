"""The step engine: continuous batching at the granularity of one denoising step, over everything in flight.

This is the event loop's side: it takes generations, bounds what waits, and tells how busy the engine is. The device thread's side is
worker.device; a thread-safe queue leads there, `call_soon_threadsafe` leads back, and nothing else is shared.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.pace import Pace, work_of
from flashbulb_server.core.pipeline import Sources, StepPipeline
from flashbulb_server.core.reserve import Reserve
from flashbulb_server.core.shares import WEIGHTS, Shares, WorkClass
from flashbulb_server.errors import (
    Draining,
    EngineFailed,
    FieldViolation,
    InvalidRequest,
    RequestCancelled,
    SafetyCheckerUnavailable,
    WorkersBusy,
)
from flashbulb_server.worker.device import Device
from flashbulb_server.worker.drawing import Drawing, Drawn, OnDrawn, fail, needs_check

logger = logging.getLogger(__name__)

WAITING_PER_SLOT = 4
"""Pictures that may wait in the engine for each one that may be in flight; beyond them callers are told to come back."""


class StepEngine:
    """Draws on one device. `async with` starts its thread; leaving cancels what is open and waits for the call that runs.

    `capacity`: pictures in flight at once (a drawing of more than that is drawn alone), and as many frames of live sessions beside them;
    `max_batch`: lanes in one network call at most; `key_weights`: shares of keys by their id, 1.0 where nothing is said;
    `realtime_share`: of the device's time, kept for frames while there are any; `clock`: monotonic seconds.
    """

    def __init__(
        self,
        pipelines: Mapping[str, StepPipeline[Any]],  # an engine mixes pipelines with lanes of different types
        *,
        capacity: int,
        max_batch: int = 16,
        key_weights: Mapping[str, float] | None = None,
        realtime_share: float = 0.8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self._pipelines = dict(pipelines)
        self._max_batch = max_batch
        self._clock = clock
        self._pace = Pace()
        self._shares = Shares(key_weights)
        self._reserve = Reserve(realtime_share)
        self._device = Device(
            self._pipelines,
            capacity=capacity,
            max_batch=max_batch,
            pace=self._pace,
            shares=self._shares,
            reserve=self._reserve,
            clock=clock,
            post=self._post,
        )
        self._thread = threading.Thread(target=self._run, name="flashbulb-device")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[asyncio.Future[Drawn], Drawing] = {}
        self._arrived = 0
        self._closing = False
        self._broken = False

    async def __aenter__(self) -> StepEngine:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._device.stop()
        try:
            await asyncio.to_thread(self._thread.join)
        finally:
            for outcome, drawing in list(self._open.items()):
                fail(outcome, RequestCancelled(drawing.step, drawing.total_steps))

    @property
    def models(self) -> list[ModelInfo]:
        """What the loaded models announce."""
        return [pipeline.info for pipeline in self._pipelines.values()]

    def replace(self, name: str, pipeline: StepPipeline[Any]) -> None:
        """Draws what is taken in from now on with another pipeline of a model. Pictures in flight stay with the one that began them."""
        self._pipelines[name] = pipeline  # the device thread looks there once for every drawing

    @property
    def in_flight(self) -> int:
        """Pictures in flight now."""
        return self._device.in_flight

    @property
    def waiting(self) -> int:
        """Pictures that wait for room."""
        return max(0, sum(drawing.spec.num_images for drawing in self._open.values()) - self._device.in_flight)

    @property
    def broken(self) -> bool:
        """True after a fault of the engine itself: it draws nothing more, and the process should be replaced."""
        return self._broken

    @property
    def seconds_per_image(self) -> float:
        """Mean busy seconds of the engine per finished picture, at the load of now. 0.0 before any."""
        return self._pace.seconds_per_image

    def estimate(self, spec: GenerationSpec, *, work_class: WorkClass = WorkClass.QUEUED, owner: str = "") -> float:
        """Seconds until a new drawing of `spec` would be finished, 0.0 if its model has drawn nothing yet. Rough: it assumes today's load.

        Raises InvalidRequest if the model is not loaded.
        """
        live = work_class is WorkClass.REALTIME
        pictures = self._open_pictures(live=live) + spec.num_images
        before = self._before(work_class, owner, spec.num_images)
        seconds = self._pace.estimate(
            spec.model_name,
            steps=spec.steps,
            pictures=spec.num_images,
            work=work_of(spec, self._pipeline(spec).info),
            lanes=min(pictures, self._max_batch, self.capacity),
            ahead=max(0.0, before + spec.num_images - self.capacity),
        )
        return seconds if live else seconds * self._reserve.slowdown

    def start(
        self,
        spec: GenerationSpec,
        *,
        sources: Sources | None = None,
        work_class: WorkClass = WorkClass.QUEUED,
        owner: str = "",
        deadline: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[PreviewImage], None] | None = None,
        on_drawn: OnDrawn | None = None,
    ) -> Drawing:
        """Begins to draw; never blocks. `sources`: the pictures of the spec, if it has any. Callbacks must not block: `on_drawn` runs on the
        device thread, once the pictures are there; the others run on the event loop.

        `owner`: id of the key whose share pays for it. `deadline`: seconds on the engine's clock, after which it is ended with
        RequestCancelled at the next step; of one key's drawings the earliest deadline comes first.

        Raises InvalidRequest (the model is not loaded), SafetyCheckerUnavailable, Draining, EngineFailed (the engine is broken), or
        WorkersBusy when too many pictures wait already.
        """
        info = self._pipeline(spec).info
        if needs_check(spec, info) and info.checker(spec.safety_checker_version) is None:
            raise SafetyCheckerUnavailable(spec.safety_checker_version, info.safety_checker_versions)
        if self._loop is None or self._closing:
            raise Draining
        if self._broken:
            raise EngineFailed("the engine is broken")
        if self._open_pictures(live=work_class is WorkClass.REALTIME) >= self.capacity * (1 + WAITING_PER_SLOT):
            raise WorkersBusy(retry_after=max(0.5, self.capacity * self.seconds_per_image))
        drawing = Drawing(
            spec=spec,
            sources=sources,
            work_class=work_class,
            on_progress=on_progress,
            on_preview=on_preview,
            asked=self._clock(),
            order=self._arrived,
            outcome=self._loop.create_future(),
            wake=lambda: self._device.send(None),
            owner=owner,
            deadline=deadline,
            on_drawn=on_drawn,
        )
        self._arrived += 1
        self._open[drawing.outcome] = drawing
        drawing.outcome.add_done_callback(self._open.pop)
        self._device.send(drawing)
        return drawing

    def _pipeline(self, spec: GenerationSpec) -> StepPipeline[Any]:
        try:
            return self._pipelines[spec.model_name]
        except KeyError:
            names = ", ".join(sorted(self._pipelines)) or "none"
            problem = FieldViolation("model_name", f"{spec.model_name!r} is not installed; installed: {names}")
            raise InvalidRequest([problem]) from None

    def _open_pictures(self, *, live: bool) -> int:
        """Of frames of live sessions, or of everything else: neither fills the places of the other."""
        return sum(d.spec.num_images for d in self._open.values() if d.live == live)

    def _before(self, work_class: WorkClass, owner: str, pictures: int) -> float:
        """Pictures that are finished before `pictures` new ones: those of its key, and of the others what their weights give them."""
        held: Counter[tuple[WorkClass, str]] = Counter()
        for drawing in self._open.values():
            held[drawing.work_class, drawing.owner] += drawing.spec.num_images
        mine = held[work_class, owner] + pictures
        weigh = self._shares.weight
        same = sum(
            min(count, mine * weigh(key) / weigh(owner))
            for (kind, key), count in held.items()
            if kind is work_class and key != owner
        )
        before = held[work_class, owner] + same
        for kind in {WorkClass.DIRECT, WorkClass.QUEUED} - {work_class} if work_class is not WorkClass.REALTIME else ():
            count = sum(n for (k, _), n in held.items() if k is kind)
            before += min(count, (before + pictures) * WEIGHTS[kind] / WEIGHTS[work_class])
        return before

    def _run(self) -> None:
        """The device thread's target."""
        try:
            self._device.run()
        except Exception:
            logger.exception("the step engine is broken")
            self._post(self._break)

    def _break(self) -> None:
        self._broken = True
        for outcome in list(self._open):
            fail(outcome, EngineFailed())

    def _post(self, call: Callable[..., object], *arguments: object) -> None:
        """From the device thread: runs `call` on the event loop, soon."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(call, *arguments)
