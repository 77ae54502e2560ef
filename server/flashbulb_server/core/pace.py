"""How long drawings take, learned from those that were drawn. Pure: spans come as arguments, in seconds."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec

K = TypeVar("K", bound=Hashable)

_SHARE = 0.2
"""Share of the newest observation in a mean: about the last ten count."""


class Pace:
    """Moving means of what the engine has observed, and an estimate made of them.

    `work` scales observations between sizes: the pixels of a picture where the cost grows with them, 1 where every picture costs the same.
    """

    def __init__(self) -> None:
        self._call: dict[tuple[str, int], float] = {}
        self._finish: dict[str, float] = {}
        self._busy = 0.0
        self.seconds_per_image = 0.0
        """Mean busy seconds of the engine per finished picture. 0.0 before any."""

    def observe_call(self, model: str, lanes: int, *, work: float, seconds: float) -> None:
        """A network call over `lanes` lanes took `seconds`."""
        self._busy += seconds
        _mix(self._call, (model, lanes), seconds / work)

    def observe_finish(self, model: str, pictures: int, *, work: float, seconds: float) -> None:
        """`pictures` pictures were decoded and checked in `seconds`."""
        self._busy += seconds
        _mix(self._finish, model, seconds / work / pictures)
        share = 1 - (1 - _SHARE) ** pictures if self.seconds_per_image else 1.0
        self.seconds_per_image += share * (self._busy / pictures - self.seconds_per_image)
        self._busy = 0.0

    def estimate(self, model: str, *, steps: int, pictures: int, work: float, lanes: int, ahead: int) -> float:
        """Seconds until a new drawing is finished, 0.0 if nothing is known of the model.

        `lanes`: how many will share its calls, its own included; `ahead`: pictures that must be finished before it comes in.
        """
        known = list(self._call.items())  # in one go: another thread may be observing
        calls = {count: seconds for (name, count), seconds in known if name == model}
        if not calls:
            return 0.0
        nearest = min(calls, key=lambda count: (abs(count - lanes), count))
        return ahead * self.seconds_per_image + work * (
            steps * calls[nearest] + pictures * self._finish.get(model, 0.0)
        )


def work_of(spec: GenerationSpec, info: ModelInfo) -> float:
    """Cost of a picture relative to others of its model: its pixels, where it is drawn at the asked size."""
    return 1.0 if info.resamples else float(spec.width * spec.height)


def _mix(means: dict[K, float], key: K, value: float) -> None:
    means[key] = means[key] + _SHARE * (value - means[key]) if key in means else value
