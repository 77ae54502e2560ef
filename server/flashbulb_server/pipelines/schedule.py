"""Latent consistency sampling as numbers: what one step does to latents, folded into four scalars.

The multistep consistency sampler of "Latent Consistency Models" (arXiv 2310.04378), as diffusers' LCMScheduler computes it: its alphas,
boundary scalings and timesteps, so that pictures equal those of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np

SIGMA = 0.5
"""Deviation of the data that the boundary scalings assume."""

_CLEAN: Mapping[
    str, Callable[[float], tuple[float, float]]
] = {  # of an alpha and what the network foretells: how the clean sample follows from latents and output
    "epsilon": lambda alpha: (1 / sqrt(alpha), -sqrt(1 - alpha) / sqrt(alpha)),
    "v_prediction": lambda alpha: (sqrt(alpha), -sqrt(1 - alpha)),
    "sample": lambda _: (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step at `timestep`, of latents x with the network's output m:

    denoised = from_sample * x + from_output * m, and the next x = keep * denoised + noise * z with z ~ N(0, 1).
    `noise` is 0 in the last step. A clean sample y has the noise of this step as signal * y + sigma * z.
    """

    timestep: int
    from_sample: float
    from_output: float
    keep: float
    noise: float
    signal: float
    sigma: float


Schedule = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """The numbers that schedules are made of. `alphas`: of every timestep of training; `distilled`: steps that the model was distilled on;
    `scaling`: of timesteps in the boundary scalings; `prediction`: what the network foretells."""

    alphas: tuple[float, ...]
    distilled: int
    scaling: float
    prediction: str

    def __post_init__(self) -> None:
        if self.prediction not in _CLEAN:
            raise ValueError(f"its scheduler's prediction_type {self.prediction!r} is not known")
        if not 0 < self.distilled <= len(self.alphas):
            raise ValueError(f"its scheduler was distilled on {self.distilled} of {len(self.alphas)} timesteps")

    @classmethod
    def of(cls, scheduler: Any) -> Rule:  # noqa: ANN401  # LCMScheduler, a class without types
        """Those of an LCMScheduler. Raises ValueError if its settings cannot be folded."""
        config = scheduler.config
        if config.thresholding or config.clip_sample:
            raise ValueError("its scheduler clips samples (thresholding, clip_sample), which this server cannot do")
        alphas = tuple(float(alpha) for alpha in scheduler.alphas_cumprod)
        return cls(alphas, config.original_inference_steps, config.timestep_scaling, config.prediction_type)


class Schedules:
    """The schedules of a rule: of so many steps over the lowest `strength` of the noise, 0 to 1; fewer where that has fewer, but at least one.

    Raises ValueError for more steps than the model was distilled on.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._made = lru_cache(maxsize=256)(self._make)

    def __call__(self, steps: int, strength: float = 1.0) -> Schedule:
        return self._made(steps, strength)

    def _make(self, steps: int, strength: float) -> Schedule:
        distilled = self.rule.distilled
        if strength < 1:
            strength = max(strength, 1.5 / distilled)
            steps = min(steps, int(distilled * strength))
        timesteps = self._timesteps(steps, int(distilled * strength))
        following = [*timesteps[1:], None]
        return tuple(_fold(self.rule, t, after) for t, after in zip(timesteps, following, strict=True))

    def _timesteps(self, steps: int, known: int) -> list[int]:
        """`steps` of the `known` lowest timesteps that the model was distilled on, evenly spaced, from the highest down."""
        if not 0 < steps <= known:
            raise ValueError(f"{steps} steps of a model that was distilled on {known}")
        spacing = len(self.rule.alphas) // self.rule.distilled
        places = np.floor(np.linspace(0, known, num=steps, endpoint=False))
        return [(known - int(place)) * spacing - 1 for place in places]


def make_schedules(scheduler: Any) -> Schedules:  # noqa: ANN401  # as above
    """The schedules of an LCMScheduler. Raises ValueError if its settings cannot be folded."""
    return Schedules(Rule.of(scheduler))


def _fold(rule: Rule, timestep: int, following: int | None) -> Step:
    alpha = rule.alphas[timestep]
    scaled = timestep * rule.scaling
    skip, out = SIGMA**2 / (scaled**2 + SIGMA**2), scaled / (scaled**2 + SIGMA**2) ** 0.5
    sample, output = _CLEAN[rule.prediction](alpha)
    after = 1.0 if following is None else rule.alphas[following]
    return Step(timestep, out * sample + skip, out * output, sqrt(after), sqrt(1 - after), sqrt(alpha), sqrt(1 - alpha))
