"""A StepPipeline without networks: deterministic pictures, and calls that take as long as those of a real device.

A call over b lanes takes `seconds * (0.35 + 0.65 * b)`; ten times as long if a prompt begins with SLOWLY. With `seconds` 0 it does not sleep.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from flashbulb_server.core.catalog import ModelInfo, Task
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.pipeline import Pixels, Sources

SLOWLY = "slowly"


@dataclass(slots=True, eq=False)
class SleepingLane:
    """`state` changes with every step in a way that depends on the prompt, the seed, the picture to start from and nothing else."""

    bucket: Hashable
    total_steps: int
    state: bytes
    size: tuple[int, int]
    step: int = 0
    slowness: int = 1


class SleepingPipeline:
    """Sleeps instead of drawing. `batches`: lanes of every call so far; `flagged`: what its safety checker says of every picture."""

    def __init__(
        self,
        name: str = "sleeping",
        *,
        seconds: float = 0.0,
        decode_seconds: float = 0.0,
        safe: bool = True,
        flagged: bool = False,
        endpoints: tuple[str, ...] = ("fast-lcm-diffusion",),
    ) -> None:
        self.seconds = seconds
        self.decode_seconds = decode_seconds
        self.flagged = flagged
        self.batches: list[int] = []
        self.info = ModelInfo(
            name=name,
            endpoints=endpoints,
            native_size=64,
            resamples=False,
            max_image_pixels=4_194_304,
            fidelity="EXACT",
            safety_checker_versions=() if safe else ("v1",),
            safe_by_construction=safe,
            backend="sleep",
        )

    def prepare(self, spec: GenerationSpec, sources: Sources | None = None) -> Sequence[SleepingLane]:
        """Lanes of the asked size, which is their bucket."""
        started = sources is not None and spec.task is not Task.EDIT
        size = (sources.image.shape[1], sources.image.shape[0]) if started else (spec.width, spec.height)
        slowness = 10 if spec.prompt.startswith(SLOWLY) else 1
        start = sources.image.tobytes() if started else b""
        return [
            SleepingLane(
                size, spec.steps, f"{spec.prompt}/{spec.seed + index}".encode() + start, size, slowness=slowness
            )
            for index in range(spec.num_images)
        ]

    def step(self, lanes: Sequence[SleepingLane]) -> None:
        """One call."""
        self.batches.append(len(lanes))
        _sleep(self.seconds * (0.35 + 0.65 * len(lanes)) * max(lane.slowness for lane in lanes))
        for lane in lanes:
            lane.state = hashlib.sha256(lane.state).digest()
            lane.step += 1

    def decode(self, lanes: Sequence[SleepingLane]) -> Sequence[Pixels]:
        """Pictures of one colour, which tells prompt, seed and steps."""
        _sleep(self.decode_seconds * len(lanes))
        return [_filled(lane) for lane in lanes]

    def preview(self, lane: SleepingLane) -> Pixels:
        """The colour so far."""
        return _filled(lane)[:8, :8]

    def check(self, pictures: Sequence[Pixels], version: str) -> Sequence[bool]:
        """All or none."""
        return [self.flagged] * len(pictures)


def _filled(lane: SleepingLane) -> Pixels:
    width, height = lane.size
    return np.tile(np.frombuffer(lane.state[:3], dtype=np.uint8), (height, width, 1))


def _sleep(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)
