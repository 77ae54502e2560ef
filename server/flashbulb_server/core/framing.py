"""Where a given picture lies in what is drawn, and how large the answer is. Pure geometry, in pixels; sizes are (width, height).

1. A picture is never stretched: it is resized to cover the answer's shape, and what stands over is cut off at both sides alike.
2. With `preserve_aspect_ratio` the answer has the picture's own shape, so next to nothing is cut off.
3. A model that draws at the asked size draws the answer. One that knows a single square draws the answer's shape as large as fits into
   it; the rest of the square carries the picture's edges on, and is cut off again.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.fields import MAX_SIDE
from flashbulb_server.core.generation import GenerationSpec

MULTIPLE = 32
"""Sides of an answer that keeps the input's aspect ratio are multiples of it."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Frame:
    """`answer`: size of the files. `drawn`: size of the picture that the model works on. `box`: the part of the given picture that is
    used, (left, top, right, bottom).
    """

    answer: Size
    drawn: Size
    box: tuple[float, float, float, float]


def frame(spec: GenerationSpec, given: Size, info: ModelInfo) -> Frame:
    """How a picture of size `given` is taken."""
    answer = (spec.width, spec.height)
    if spec.preserve_aspect_ratio and not spec.crop_output:
        answer = _like(given, area=spec.width * spec.height)
    return Frame(answer, _drawn(answer, info), _middle(given, answer))


def _like(given: Size, *, area: int) -> Size:
    """The largest size with the aspect ratio of `given`, rounded down to the multiple, of at most `area` but at least one multiple."""
    width, height = given
    most = MAX_SIDE // MULTIPLE * MULTIPLE
    short = max(MULTIPLE, isqrt(area * min(given) // max(given)) // MULTIPLE * MULTIPLE)
    long = max(MULTIPLE, min(isqrt(area * max(given) // min(given)), area // short, most) // MULTIPLE * MULTIPLE)
    return (long, short) if width >= height else (short, long)


def _drawn(answer: Size, info: ModelInfo) -> Size:
    if not info.resamples:
        return answer
    longest = max(answer)
    width, height = (max(1, round(side * info.native_size / longest)) for side in answer)
    return width, height


def _middle(given: Size, shape: Size) -> tuple[float, float, float, float]:
    """The largest part of `given` in the middle with the aspect ratio of `shape`."""
    scale = min(given[0] / shape[0], given[1] / shape[1])
    width, height = shape[0] * scale, shape[1] * scale
    left, top = (given[0] - width) / 2, (given[1] - height) / 2
    return max(0.0, left), max(0.0, top), min(given[0], left + width), min(given[1], top + height)
