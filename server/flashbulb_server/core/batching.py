"""Which lanes share the next call of the network, and which drawing comes in next. Pure: the clock's values come as arguments.

Fairness without state: what waits longer, times the weight of its class, comes first. The product grows without bound while something
waits, so nothing starves; a class of weight 16 gets about 16 turns for one of a class of weight 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class WorkClass(StrEnum):
    """How urgent a drawing is: a frame of a live session, a call that skips the queue, a request from the queue."""

    REALTIME = "realtime"
    DIRECT = "direct"
    QUEUED = "queued"


WEIGHTS: Mapping[WorkClass, float] = {WorkClass.REALTIME: 16.0, WorkClass.DIRECT: 4.0, WorkClass.QUEUED: 1.0}
"""A second of waiting counts so many times."""

_LEAST_WAIT = 1e-6
"""Seconds that everything has waited at least, so that classes differ from the first instant."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lane that could take its next step.

    `bucket`: only equal ones may share a call. `age`: seconds since its drawing was asked for. `idle`: seconds since its last step, or
    since it came in. `order`: the place of its drawing among all that came; the lower one wins a tie.
    """

    bucket: Hashable
    work_class: WorkClass
    age: float
    idle: float
    order: int


def plan_batch(lanes: Sequence[Candidate], *, max_batch: int) -> list[int]:
    """Indices in `lanes` of those that share the next call: at least one where there is any, at most `max_batch`, all of one bucket.

    The bucket is that of the lane that has been idle the longest (weighted), so that buckets take turns. Within it the drawing that was
    asked for first (weighted) goes first: finishing one drawing before beginning the next gives the lowest mean latency.
    """
    if not lanes:
        return []
    bucket = max(lanes, key=lambda lane: (_weighted(lane.work_class, lane.idle), -lane.order)).bucket
    members = [index for index, lane in enumerate(lanes) if lane.bucket == bucket]
    members.sort(key=lambda index: (-_weighted(lanes[index].work_class, lanes[index].age), lanes[index].order))
    return members[:max_batch]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A drawing that waits to come in. `pictures`: how many it draws; `age`: seconds since it was asked for; `order`: as in Candidate."""

    work_class: WorkClass
    pictures: int
    age: float
    order: int


def next_in(waiting: Sequence[Waiting], *, in_flight: int, capacity: int) -> int | None:
    """Index of the drawing to take in next, or None when it has to wait for room.

    The first by weighted age is never passed by a smaller one, or a drawing of many pictures would starve. One with more pictures than
    `capacity` comes in when nothing else is in flight.
    """
    if not waiting:
        return None
    first = max(
        range(len(waiting)), key=lambda i: (_weighted(waiting[i].work_class, waiting[i].age), -waiting[i].order)
    )
    fits = in_flight == 0 or in_flight + waiting[first].pictures <= capacity
    return first if fits else None


def _weighted(work_class: WorkClass, seconds: float) -> float:
    return WEIGHTS[work_class] * max(seconds, _LEAST_WAIT)
