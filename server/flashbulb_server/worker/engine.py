"""The step engine: continuous batching at the granularity of one denoising step, over everything in flight.

This is the event loop's side: it takes generations, bounds what waits, and tells how busy the engine is. The device thread's side is
worker.device; a thread-safe queue leads there, `call_soon_threadsafe` leads back, and nothing else is shared.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.pace import Pace, work_of
from flashbulb_server.core.pipeline import StepPipeline
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
from flashbulb_server.worker.drawing import Drawing, Drawn, fail, needs_check

logger = logging.getLogger(__name__)

WAITING_PER_SLOT = 4
"""Pictures that may wait in the engine for each one that may be in flight; beyond them callers are told to come back."""


class StepEngine:
    """Draws on one device. `async with` starts its thread; leaving cancels what is open and waits for the call that runs.

    `capacity`: pictures in flight at once (a drawing of more than that is drawn alone); `max_batch`: lanes in one network call at most;
    `clock`: monotonic seconds.
    """

    def __init__(
        self,
        pipelines: Mapping[str, StepPipeline[Any]],  # an engine mixes pipelines with lanes of different types
        *,
        capacity: int,
        max_batch: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self._pipelines = dict(pipelines)
        self._max_batch = max_batch
        self._clock = clock
        self._pace = Pace()
        self._device = Device(
            self._pipelines, capacity=capacity, max_batch=max_batch, pace=self._pace, clock=clock, post=self._post
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

    @property
    def in_flight(self) -> int:
        """Pictures in flight now."""
        return self._device.in_flight

    @property
    def waiting(self) -> int:
        """Pictures that wait for room."""
        return max(0, self._open_pictures() - self._device.in_flight)

    @property
    def broken(self) -> bool:
        """True after a fault of the engine itself: it draws nothing more, and the process should be replaced."""
        return self._broken

    @property
    def seconds_per_image(self) -> float:
        """Mean busy seconds of the engine per finished picture, at the load of now. 0.0 before any."""
        return self._pace.seconds_per_image

    def estimate(self, spec: GenerationSpec) -> float:
        """Seconds until a new drawing of `spec` would be finished, 0.0 if its model has drawn nothing yet. Rough: it assumes today's load.

        Raises InvalidRequest if the model is not loaded.
        """
        pictures = self._open_pictures() + spec.num_images
        return self._pace.estimate(
            spec.model_name,
            steps=spec.num_inference_steps,
            pictures=spec.num_images,
            work=work_of(spec, self._pipeline(spec).info),
            lanes=min(pictures, self._max_batch, self.capacity),
            ahead=max(0, pictures - self.capacity),
        )

    def start(
        self,
        spec: GenerationSpec,
        *,
        work_class: WorkClass = WorkClass.QUEUED,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[PreviewImage], None] | None = None,
    ) -> Drawing:
        """Begins to draw; never blocks. Callbacks run on the event loop and must not block it.

        Raises InvalidRequest (the model is not loaded), SafetyCheckerUnavailable, Draining, EngineFailed (the engine is broken), or
        WorkersBusy when too many pictures wait already.
        """
        info = self._pipeline(spec).info
        if needs_check(spec, info) and spec.safety_checker_version not in info.safety_checker_versions:
            raise SafetyCheckerUnavailable(spec.safety_checker_version, info.safety_checker_versions)
        if self._loop is None or self._closing:
            raise Draining
        if self._broken:
            raise EngineFailed("the engine is broken")
        if self._open_pictures() >= self.capacity * (1 + WAITING_PER_SLOT):
            raise WorkersBusy(retry_after=max(0.5, self.capacity * self.seconds_per_image))
        drawing = Drawing(
            spec=spec,
            work_class=work_class,
            on_progress=on_progress,
            on_preview=on_preview,
            asked=self._clock(),
            order=self._arrived,
            outcome=self._loop.create_future(),
            wake=lambda: self._device.send(None),
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

    def _open_pictures(self) -> int:
        return sum(drawing.spec.num_images for drawing in self._open.values())

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
