"""The device thread, the only one that may touch the accelerator: moves drawings through their stages, turn by turn.

1. Every turn: take what arrived, let cancelled drawings go, take in waiting ones while there is room, make one network call.
2. Who shares the call and who comes in next is decided by core.batching.
3. A pipeline's exception ends the drawings in that call, and only they.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from flashbulb_server.core.batching import Candidate, Waiting, next_in, plan_batch
from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.pace import Pace, work_of
from flashbulb_server.core.pipeline import Lane, Pixels, StepPipeline
from flashbulb_server.errors import EngineFailed, FlashbulbError, RequestCancelled
from flashbulb_server.worker import encode
from flashbulb_server.worker.drawing import Drawing, Drawn, fail, needs_check, succeed

logger = logging.getLogger(__name__)
T = TypeVar("T")

PREVIEW_SHARE = 0.1
"""Share of a network call's time that previews may add to it. One is always taken when nothing waits."""


@dataclass(slots=True, eq=False)
class _Job:
    """A drawing in flight. `moved`: when each lane moved last; `pictures`: None until decoded; `neighbours`: lanes over all `calls`."""

    drawing: Drawing
    pipeline: StepPipeline[Any]  # lanes belong to their pipeline; only it looks inside
    taken_in: float
    lanes: Sequence[Lane] = ()
    moved: list[float] = ()  # type: ignore[assignment]  # set with the lanes
    pictures: list[Pixels | None] = ()  # type: ignore[assignment]  # set with the lanes
    prepared: float = 0.0
    denoised: float = 0.0
    calls: int = 0
    neighbours: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Seat:
    """A lane in flight: picture `index` of `job`."""

    job: _Job
    index: int

    @property
    def lane(self) -> Lane:
        return self.job.lanes[self.index]

    @property
    def bucket(self) -> Hashable:
        return (self.job.drawing.spec.model_name, self.lane.bucket)

    def preview(self) -> bytes:
        return encode.preview(self.job.pipeline.preview(self.lane))


