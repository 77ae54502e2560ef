"""When a request will be ready, from what workers have measured. Pure; spans in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_DELIVERY_SECONDS = 0.03  # encode, store, record: little beside drawing, and much the same everywhere


@dataclass(frozen=True, slots=True)
class WorkerPace:
    """What one worker says: seconds of engine time that a picture takes at its load of now, and pictures in flight."""

    seconds_per_image: float
    in_flight: int


def in_turns(position: int, waiting: Iterable[int]) -> int:
    """Requests that are started before one, where its model takes turns with others, of which so many requests wait."""
    return position + sum(min(other, position + 1) for other in waiting)


def queued_eta(position: int, pictures: int, workers: Sequence[WorkerPace]) -> float | None:
    """Span until a queued request is ready: all work ahead and its own, shared by the workers. None while nothing was measured.

    Requests ahead count as one picture each: the queue knows how many they are, not how large.
    """
    measured = [w for w in workers if w.seconds_per_image > 0]
    if not measured:
        return None
    images_per_second = sum(1 / w.seconds_per_image for w in measured)
    in_flight = sum(w.in_flight for w in workers)
    return (position + in_flight + pictures) / images_per_second + _DELIVERY_SECONDS


def running_eta(elapsed: float, step: int, total_steps: int, pictures: int, pace: WorkerPace | None) -> float | None:
    """Span until a running request is ready: its own pace so far, or the worker's before the first step."""
    if step > 0:
        return elapsed / step * (total_steps - step) + _DELIVERY_SECONDS
    if pace is None or pace.seconds_per_image <= 0:
        return None
    return max(0.0, pictures * pace.seconds_per_image - elapsed) + _DELIVERY_SECONDS
