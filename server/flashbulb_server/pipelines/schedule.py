"""Latent consistency sampling as numbers: what one step does to latents, folded into four scalars.

The multistep consistency sampler of "Latent Consistency Models" (arXiv 2310.04378), as diffusers' LCMScheduler computes it; its own
alphas, boundary scalings and timesteps are used, so that pictures equal those of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any, Protocol


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


class Schedules(Protocol):
    """The schedule of so many steps over the lowest `strength` of the noise, 0 to 1: fewer where that has fewer, but at least one."""

    def __call__(self, steps: int, strength: float = 1.0) -> Schedule: ...


def make_schedules(scheduler: Any) -> Schedules:  # noqa: ANN401  # a class without types
    """The schedules of a scheduler. `scheduler`: an LCMScheduler, the function's own from now on.

    Raises ValueError if the scheduler's settings cannot be folded; the function raises it for more steps than the model was distilled on.
    """
    config = scheduler.config
    if config.thresholding or config.clip_sample:
        raise ValueError("its scheduler clips samples (thresholding, clip_sample), which this server cannot do")

    @lru_cache(maxsize=256)
    def schedule(steps: int, strength: float = 1.0) -> Schedule:
        if strength < 1:
            distilled = config.original_inference_steps
            strength = max(strength, 1.5 / distilled)
            steps = min(steps, int(distilled * strength))
        scheduler.set_timesteps(steps, strength=strength)
        timesteps = [int(t) for t in scheduler.timesteps]
        following = [*timesteps[1:], None]
        return tuple(_fold(scheduler, t, after) for t, after in zip(timesteps, following, strict=True))

    return schedule


def _fold(scheduler: Any, timestep: int, following: int | None) -> Step:  # noqa: ANN401  # as above
    alpha = float(scheduler.alphas_cumprod[timestep])
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
    match scheduler.config.prediction_type:  # how the network's output tells the clean sample
        case "epsilon":
            sample, output = 1 / sqrt(alpha), -sqrt(1 - alpha) / sqrt(alpha)
        case "v_prediction":
            sample, output = sqrt(alpha), -sqrt(1 - alpha)
        case "sample":
            sample, output = 0.0, 1.0
        case other:
            raise ValueError(f"its scheduler's prediction_type {other!r} is not known")
    after = 1.0 if following is None else float(scheduler.alphas_cumprod[following])
    return Step(timestep, out * sample + skip, out * output, sqrt(after), sqrt(1 - after), sqrt(alpha), sqrt(1 - alpha))
