"""Who was given how much of the device, and so who comes next. Pure: virtual time, no clock.

1. Direct calls and queued jobs share by `WEIGHTS`; inside a class keys share by their own weights. Frames of live sessions do not
   compete with the others here: core.reserve keeps time for them.
2. Virtual time (start-time fair queueing; Goyal, Vin, Cheng 1996) is the cost that was granted, divided by the weight. Whoever has the
   least comes next. One that was idle begins at the least of those that were not: idling earns nothing.
3. Who leaves is forgotten unless it was given more than its share, and only the greatest debts are kept: memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

MAX_DEBTORS = 1024
"""Keys that are remembered while they ask for nothing."""


class WorkClass(StrEnum):
    """How urgent a drawing is: a frame of a live session, a call that skips the queue, a request from the queue."""

    REALTIME = "realtime"
    DIRECT = "direct"
    QUEUED = "queued"


WEIGHTS: Mapping[WorkClass, float] = {WorkClass.REALTIME: 1.0, WorkClass.DIRECT: 4.0, WorkClass.QUEUED: 1.0}
"""While both want the device, direct calls get four times what queued jobs get."""


class Claim(Protocol):
    """What asks for a turn. `cost`: what the turn takes, in any one unit; `due` (seconds) and `order` decide between equals."""

    @property
    def work_class(self) -> WorkClass: ...
    @property
    def owner(self) -> str: ...
    @property
    def cost(self) -> float: ...
    @property
    def due(self) -> float: ...
    @property
    def order(self) -> int: ...


K = TypeVar("K", bound=Hashable)


class VirtualTime(Generic[K]):
    """Cost granted to each of many, by weight."""

    def __init__(self, weight: Callable[[K], float]) -> None:
        self._weight = weight
        self._times: dict[K, float] = {}
        self._active: frozenset[K] = frozenset()

    def __len__(self) -> int:
        return len(self._times)

    def settle(self, active: Collection[K]) -> None:
        """Tells who asks for anything now."""
        now_active = frozenset(active)
        if now_active == self._active:
            return
        stayed = self._active & now_active
        if not stayed:
            self._times = {}  # nobody was there all the time, so nobody was kept waiting
        floor = min((self._times[who] for who in stayed), default=0.0)
        gone = [who for who, time in self._times.items() if who not in now_active and time > floor]
        gone.sort(key=self._times.__getitem__)
        kept = {who: self._times[who] for who in gone[-MAX_DEBTORS:]}
        self._times = kept | {who: max(floor, self._times.get(who, floor)) for who in now_active}
        self._active = now_active

    def charge(self, who: K, cost: float) -> None:
        """Notes what was granted to one that is active."""
        self._times[who] += cost / self._weight(who)

    def of(self, who: K, held: float = 0.0) -> float:
        """Its virtual time, with `held` granted on top."""
        return self._times.get(who, 0.0) + held / self._weight(who)


Key = tuple[WorkClass, str]


class Shares:
    """Virtual times of classes and, inside each, of keys. `weights`: of keys by their id; 1.0 where nothing is said."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._classes: VirtualTime[WorkClass] = VirtualTime(lambda work_class: WEIGHTS[work_class])
        self._owners: VirtualTime[Key] = VirtualTime(lambda key: self.weight(key[1]))

    def weight(self, owner: str) -> float:
        """Of a key."""
        return self._weights.get(owner, 1.0)

    def settle(self, active: Collection[Key]) -> None:
        """Tells which keys ask for anything now, waiting or in flight."""
        self._owners.settle(active)
        self._classes.settle({work_class for work_class, _ in active})

    def charge(self, claim: Claim) -> None:
        """Notes a turn that was taken."""
        self._owners.charge((claim.work_class, claim.owner), claim.cost)
        self._classes.charge(claim.work_class, claim.cost)

    def standing(self, claim: Claim) -> tuple[float, float, float]:
        """The lower, the sooner its turn comes. Of equal classes the heavier goes first."""
        return self._rank((claim.work_class, claim.owner), 0.0, 0.0)

    def pick(self, claims: Sequence[Claim], count: int, *, held: Sequence[Claim] = ()) -> list[int]:
        """Indices of the `count` claims that come next, in that order; of one key the earliest due first.

        `held`: turns that were promised but not charged yet.
        """
        classes = dict.fromkeys(WorkClass, 0.0)
        owners: dict[Key, float] = {}
        lines: dict[Key, list[int]] = {}
        for index in sorted(range(len(claims)), key=lambda i: (claims[i].due, claims[i].order), reverse=True):
            lines.setdefault((claims[index].work_class, claims[index].owner), []).append(index)

        def grant(claim: Claim) -> None:
            key = (claim.work_class, claim.owner)
            owners[key] = owners.get(key, 0.0) + claim.cost
            classes[claim.work_class] += claim.cost

        def rank(key: Key) -> tuple[tuple[float, float, float], float, int]:
            first = claims[lines[key][-1]]
            return self._rank(key, classes[key[0]], owners.get(key, 0.0)), first.due, first.order

        for claim in held:
            grant(claim)
        picked: list[int] = []
        while lines and len(picked) < count:
            key = min(lines, key=rank)
            picked.append(lines[key].pop())
            grant(claims[picked[-1]])
            if not lines[key]:
                del lines[key]
        return picked

    def _rank(self, key: Key, class_held: float, owner_held: float) -> tuple[float, float, float]:
        return self._classes.of(key[0], class_held), -WEIGHTS[key[0]], self._owners.of(key, owner_held)
