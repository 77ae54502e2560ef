"""A generation that the step engine draws: what its caller holds of it (`Drawing`), and what comes of it (`Drawn`).

`Drawing` belongs to the event loop. The device thread reads its `cancelled` and writes its `step` and `total_steps`, and hands results over with
`call_soon_threadsafe`; nothing else is shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.pipeline import Pixels, Sources
from flashbulb_server.errors import FlashbulbError


@dataclass(frozen=True, slots=True)
class Drawn:
    """Finished pictures, in order, at the size that the model drew them at; flagged ones are black already.

    `timings` in seconds: `wait` (asked for to taken in), `encode_prompt`, `denoise`, `decode`, `safety`, and `inference`, which is the
    sum of `encode_prompt`, `denoise` and `decode`: wall time as the caller met it, neighbours in the same calls included.
    `mean_batch_size`: mean lanes of the network calls that it took part in. `width`, `height`: size of the files to make of them.
    `fidelity`, `backend`: of what drew them, which may have been replaced by now.
    """

    pictures: tuple[Pixels, ...]
    has_nsfw_concepts: tuple[bool, ...]
    timings: Mapping[str, float]
    mean_batch_size: float
    native_width: int
    native_height: int
    width: int
    height: int
    fidelity: str
    backend: str


class OnDrawn(Protocol):
    """What is done with pictures on the device thread. `idle`: nothing else waits for the device, so that a millisecond may be spent here."""

    def __call__(self, drawn: Drawn, *, idle: bool) -> None: ...


@dataclass(slots=True, eq=False)
class Drawing:
    """A generation that was handed to the engine. `step`: steps that all of its pictures have done.

    `owner`: id of the key that pays for it with its share; `deadline`: when it is of no use any more, on the engine's clock.
    `on_drawn`: called on the device thread as soon as the pictures are there; `outcome` follows on the loop.
    `total_steps`: those that every picture takes; what the spec tells, until its model says so itself.
    """

    spec: GenerationSpec
    sources: Sources | None
    work_class: WorkClass
    on_progress: Callable[[Progress], None] | None
    on_preview: Callable[[PreviewImage], None] | None
    asked: float
    order: int
    outcome: asyncio.Future[Drawn]
    wake: Callable[[], None]
    owner: str = ""
    deadline: float | None = None
    on_drawn: OnDrawn | None = None
    step: int = 0
    total_steps: int = field(init=False)
    cancelled: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.total_steps = self.spec.steps

    @property
    def live(self) -> bool:
        """Whether it is a frame of a live session."""
        return self.work_class is WorkClass.REALTIME

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the files."""
        return (
            (self.spec.width, self.spec.height) if self.sources is None else (self.sources.width, self.sources.height)
        )

    async def result(self) -> Drawn:
        """The pictures. Cancelling the task that waits here cancels the drawing.

        Raises RequestCancelled with the step at which it stopped, or EngineFailed.
        """
        try:
            await asyncio.wait(
                (self.outcome,)
            )  # leaves the future alone when this task is cancelled: the engine still ends it
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self.outcome.result()

    def cancel(self) -> None:
        """Stops it before its next step. Call it as often as you like, on the event loop; an ended drawing does not change.

        Its places are free before the next call is planned: what is started together with this takes part in that call. Whoever would
        rather let a picture in its last step be finished looks at `step` and `total_steps` first.
        """
        if not self.cancelled and not self.outcome.done():
            self.cancelled = True
            self.wake()

    def given_up(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or (self.deadline is not None and now >= self.deadline)


def needs_check(spec: GenerationSpec, info: ModelInfo) -> bool:
    """Whether pictures of `spec` must pass a safety checker."""
    return spec.enable_safety_checker and not info.safe_by_construction


def succeed(outcome: asyncio.Future[Drawn], drawn: Drawn) -> None:
    """On the event loop: answers, unless the drawing has ended otherwise."""
    if not outcome.done():
        outcome.set_result(drawn)


def fail(outcome: asyncio.Future[Drawn], error: FlashbulbError) -> None:
    """On the event loop: answers with an error, unless the drawing has ended otherwise."""
    if not outcome.done():
        outcome.set_exception(error)
        outcome.exception()  # a caller that left is no fault: asyncio must not complain that nobody asked
