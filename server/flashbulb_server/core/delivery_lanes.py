"""How many deliveries go to one target at once, and when those that find no room should come back. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_RETURN = 0.25  # seconds; the least that it pays to put one back for
LAST_RETURN = 30.0
_GUESS_SECONDS = 1.0  # what a delivery takes, while none was measured


@dataclass(slots=True)
class _Lane:
    busy: int = 0
    seconds: float = _GUESS_SECONDS
    free_from: float = 0.0


class Lanes:
    """One lane for each target, `limit` deliveries wide. Keeps nothing of a target without deliveries."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lanes: dict[str, _Lane] = {}

    def enter(self, target: str, now: float) -> float:
        """0 if there is room, which is taken. Otherwise the seconds to come back after: those that ask get one place after the other."""
        lane = self._lanes.setdefault(target, _Lane())
        if lane.busy < self._limit:
            lane.busy += 1
            return 0.0
        place = max(now + FIRST_RETURN, lane.free_from)
        lane.free_from = min(place + lane.seconds / self._limit, now + LAST_RETURN)
        return place - now

    def leave(self, target: str, seconds: float) -> None:
        """A delivery is over, which took so long."""
        lane = self._lanes[target]
        lane.busy -= 1
        lane.seconds = seconds
        if not lane.busy:
            del self._lanes[target]
