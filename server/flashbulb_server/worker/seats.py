"""Drawings and lanes in flight, as the device thread sees them, and what core.batching is told of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashbulb_server.core.batching import Candidate, Waiting
from flashbulb_server.core.pace import pixels_of, work_of
from flashbulb_server.core.pipeline import Lane, Pixels, StepPipeline
from flashbulb_server.worker import encode
from flashbulb_server.worker.drawing import Drawing, Drawn, needs_check

PATIENCE = 60.0
"""Seconds after which a drawing without a deadline is as urgent as one whose deadline has come."""


@dataclass(slots=True, eq=False)
class Job:
    """A drawing in flight. `moved`: when each lane moved last; `pictures`: None until decoded; `neighbours`: lanes over all `calls`.

    `live`: whether it is a frame of a live session; `work` and `cost`: of a lane's step, as in core.batching.
    """

    drawing: Drawing
    pipeline: StepPipeline[Any]  # lanes belong to their pipeline; only it looks inside
    taken_in: float
    lanes: Sequence[Lane] = ()
    moved: list[float] = ()  # type: ignore[assignment]  # set with the lanes
    pictures: list[Pixels | None] = ()  # type: ignore[assignment]  # set with the lanes
    seats: Sequence[Seat] = ()
    prepared: float = 0.0
    denoised: float = 0.0
    calls: int = 0
    neighbours: int = 0
    ended: bool = False
    live: bool = field(init=False)
    model: str = field(init=False)
    work: float = field(init=False)
    cost: float = field(init=False)
    due: float = field(init=False)

    def __post_init__(self) -> None:
        spec, info = self.drawing.spec, self.pipeline.info
        self.live, self.model, self.due = self.drawing.live, spec.model_name, due(self.drawing)
        self.work, self.cost = work_of(spec, info), pixels_of(spec, info)

    @property
    def finished(self) -> bool:
        """Whether every picture is decoded."""
        return all(picture is not None for picture in self.pictures)

    def begin(self, lanes: Sequence[Lane], now: float) -> None:
        """Takes its lanes."""
        self.prepared = now
        self.lanes, self.moved, self.pictures = lanes, [now] * len(lanes), [None] * len(lanes)
        self.seats = [Seat(self, index) for index in range(len(lanes))]

    def checked(self) -> tuple[tuple[Pixels, ...], tuple[bool, ...]]:
        """The pictures, flagged ones black, and the flags. On the device thread: it calls the pipeline."""
        spec = self.drawing.spec
        pictures = [picture for picture in self.pictures if picture is not None]
        flags = (False,) * len(pictures)
        if needs_check(spec, self.pipeline.info):
            version = self.pipeline.info.checker(spec.safety_checker_version)
            assert version is not None, "the engine refuses what cannot be checked"
            flags = tuple(self.pipeline.check(pictures, version))
        return tuple(np.zeros_like(p) if flag else p for p, flag in zip(pictures, flags, strict=True)), flags

    def drawn(self, shown: tuple[Pixels, ...], flags: tuple[bool, ...], *, decoded: float, now: float) -> Drawn:
        """What the caller gets."""
        timings = {
            "wait": self.taken_in - self.drawing.asked,
            "encode_prompt": self.prepared - self.taken_in,
            "denoise": self.denoised - self.prepared,
            "decode": decoded - self.denoised,
            "safety": now - decoded,
            "inference": decoded - self.taken_in,
        }
        height, width, _ = shown[0].shape
        info, mean = self.pipeline.info, self.neighbours / self.calls
        return Drawn(shown, flags, timings, mean, width, height, *self.drawing.size, info.fidelity, info.backend)


@dataclass(frozen=True, slots=True)
class Seat:
    """A lane in flight: picture `index` of `job`."""

    job: Job
    index: int

    @property
    def lane(self) -> Lane:
        """The lane itself."""
        return self.job.lanes[self.index]

    @property
    def bucket(self) -> Hashable:
        """Seats of equal bucket may share a call. A model's pipeline may have been replaced while drawings of the old one are in flight."""
        return (id(self.job.pipeline), self.lane.bucket)

    @property
    def denoised(self) -> bool:
        """Whether all its steps are done."""
        return self.lane.step >= self.lane.total_steps

    def preview(self) -> bytes:
        """A small file of the picture as it is. On the device thread."""
        return encode.preview(self.job.pipeline.preview(self.lane))

    def candidate(self, now: float) -> Candidate:
        """As the planner wants it."""
        job, drawing = self.job, self.job.drawing
        return Candidate(
            self.bucket,
            drawing.work_class,
            drawing.owner,
            job.model,
            job.work,
            job.cost,
            job.due,
            drawing.order,
            now - job.moved[self.index],
        )


def waiting(drawing: Drawing, pipeline: StepPipeline[Any], lanes: Sequence[Lane] | None = None) -> Waiting:
    """A drawing as the planner wants it: all of its steps to do, or those that its lanes have left."""
    if lanes is None:
        steps = drawing.spec.num_images * drawing.total_steps
    else:
        steps = sum(lane.total_steps - lane.step for lane in lanes)
    cost = steps * pixels_of(drawing.spec, pipeline.info)
    return Waiting(drawing.work_class, drawing.owner, drawing.spec.num_images, cost, due(drawing), drawing.order)


def due(drawing: Drawing) -> float:
    """When it should be finished. The far end of patience keeps those without a deadline from starving among those with one."""
    latest = drawing.asked + PATIENCE
    return latest if drawing.deadline is None else min(drawing.deadline, latest)


def jobs_of(seats: Iterable[Seat]) -> list[Job]:
    """The drawings of seats, each once."""
    return list(dict.fromkeys(seat.job for seat in seats))
