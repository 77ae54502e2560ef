"""Pictures on their way through the network, and what of them is put side by side for a call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import Condition
from flashbulb_server.pipelines.schedule import Schedule, Step
from flashbulb_server.pipelines.starting import Kept

STEPS_AHEAD = 8
"""Steps for which a batch lays its numbers out at once: enough for few-step models, little to throw away when somebody joins."""


@dataclass(slots=True, eq=False)
class LatentLane:
    """One picture. `latents`, `denoised`: (1, C, h, w) float32 on the device.

    `coefficients`: (S, 4) float32, the four scalars of each step. `noise`: (S, C, h, w) float32, what each step adds; zero for the last.
    `without`: the condition with the negative prompt, None where no classifier-free guidance is done. `kept`: of an inpainting.
    `size`: the picture's width and height in pixels, cut from the middle.
    """

    schedule: Schedule
    coefficients: Tensor
    noise: Tensor
    latents: Tensor
    denoised: Tensor
    condition: Condition
    without: Condition | None
    guidance_scale: float
    guidance_rescale: float
    size: tuple[int, int]
    kept: Kept | None = None
    step: int = 0

    @property
    def bucket(self) -> Hashable:
        """Latent height and width."""
        return tuple(self.latents.shape[-2:])

    @property
    def total_steps(self) -> int:
        """Steps to take."""
        return len(self.schedule)

    @property
    def current(self) -> Step:
        """The step to take next."""
        return self.schedule[self.step]


class Batch:
    """Lanes that step together, stacked once and good for as long as the same ones come again.

    `latents`: (B, C, h, w) float32. `guided`: indices of the F lanes with classifier-free guidance, whose second rows come behind the B
    first ones. `fixed`: (B + F, ...).
    """

    def __init__(self, lanes: Sequence[LatentLane]) -> None:
        self.guided = [index for index, lane in enumerate(lanes) if lane.without is not None]
        self.latents = join([lane.latents for lane in lanes])
        self._lanes = list(lanes)
        self._parts = [lane.latents for lane in lanes]
        self._ahead = min(STEPS_AHEAD, *(lane.total_steps - lane.step for lane in lanes))
        self._taken = 0
        rows = [(lane.condition, lane.step) for lane in lanes]
        rows += [(lane.without, lane.step) for lane in lanes if lane.without is not None]
        self.fixed = [join(parts) for parts in zip(*(condition.fixed for condition, _ in rows), strict=True)]
        self._moments = self._lay_out([(condition.moments, step) for condition, step in rows])
        scalars = self._lay_out([(lane.coefficients, lane.step) for lane in lanes])
        self._scalars = scalars.transpose(1, 2)[..., None, None, None]  # (ahead, 4, B, 1, 1, 1)

    def _lay_out(self, tables: Sequence[tuple[Tensor, int]]) -> Tensor:
        """(ahead, rows, ...): of each table the rows from its step on."""
        return torch.stack([table[step : step + self._ahead] for table, step in tables], dim=1)

    def continues(self, lanes: Sequence[LatentLane]) -> bool:
        """Whether these are the same lanes, untouched since, with steps that are laid out."""
        return (
            self._taken < self._ahead
            and self._lanes == list(lanes)
            and all(lane.latents is part for lane, part in zip(lanes, self._parts, strict=True))
        )

    @property
    def rows(self) -> Tensor:
        """The latents (B + F, C, h, w) that the network sees."""
        return torch.cat([self.latents, self.latents[self.guided]]) if self.guided else self.latents

    @property
    def moments(self) -> Tensor:
        """The moments (B + F, ...) of the step to take."""
        return self._moments[self._taken]

    def advance(self, output: Tensor) -> None:
        """Moves every lane one step on. `output`: (B, C, h, w) float32, the network's, guided."""
        from_sample, from_output, keep, amount = self._scalars[self._taken].unbind()
        denoised = torch.mul(from_sample, self.latents).addcmul_(from_output, output)
        if all(lane.step == lane.total_steps - 1 for lane in self._lanes):
            self.latents = denoised  # nothing is added any more
        else:
            noise = join([lane.noise[lane.step : lane.step + 1] for lane in self._lanes])
            self.latents = torch.mul(keep, denoised).addcmul_(amount, noise)
        clean, following = _apart(denoised), _apart(self.latents)
        for lane, foreseen, latents in zip(self._lanes, clean, following, strict=True):
            if lane.kept is not None:
                foreseen, latents = lane.kept.blend(foreseen, latents, lane.current)
            lane.denoised, lane.latents = foreseen, latents
            lane.step += 1
        self._parts = following
        self._taken += 1


def coefficients(schedule: Schedule, device: torch.device) -> Tensor:
    """The scalars of a schedule (S, 4) float32: from_sample, from_output, keep, noise."""
    return torch.tensor([(s.from_sample, s.from_output, s.keep, s.noise) for s in schedule], device=device)


def draw_noise(schedule: Schedule, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """What the steps add, (S, C, h, w) float32 on the CPU: a draw for every step that adds noise, in order. `shape`: (C, h, w)."""
    noise = torch.empty((len(schedule), *shape))
    for step, part in zip(schedule, noise, strict=True):
        if step.noise:
            torch.randn(tuple(shape), generator=generator, out=part)
        else:
            part.zero_()
    return noise


def join(parts: Sequence[Tensor]) -> Tensor:
    """The tensors one after another along the first axis, without a copy if there is one only."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _apart(rows: Tensor) -> list[Tensor]:
    return [rows] if len(rows) == 1 else list(torch.split(rows, 1))
