"""The device thread, the only one that may touch the accelerator: moves drawings through their stages, turn by turn.

1. Every turn: take what arrived, let go what was cancelled or is too late, take in what waits while there is room, then make one call:
   decode what is denoised, or else one step.
2. Who shares the call and who comes in next is decided by core.batching.
3. A pipeline's exception ends the drawings in that call, and only they. Several in a row are the device's fault: it is given up.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from flashbulb_server.core.batching import Plan, next_in, plan_batch
from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.pace import Pace
from flashbulb_server.core.pipeline import DeviceLost, Lane, StepPipeline
from flashbulb_server.core.reserve import Reserve
from flashbulb_server.core.shares import Shares
from flashbulb_server.errors import EngineFailed, FlashbulbError, RequestCancelled
from flashbulb_server.worker.drawing import Drawing, Drawn, fail, succeed
from flashbulb_server.worker.seats import Job, Seat, jobs_of, waiting

logger = logging.getLogger(__name__)
T = TypeVar("T")

PREVIEW_SHARE = 0.1
"""Share of a network call's time that previews may add to it. One is always taken when nothing waits."""

MAX_FAILURES = 3
"""Failing calls in a row, of different drawings, after which the device is taken to be broken: errors of an accelerator stay."""


class Device:
    """What runs on the device thread. `post` hands a call to the event loop; `in_flight` (pictures) may be read from anywhere."""

    def __init__(
        self,
        pipelines: Mapping[str, StepPipeline[Any]],
        *,
        capacity: int,
        max_batch: int,
        pace: Pace,
        shares: Shares,
        reserve: Reserve,
        clock: Callable[[], float],
        post: Callable[..., None],
    ) -> None:
        self._pipelines = pipelines
        self._capacity = capacity
        self._max_batch = max_batch
        self._pace = pace
        self._shares = shares
        self._reserve = reserve
        self._clock = clock
        self._post = post
        self._inbox: queue.SimpleQueue[Drawing | None] = queue.SimpleQueue()  # None only wakes
        self._stopping = False
        self._waiting: list[Drawing] = []
        self._jobs: list[Job] = []
        self._previews = 0
        self._failures = 0
        self._taken = {True: 0, False: 0}  # pictures in flight: of frames, and of everything else
        self._changed = False  # who asks for anything
        self.in_flight = 0

    def send(self, drawing: Drawing | None) -> None:
        """From the event loop: hands a drawing over; None makes the thread look at what was cancelled."""
        self._inbox.put(drawing)

    def stop(self) -> None:
        """From the event loop: `run` returns after the call that runs now. What is open then stays unanswered."""
        self._stopping = True
        self._inbox.put(None)

    def run(self) -> None:
        """Turns until `stop`. Raises DeviceLost when nothing more can be drawn, anything else only after a fault of its own."""
        try:
            while not self._stopping:
                self.turn()
        finally:
            self.in_flight = 0

    def turn(self) -> None:
        """One call of a pipeline, and all that goes before and after. Waits for work when there is none."""
        self._receive()
        self._let_go()
        if self._changed:
            self._changed = False
            self._shares.settle({(d.work_class, d.owner) for d in self._open()})
        while self._waiting and not self._stopping and self._take_in():
            pass
        self._reserve.look(self._clock(), frames=self._taken[True] > 0 or any(d.live for d in self._waiting))
        denoised: list[Seat] = []
        steps: list[Seat] = []
        for job in self._jobs:
            for seat in job.seats:
                if job.pictures[seat.index] is None:
                    (denoised if seat.denoised else steps).append(seat)
        if self._stopping:
            return
        if finishing := self._finishing(denoised, steps):
            self._finish(finishing)
        elif denoised:  # the others save up for decoding; what is in flight is finished before more is begun
            self._step([seat for seat in steps if seat.job.live], wanted=self._decode_seconds(denoised[0]))
        elif steps:
            self._step(steps)

    def _open(self) -> list[Drawing]:
        return [*self._waiting, *(job.drawing for job in self._jobs)]

    def _receive(self) -> None:
        """Takes what arrived; waits for something when there is nothing to draw."""
        try:
            item = self._inbox.get(block=not (self._jobs or self._waiting))
            while True:
                if item is not None:
                    self._waiting.append(item)
                    self._changed = True
                item = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _let_go(self) -> None:
        """Ends the drawings that were cancelled, and those that nobody waits for any more."""
        now = self._clock()
        for drawing in [d for d in self._waiting if d.given_up(now)]:
            self._waiting.remove(drawing)
            self._changed = True
            self._post(fail, drawing.outcome, RequestCancelled(0, drawing.total_steps))
        for job in [j for j in self._jobs if j.drawing.given_up(now)]:
            self._end(job, RequestCancelled(job.drawing.step, job.drawing.total_steps))

    def _take_in(self) -> bool:
        """Prepares the next waiting drawing. False when the next call should not wait for more of them."""
        drawing = self._next_in()
        if drawing is None:
            return False
        self._waiting.remove(drawing)
        job = Job(drawing, self._pipelines[drawing.spec.model_name], self._clock())
        self._jobs.append(job)
        self._count(job, 1)
        lanes = self._attempt([job], partial(job.pipeline.prepare, drawing.spec, drawing.sources))
        if lanes is not None:
            drawing.total_steps = max(lane.total_steps for lane in lanes)
            job.begin(lanes, self._clock())
        return job.live or not self._reserve.live  # one at a time: a frame may be in flight, and preparing takes time

    def _next_in(self) -> Drawing | None:
        """The waiting drawing whose turn it is and that has room."""
        able = [d for d in self._waiting if self._taken[d.live] < self._capacity]
        if len(able) == 1 and not self._taken[able[0].live]:  # nobody to weigh it against
            return able[0]
        choice = next_in(
            [waiting(d, self._pipelines[d.spec.model_name]) for d in able],
            in_flight=[waiting(job.drawing, job.pipeline, job.lanes) for job in self._jobs] if able else (),
            shares=self._shares,
            capacity=self._capacity,
        )
        return None if choice is None else able[choice]

    def _finishing(self, denoised: Sequence[Seat], steps: Sequence[Seat]) -> list[Seat]:
        """Those of `denoised` that are decoded now, of one bucket: frames at once, others as soon as their share allows."""
        frames = [seat for seat in denoised if seat.job.live]
        ready = frames or denoised
        if not ready:
            return []
        ready = [seat for seat in ready if seat.bucket == ready[0].bucket]
        if frames or not self._reserve.live:
            return ready
        if any(seat.job.live for seat in steps) and not self._reserve.affords(self._decode_seconds(ready[0])):
            return []
        return ready[:1]  # one at a time: a frame may come at any moment

    def _decode_seconds(self, seat: Seat) -> float:
        return self._pace.finish_seconds(seat.job.model, 1, work=seat.job.work)

    def _step(self, seats: Sequence[Seat], *, wanted: float = 0.0) -> None:
        """One network call over those of `seats` whose turn it is, and what follows from it. `wanted`: as in Reserve.earn."""
        began = self._clock()
        lanes = [seat.candidate(began) for seat in seats]
        plan = plan_batch(lanes, shares=self._shares, pace=self._pace, reserve=self._reserve, max_batch=self._max_batch)
        batch = [seats[index] for index in plan.lanes]
        jobs = jobs_of(batch)
        ended = self._attempt(jobs, partial(self._call, jobs[0].pipeline, [seat.lane for seat in batch]))
        if ended is None:
            return
        self._failures = 0
        self._pace.observe_call(jobs[0].model, len(batch), work=jobs[0].work, seconds=ended - began)
        for index in plan.lanes:
            self._shares.charge(lanes[index])
        self._settle(plan, batch, seconds=ended - began, wanted=wanted)
        for seat in batch:
            seat.job.moved[seat.index] = ended
        for job in jobs:
            job.calls += 1
            job.neighbours += len(batch)
            self._report(job, ended)
        self._preview(batch, seconds=(ended - began) * PREVIEW_SHARE)

    def _settle(self, plan: Plan, batch: Sequence[Seat], *, seconds: float, wanted: float) -> None:
        """Enters a call in the account of what is reserved."""
        if not plan.frames:
            self._reserve.spend(seconds)
            return
        steps, alone = batch[0].lane.total_steps, plan.alone or seconds
        self._reserve.earn(alone, steps=steps, extra=plan.extra, wanted=max(plan.wanted, wanted))

    def _call(self, pipeline: StepPipeline[Any], lanes: Sequence[Lane]) -> float:
        pipeline.step(lanes)
        return self._clock()

    def _report(self, job: Job, now: float) -> None:
        """Tells of a step once every picture of the drawing has done it."""
        drawing = job.drawing
        step = min(lane.step for lane in job.lanes)
        if step > drawing.step:
            drawing.step = step
            job.denoised = now
            if drawing.on_progress is not None and not drawing.cancelled:
                self._post(drawing.on_progress, Progress(step, drawing.total_steps))

    def _preview(self, batch: Sequence[Seat], *, seconds: float) -> None:
        """Takes previews while nothing waits, beginning at another lane every time so that each gets its share."""
        wanted = [
            seat
            for seat in batch
            if seat.job.drawing.on_preview is not None
            and not seat.denoised
            and (seat.job.live or not self._reserve.live)
        ]
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

    def _finish(self, seats: Sequence[Seat]) -> None:
        """Decodes denoised lanes together, and delivers the drawings of which nothing is left to do."""
        began = self._clock()
        jobs = jobs_of(seats)
        decoded = self._attempt(jobs, partial(self._decode, jobs[0].pipeline, seats))
        if decoded is None:
            return
        self._failures = 0
        drawn = [(job, self._check(job, decoded)) for job in jobs if job.finished]
        seconds = self._clock() - began
        self._pace.observe_finish(jobs[0].model, len(seats), work=jobs[0].work, seconds=seconds)
        (self._reserve.earn_finish if jobs[0].live else self._reserve.spend)(seconds)
        for job, answer in drawn:
            if answer is not None:
                self._leave(job)
                if job.drawing.on_drawn is not None:
                    job.drawing.on_drawn(answer, idle=not (self._jobs or self._waiting) and self._inbox.empty())
                self._post(succeed, job.drawing.outcome, answer)

    def _decode(self, pipeline: StepPipeline[Any], seats: Sequence[Seat]) -> float:
        pictures = pipeline.decode([seat.lane for seat in seats])
        for seat, picture in zip(seats, pictures, strict=True):
            seat.job.pictures[seat.index] = picture
        return self._clock()

    def _check(self, job: Job, decoded: float) -> Drawn | None:
        """What the caller gets, or None when the safety checker raised."""
        checked = self._attempt([job], job.checked)
        return None if checked is None else job.drawn(*checked, decoded=decoded, now=self._clock())

    def _attempt(self, jobs: Sequence[Job], call: Callable[[], T]) -> T | None:
        """What a pipeline's call gives, or None when it raised: then its drawings are ended. Raises DeviceLost."""
        try:
            return call()
        except FlashbulbError as err:  # the drawing is at fault, and the error says how
            self._end_all(jobs, err)
        except DeviceLost:
            self._end_all(jobs, EngineFailed())
            raise
        except Exception as err:
            logger.exception("drawing failed", extra={"drawings": len(jobs), "model": jobs[0].model})
            self._end_all(jobs, EngineFailed())
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise DeviceLost(f"{self._failures} calls failed in a row") from err
        return None

    def _end_all(self, jobs: Sequence[Job], error: FlashbulbError) -> None:
        for job in jobs:
            self._end(job, error)

    def _end(self, job: Job, error: FlashbulbError) -> None:
        self._leave(job)
        self._post(fail, job.drawing.outcome, error)

    def _leave(self, job: Job) -> None:
        job.ended = True
        self._jobs.remove(job)
        self._changed = True
        self._count(job, -1)

    def _count(self, job: Job, sign: int) -> None:
        self._taken[job.live] += sign * job.drawing.spec.num_images
        self.in_flight = self._taken[True] + self._taken[False]
