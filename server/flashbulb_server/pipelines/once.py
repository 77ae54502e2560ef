"""What runs once a picture beside compiled graphs: recorded from the networks' own modules, and run by torch without their classes.

The operations are the recorded modules' own, in their dtypes, so that numbers are the same to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flashbulb_server.pipelines.ends import Ends

if TYPE_CHECKING:
    from flashbulb_server.pipelines.checking import Sample
    from flashbulb_server.pipelines.conditioning import Conditioner


class Once:
    """Text encoder, encoder of pictures and conditioner, as one recording."""

    def __init__(self, recording: Any) -> None:  # noqa: ANN401  # torch.jit.ScriptModule, whose methods are made at run time
        self.embed: Callable[[Tensor], Tensor] = partial(_run, recording.embed)
        self.encode: Callable[[Tensor], Tensor] = partial(_run, recording.encode)
        self.keys: Callable[[Tensor], Tensor] = partial(_run, recording.keys)
        self._moments: Callable[..., Tensor] = partial(_run, recording.moments)
        self._recording = recording

    @classmethod
    def record(cls, ends: Ends, conditioner: Conditioner, sample: Sample) -> Once:
        """Runs every part with a sample. Raises whatever tracing a stranger's network may raise."""
        told = (sample.timesteps, sample.prompt[:1])
        inputs = {
            "embed": (sample.tokens,),
            "encode": (sample.picture,),
            "keys": (sample.prompt[:1],),
            "moments": told if sample.guidance is None else (*told, sample.guidance),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about checks of shapes that stay as they are
            recording = torch.jit.trace_module(_Parts(ends, conditioner), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        return cls(recording)

    def moments(self, timesteps: Tensor, prompt: Tensor, guidance: Tensor | None) -> Tensor:
        """As of a Conditioner."""
        return self._moments(timesteps, prompt) if guidance is None else self._moments(timesteps, prompt, guidance)

    def save(self, path: Path) -> None:
        """Writes the recording into a file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its future
            torch.jit.save(self._recording, str(path))

    @classmethod
    def load(cls, path: Path) -> Once:
        """What was saved there. Raises RuntimeError or ValueError if that is not whole."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            return cls(torch.jit.load(str(path)))  # type: ignore[no-untyped-call]


def _run(method: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Runs it as it was recorded: torch would otherwise spend the first calls on making it faster, and gain nothing."""
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        return method(*inputs)


class _Parts(torch.nn.Module):
    def __init__(self, ends: Ends, conditioner: Conditioner) -> None:
        super().__init__()
        self.ends, self.conditioner = ends, conditioner

    def embed(self, tokens: Tensor) -> Tensor:
        return self.ends.embed(tokens)

    def encode(self, picture: Tensor) -> Tensor:
        return self.ends.encode(picture)

    def keys(self, prompt: Tensor) -> Tensor:
        return self.conditioner.keys(prompt)

    def moments(self, timesteps: Tensor, prompt: Tensor, guidance: Tensor | None = None) -> Tensor:
        return self.conditioner.moments(timesteps, prompt, guidance)
