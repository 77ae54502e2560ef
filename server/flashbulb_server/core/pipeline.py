"""What the step engine asks of a model. Networks live behind this; the engine knows no tensors.

A lane is one picture on its way through the network. The engine calls everything here from its one device thread, and takes any
exception as the failure of the drawings in that call: a FlashbulbError is handed to their callers as it is, DeviceLost ends the engine.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec

if TYPE_CHECKING:  # the api role runs without numpy
    import numpy as np
    import numpy.typing as npt

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
"""One picture, (H, W, 3) RGB, 0 to 255."""

Levels: TypeAlias = "npt.NDArray[np.uint8]"
"""A picture without colours, (H, W), 0 to 255."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The pictures of a spec, decoded. The one that is started from, and its mask, at the size that `core.framing` gives: that of the picture
    drawn from them. Those that an edit speaks of, in order, each at its own.

    `mask` is white where it is drawn anew. `width`, `height`: size of the files to make of it.
    """

    pictures: tuple[Pixels, ...]
    mask: Levels | None
    width: int
    height: int

    @property
    def image(self) -> Pixels:
        """The first of the pictures; the only one but in an edit."""
        return self.pictures[0]


class DeviceLost(Exception):
    """The accelerator answers no more, whatever is asked of it: the process must be replaced. Raised by any method of a pipeline."""


class Lane(Protocol):
    """One picture being drawn. `bucket`: only lanes of equal bucket may share a call. `step`: steps done, 0 to `total_steps`."""

    @property
    def bucket(self) -> Hashable: ...
    @property
    def step(self) -> int: ...
    @property
    def total_steps(self) -> int: ...


L = TypeVar("L", bound=Lane)


class StepPipeline(Protocol[L]):
    """A loaded model that draws step by step. Two implementations: the latent consistency loop, and the sleeping one of the benchmarks."""

    @property
    def info(self) -> ModelInfo:
        """What is announced of it."""
        ...

    def prepare(self, spec: GenerationSpec, sources: Sources | None = None) -> Sequence[L]:
        """One lane a picture, noise drawn from its own seed, at step 0. `sources`: those of the spec, None where it has none."""
        ...

    def step(self, lanes: Sequence[L]) -> None:
        """Moves every lane one step on in one network call. Lanes of one bucket, each at its own step, prompt, seed and guidance."""
        ...

    def decode(self, lanes: Sequence[L]) -> Sequence[Pixels]:
        """Pictures of finished lanes of one bucket, in order, at the size that they were drawn at."""
        ...

    def preview(self, lane: L) -> Pixels:
        """A rough, small picture of a lane after its first step, cheap enough to take at any step."""
        ...

    def check(self, pictures: Sequence[Pixels], version: str) -> Sequence[bool]:
        """Whether the safety checker flags each picture. All False where the model is safe by construction."""
        ...