class Device:
    """What runs on the device thread. `post` hands a call to the event loop; `in_flight` (pictures) may be read from anywhere."""

    def __init__(
        self,
        pipelines: Mapping[str, StepPipeline[Any]],
        *,
        capacity: int,
        max_batch: int,
        pace: Pace,
        clock: Callable[[], float],
        post: Callable[..., None],
    ) -> None:
        self._pipelines = pipelines
        self._capacity = capacity
        self._max_batch = max_batch
        self._pace = pace
        self._clock = clock
        self._post = post
        self._inbox: queue.SimpleQueue[Drawing | None] = queue.SimpleQueue()  # None only wakes
        self._stopping = False
        self._waiting: list[Drawing] = []
        self._jobs: list[_Job] = []
        self._previews = 0
        self.in_flight = 0

    def send(self, drawing: Drawing | None) -> None:
        """From the event loop: hands a drawing over; None makes the thread look at what was cancelled."""
        self._inbox.put(drawing)

    def stop(self) -> None:
        """From the event loop: `run` returns after the call that runs now. What is open then stays unanswered."""
        self._stopping = True
        self._inbox.put(None)

    def run(self) -> None:
        """Turns until `stop`; raises only after a fault of its own."""
        try:
            while not self._stopping:
                self._receive()
                self._let_go()
                while not self._stopping and self._take_in():
                    pass
                seats = self._seats()
                if seats and not self._stopping:
                    self._step(seats)
        finally:
            self.in_flight = 0

    def _receive(self) -> None:
        """Takes what arrived; waits for something when there is nothing to draw."""
        try:
            item = self._inbox.get(block=not (self._jobs or self._waiting))
            while True:
                if item is not None:
                    self._waiting.append(item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _let_go(self) -> None:
        """Ends the drawings that were cancelled."""
        for drawing in [d for d in self._waiting if d.cancelled]:
            self._waiting.remove(drawing)
            self._post(fail, drawing.outcome, RequestCancelled(0, drawing.total_steps))
        for job in [j for j in self._jobs if j.drawing.cancelled]:
            self._end(job, RequestCancelled(job.drawing.step, job.drawing.total_steps))

    def _take_in(self) -> bool:
        """Prepares the next waiting drawing. False when none waits or there is no room."""
        now = self._clock()
        choice = next_in(
            [Waiting(d.work_class, d.spec.num_images, now - d.asked, d.order) for d in self._waiting],
            in_flight=self.in_flight,
            capacity=self._capacity,
        )
        if choice is None:
            return False
        drawing = self._waiting.pop(choice)
        job = _Job(drawing, self._pipelines[drawing.spec.model_name], now)
        self._jobs.append(job)
        self._count()
        lanes = self._attempt([job], partial(job.pipeline.prepare, drawing.spec))
        if lanes is not None:
            job.prepared = self._clock()
            job.lanes, job.moved, job.pictures = lanes, [job.prepared] * len(lanes), [None] * len(lanes)
        return True

    def _seats(self) -> list[_Seat]:
        """The lanes that have steps to do."""
        return [_Seat(job, i) for job in self._jobs for i, lane in enumerate(job.lanes) if lane.step < lane.total_steps]

    def _step(self, seats: Sequence[_Seat]) -> None:
        """One network call over those of `seats` whose turn it is, and what follows from it."""
        began = self._clock()
        chosen = plan_batch([_candidate(seat, began) for seat in seats], max_batch=self._max_batch)
        batch = [seats[index] for index in chosen]
        jobs = _jobs_of(batch)
        ended = self._attempt(jobs, partial(self._call, jobs[0].pipeline, [seat.lane for seat in batch]))
        if ended is None:
            return
        self._pace.observe_call(_model(jobs), len(batch), work=_work(jobs), seconds=ended - began)
        for seat in batch:
            seat.job.moved[seat.index] = ended
        for job in jobs:
            job.calls += 1
            job.neighbours += len(batch)
            self._report(job, ended)
        self._preview(batch, seconds=(ended - began) * PREVIEW_SHARE)
        self._finish([s for s in batch if s.lane.step >= s.lane.total_steps])

    def _call(self, pipeline: StepPipeline[Any], lanes: Sequence[Lane]) -> float:
        pipeline.step(lanes)
        return self._clock()

    def _report(self, job: _Job, now: float) -> None:
        """Tells of a step once every picture of the drawing has done it."""
        drawing = job.drawing
        step = min(lane.step for lane in job.lanes)
        if step > drawing.step:
            drawing.step = step
            job.denoised = now
            if drawing.on_progress is not None and not drawing.cancelled:
                self._post(drawing.on_progress, Progress(step, drawing.total_steps))

    def _preview(self, batch: Sequence[_Seat], *, seconds: float) -> None:
        """Takes previews while nothing waits, beginning at another lane every time so that each gets its share."""
        wanted = [s for s in batch if s.job.drawing.on_preview is not None and s.lane.step < s.lane.total_steps]
        if not wanted or self._waiting or not self._inbox.empty():
            return
        self._previews += 1
        end = self._clock() + seconds
        for offset in range(len(wanted)):
            seat = wanted[(self._previews + offset) % len(wanted)]
            content = None if seat.job.ended else self._attempt([seat.job], seat.preview)
            if content is not None:
                self._post(seat.job.drawing.on_preview, PreviewImage(seat.index, seat.lane.step, content))
            if self._clock() >= end:
                return

    def _finish(self, seats: Sequence[_Seat]) -> None:
        """Decodes finished lanes together, and delivers the drawings of which nothing is left to do."""
        seats = [s for s in seats if not (s.job.ended or s.job.drawing.cancelled)]
        if not seats:
            return
        began = self._clock()
        jobs = _jobs_of(seats)
        decoded = self._attempt(jobs, partial(self._decode, jobs[0].pipeline, seats))
        if decoded is None:
            return
        whole = [job for job in jobs if all(picture is not None for picture in job.pictures)]
        drawn = [(job, self._check(job, decoded)) for job in whole]
        self._pace.observe_finish(_model(jobs), len(seats), work=_work(jobs), seconds=self._clock() - began)
        for job, answer in drawn:
            if answer is not None:
                self._leave(job)
                self._post(succeed, job.drawing.outcome, answer)

    def _decode(self, pipeline: StepPipeline[Any], seats: Sequence[_Seat]) -> float:
        pictures = pipeline.decode([seat.lane for seat in seats])
        for seat, picture in zip(seats, pictures, strict=True):
            seat.job.pictures[seat.index] = picture
        return self._clock()

    def _check(self, job: _Job, decoded: float) -> Drawn | None:
        """What the caller gets, or None when the safety checker raised."""
        checked = self._attempt([job], partial(_checked, job))
        if checked is None:
            return None
        shown, flags = checked
        timings = {
            "wait": job.taken_in - job.drawing.asked,
            "encode_prompt": job.prepared - job.taken_in,
            "denoise": job.denoised - job.prepared,
            "decode": decoded - job.denoised,
            "safety": self._clock() - decoded,
            "inference": decoded - job.taken_in,
        }
        height, width, _ = shown[0].shape
        return Drawn(shown, flags, timings, job.neighbours / job.calls, width, height)

    def _attempt(self, jobs: Sequence[_Job], call: Callable[[], T]) -> T | None:
        """What a pipeline's call gives, or None when it raised: then its drawings are ended."""
        try:
            return call()
        except Exception:
            logger.exception("drawing failed", extra={"drawings": len(jobs), "model": _model(jobs)})
            for job in jobs:
                self._end(job, EngineFailed())
            return None

    def _end(self, job: _Job, error: FlashbulbError) -> None:
        self._leave(job)
        self._post(fail, job.drawing.outcome, error)

    def _leave(self, job: _Job) -> None:
        job.ended = True
        self._jobs.remove(job)
        self._count()

    def _count(self) -> None:
        self.in_flight = sum(job.drawing.spec.num_images for job in self._jobs)


def _checked(job: _Job) -> tuple[tuple[Pixels, ...], tuple[bool, ...]]:
    """The pictures, flagged ones black, and the flags."""
    spec = job.drawing.spec
    pictures = [picture for picture in job.pictures if picture is not None]
    flags = (False,) * len(pictures)
    if needs_check(spec, job.pipeline.info):
        flags = tuple(job.pipeline.check(pictures, spec.safety_checker_version))
    return tuple(np.zeros_like(p) if flag else p for p, flag in zip(pictures, flags, strict=True)), flags


def _model(jobs: Sequence[_Job]) -> str:
    return jobs[0].drawing.spec.model_name


def _work(jobs: Sequence[_Job]) -> float:
    return work_of(jobs[0].drawing.spec, jobs[0].pipeline.info)


def _candidate(seat: _Seat, now: float) -> Candidate:
    drawing = seat.job.drawing
    return Candidate(
        seat.bucket, drawing.work_class, now - drawing.asked, now - seat.job.moved[seat.index], drawing.order
    )


def _jobs_of(seats: Iterable[_Seat]) -> list[_Job]:
    return list(dict.fromkeys(seat.job for seat in seats))
