"""A generation that the step engine draws: what its caller holds of it (`Drawing`), and what comes of it (`Drawn`).

`Drawing` belongs to the event loop. The device thread reads its `cancelled` and writes its `step`, and hands results over with
`call_soon_threadsafe`; nothing else is shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.pipeline import Pixels
from flashbulb_server.errors import FlashbulbError


@dataclass(frozen=True, slots=True)
class Drawn:
    """Finished pictures, in order, at the size that the model drew them at; flagged ones are black already.

    `timings` in seconds: `wait` (asked for to taken in), `encode_prompt`, `denoise`, `decode`, `safety`, and `inference`, which is the
    sum of `encode_prompt`, `denoise` and `decode`: wall time as the caller met it, neighbours in the same calls included.
    `mean_batch_size`: mean lanes of the network calls that it took part in.
    """

    pictures: tuple[Pixels, ...]
    has_nsfw_concepts: tuple[bool, ...]
    timings: Mapping[str, float]
    mean_batch_size: float
    native_width: int
    native_height: int


@dataclass(slots=True, eq=False)
class Drawing:
    """A generation that was handed to the engine. `step`: steps that all of its pictures have done."""

    spec: GenerationSpec
    work_class: WorkClass
    on_progress: Callable[[Progress], None] | None
    on_preview: Callable[[PreviewImage], None] | None
    asked: float
    order: int
    outcome: asyncio.Future[Drawn]
    wake: Callable[[], None]
    step: int = 0
    cancelled: bool = field(default=False, init=False)

    @property
    def total_steps(self) -> int:
        """Steps that every picture takes."""
        return self.spec.num_inference_steps

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
        """Stops it before its next step. Call it as often as you like, on the event loop; an ended drawing does not change."""
        if not self.cancelled and not self.outcome.done():
            self.cancelled = True
            self.wake()


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
