"""Which lanes share the next call of the network, and which drawing comes in next. Pure: the clock's values come as arguments.

1. A call is of one bucket. Frames of live sessions go first; the others join them, or make a call of their own, as far as core.reserve
   lets them.
2. Between frames, and between all others, core.shares decides whose turn it is; what has been idle the longest decides between equals,
   so that buckets take turns.
3. Without frames a call has as many lanes as make pictures come faster, as core.pace has measured.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from flashbulb_server.core.pace import Pace
from flashbulb_server.core.reserve import Reserve
from flashbulb_server.core.shares import Shares
from flashbulb_server.core.shares import WorkClass as WorkClass  # whoever hands over work names its class

STARVED = 50.0
"""A lane that has been idle for so many times its own step goes first, whatever its key was given: the key's other lanes may have moved
all the time, in the company of others."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lane that could take its next step.

    `bucket`: only equal ones may share a call. `model` and `work`: as in Pace. `cost`: of the step, in pixels. `due`: seconds, the
    earlier goes first. `order`: the place of its drawing among all that came. `idle`: seconds since its last step, or since it came in.
    """

    bucket: Hashable
    work_class: WorkClass
    owner: str
    model: str
    work: float
    cost: float
    due: float
    order: int
    idle: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A call. `lanes`: indices of those that share it; `frames`: how many of them are frames of live sessions.

    In seconds, where there are frames: `alone` is what they would take by themselves, `extra` what the others add, `wanted` the price of
    what the others want next (0.0 if they want nothing).
    """

    lanes: list[int]
    frames: int = 0
    alone: float = 0.0
    extra: float = 0.0
    wanted: float = 0.0


def plan_batch(lanes: Sequence[Candidate], *, shares: Shares, pace: Pace, reserve: Reserve, max_batch: int) -> Plan:
    """The next call: at least one lane where there is any, at most `max_batch`, all of one bucket."""
    if len(lanes) == 1:
        alone = _seconds(pace, lanes[0], 1) if lanes[0].work_class is WorkClass.REALTIME else 0.0
        return Plan([0], int(lanes[0].work_class is WorkClass.REALTIME), alone)
    frames = [i for i, lane in enumerate(lanes) if lane.work_class is WorkClass.REALTIME]
    others = [i for i, lane in enumerate(lanes) if lane.work_class is not WorkClass.REALTIME]
    if not frames:
        return Plan(_own_call(lanes, others, shares, pace, max_batch, reserve.calm) if others else [])
    first = _head(lanes, frames, shares, pace)
    head = lanes[first]
    chosen = _company(lanes, frames, first, shares, pace, max_batch)
    alone = _seconds(pace, head, len(chosen))
    if not others:
        return Plan(chosen, len(chosen), alone)
    second = _head(lanes, others, shares, pace)
    rival = lanes[second]
    if rival.bucket == head.bucket and len(chosen) < max_batch:
        most = min(max_batch, pace.reach(head.model)) - len(chosen)
        count = _joining(pace, head, len(chosen), most, reserve.budget(alone))
        joined = _company(lanes, others, second, shares, pace, count)
        extra = _seconds(pace, head, len(chosen) + len(joined)) - alone
        wanted = _seconds(pace, head, len(chosen) + 1) - alone
        return Plan(chosen + joined, len(chosen), alone, max(0.0, extra), max(0.0, wanted))
    price = _seconds(pace, rival, 1)
    if reserve.affords(price):
        return Plan(_own_call(lanes, others, shares, pace, max_batch, reserve.credit))
    return Plan(chosen, len(chosen), alone, 0.0, price)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A drawing that waits to come in, or one that is in flight. `pictures`: how many it draws; `cost`: of all steps that it has to do,
    in pixels; the rest as in Candidate."""

    work_class: WorkClass
    owner: str
    pictures: int
    cost: float
    due: float
    order: int


def next_in(waiting: Sequence[Waiting], *, in_flight: Sequence[Waiting], shares: Shares, capacity: int) -> int | None:
    """Index of the drawing to take in next, or None when all have to wait for room.

    Frames of live sessions have `capacity` places of their own, so that they never wait for others. Whose turn it is is never passed by
    a smaller one, or a drawing of many pictures would starve. One with more pictures than `capacity` comes in when its side is empty.
    """
    for live in (True, False):
        here = [i for i, drawing in enumerate(waiting) if (drawing.work_class is WorkClass.REALTIME) == live]
        if not here:
            continue
        flying = [drawing for drawing in in_flight if (drawing.work_class is WorkClass.REALTIME) == live]
        taken = sum(drawing.pictures for drawing in flying)
        if taken >= capacity:
            continue
        first = here[shares.pick([waiting[i] for i in here], 1, held=flying)[0]]
        if taken == 0 or taken + waiting[first].pictures <= capacity:
            return first
    return None


def _own_call(
    lanes: Sequence[Candidate], among: Sequence[int], shares: Shares, pace: Pace, max_batch: int, limit: float | None
) -> list[int]:
    """A call without frames, of at most `limit` seconds unless one lane takes longer."""
    first = _head(lanes, among, shares, pace)
    head = lanes[first]
    count = pace.best_lanes(head.model, min(max_batch, sum(lanes[i].bucket == head.bucket for i in among)))
    if limit is not None:
        most = min(count, pace.reach(head.model))
        count = 1
        while count < most and _seconds(pace, head, count + 1) <= limit:
            count += 1
    return _company(lanes, among, first, shares, pace, count)


def _joining(pace: Pace, head: Candidate, frames: int, most: int, budget: float) -> int:
    """How many lanes, at most `most`, may join a call of `frames` so that it takes at most `budget` seconds longer."""
    alone, count = _seconds(pace, head, frames), 0
    while count < most and _seconds(pace, head, frames + count + 1) - alone <= budget:
        count += 1
    return count


def _head(lanes: Sequence[Candidate], among: Sequence[int], shares: Shares, pace: Pace) -> int:
    """Whose turn it is."""
    longest = max(among, key=lambda i: (lanes[i].idle, -lanes[i].order))
    if _starved(lanes[longest], pace):
        return longest
    keys = {(lanes[i].work_class, lanes[i].owner): lanes[i] for i in among}
    if len(keys) == 1:
        return longest
    ranks = {key: shares.standing(lane) for key, lane in keys.items()}
    return min(among, key=lambda i: (ranks[lanes[i].work_class, lanes[i].owner], -lanes[i].idle, lanes[i].order))


def _company(
    lanes: Sequence[Candidate], among: Sequence[int], first: int, shares: Shares, pace: Pace, count: int
) -> list[int]:
    """`count` lanes of the bucket of `first`, whose turn it is."""
    members = [i for i in among if lanes[i].bucket == lanes[first].bucket]
    if len(members) <= count:
        return members
    forced = [first] if count and _starved(lanes[first], pace) else []
    rest = [i for i in members if i not in forced]
    picked = shares.pick([lanes[i] for i in rest], count - len(forced), held=[lanes[i] for i in forced])
    return forced + [rest[i] for i in picked]


def _starved(lane: Candidate, pace: Pace) -> bool:
    return lane.idle > STARVED * _seconds(pace, lane, 1) > 0


def _seconds(pace: Pace, lane: Candidate, count: int) -> float:
    return pace.call_seconds(lane.model, count, work=lane.work)
