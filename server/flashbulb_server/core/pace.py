"""How long drawings take, learned from those that were drawn. Pure: spans come as arguments, in seconds."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec

K = TypeVar("K", bound=Hashable)

_SHARE = 0.2
"""Share of the newest observation in a mean: about the last ten count."""

_ENOUGH = 8
"""Calls of a size after which its mean is believed when sizes are compared."""

_EXPLORE = 64
"""Every so many calls the largest batch is taken whatever the means say, or a mean that a hiccup spoilt would never mend."""

_FLAT = 0.03
"""Gain in pictures a second that is not worth a larger batch, which makes every lane in it wait longer."""


class Pace:
    """Moving means of what the engine has observed, and an estimate made of them.

    `work` scales observations between sizes: the pixels of a picture where the cost grows with them, 1 where every picture costs the same.
    """

    def __init__(self) -> None:
        self._calls: dict[str, dict[int, float]] = {}
        self._seen: dict[tuple[str, int], int] = {}
        self._turns: dict[str, int] = {}
        self._finish: dict[str, float] = {}
        self._busy = 0.0
        self.seconds_per_image = 0.0
        """Mean busy seconds of the engine per finished picture. 0.0 before any."""

    def observe_call(self, model: str, lanes: int, *, work: float, seconds: float) -> None:
        """A network call over `lanes` lanes took `seconds`."""
        self._busy += seconds
        _mix(self._calls.setdefault(model, {}), lanes, seconds / work)
        self._seen[model, lanes] = self._seen.get((model, lanes), 0) + 1
        self._turns[model] = self._turns.get(model, 0) + 1

    def observe_finish(self, model: str, pictures: int, *, work: float, seconds: float) -> None:
        """`pictures` pictures were decoded and checked in `seconds`."""
        self._busy += seconds
        _mix(self._finish, model, seconds / work / pictures)
        share = 1 - (1 - _SHARE) ** pictures if self.seconds_per_image else 1.0
        self.seconds_per_image += share * (self._busy / pictures - self.seconds_per_image)
        self._busy = 0.0

    def call_seconds(self, model: str, lanes: int, *, work: float) -> float:
        """What a call over so many lanes would take; 0.0 if nothing is known of the model.

        Straight lines join the sizes that were seen. Beyond them the last line goes on, within what can be: more lanes take no less time,
        and no more than in proportion.
        """
        seen = self._calls.get(model, {})
        if (known := seen.get(lanes)) is not None:
            return work * known
        points = sorted(seen.copy().items())  # a copy: another thread may be observing
        return work * _line(points, lanes) if points else 0.0

    def finish_seconds(self, model: str, pictures: int, *, work: float) -> float:
        """What decoding and checking so many pictures would take; 0.0 if nothing is known of the model."""
        return work * pictures * self._finish.get(model, 0.0)

    def reach(self, model: str) -> int:
        """The largest call that is no leap into the unknown: one lane more than the largest that was seen."""
        return max(self._calls.get(model, ()), default=0) + 1

    def best_lanes(self, model: str, available: int) -> int:
        """Lanes of the next call, at most `available`, of which most pictures a second come.

        The smallest size that no larger one beats by 3 %; all of them until that many were measured often enough.
        """
        if self._turns.get(model, 0) % _EXPLORE == 0 or self._seen.get((model, available), 0) < _ENOUGH:
            return available
        rates = {
            lanes: lanes / max(seconds, 1e-12)
            for lanes, seconds in self._calls[model].items()
            if lanes <= available and self._seen[model, lanes] >= _ENOUGH
        }
        best = max(rates.values())
        return min(lanes for lanes, rate in rates.items() if rate * (1 + _FLAT) >= best)

    def estimate(self, model: str, *, steps: int, pictures: int, work: float, lanes: int, ahead: float) -> float:
        """Seconds until a new drawing is finished, 0.0 if nothing is known of the model.

        `lanes`: how many will share its calls, its own included; `ahead`: pictures that must be finished before it comes in.
        """
        call = self.call_seconds(model, lanes, work=work)
        if not call:
            return 0.0
        return ahead * self.seconds_per_image + steps * call + self.finish_seconds(model, pictures, work=work)


def work_of(spec: GenerationSpec, info: ModelInfo) -> float:
    """Cost of a picture relative to others of its model: its pixels, where it is drawn at the asked size."""
    return 1.0 if info.resamples else float(spec.width * spec.height)


def pixels_of(spec: GenerationSpec, info: ModelInfo) -> float:
    """Pixels that are drawn of a picture: the unit in which keys share the device, over all models."""
    return float(info.native_size**2 if info.resamples else spec.width * spec.height)


def _line(points: list[tuple[int, float]], lanes: int) -> float:
    """The value at `lanes` of the line through the nearest of `points`, which are sorted by lanes."""
    below = [point for point in points if point[0] <= lanes][-2:]
    above = [point for point in points if point[0] >= lanes][:2]
    if below and above:
        return _through(below[-1], above[0], lanes)
    near = below[-1] if below else above[0]
    known = below or above
    proportional = near[1] * lanes / near[0]
    if len(known) < 2:
        return proportional
    low, high = sorted((near[1], proportional))
    return min(max(_through(known[0], known[1], lanes), low), high)


def _through(one: tuple[int, float], other: tuple[int, float], lanes: int) -> float:
    if one[0] == other[0]:
        return one[1]
    return one[1] + (other[1] - one[1]) * (lanes - one[0]) / (other[0] - one[0])


def _mix(means: dict[K, float], key: K, value: float) -> None:
    means[key] = means[key] + _SHARE * (value - means[key]) if key in means else value
