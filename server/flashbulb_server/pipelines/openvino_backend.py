"""The networks compiled by OpenVINO for the CPU: fused, with weights packed for the processor, for any batch and any size.

1. Converted at load from the very modules that diffusers loaded, and checked against them; or taken from a folder where that was saved.
2. What runs once a picture is run by torch: both ends, and what depends on time, guidance and prompt alone (pipelines.once).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import Condition, Unsupported
from flashbulb_server.pipelines.checking import Decode, Expected, fidelity_of
from flashbulb_server.pipelines.ends import Ends
from flashbulb_server.pipelines.once import Once
from flashbulb_server.pipelines.openvino_graph import Config, Converted, Graph, is_small

if TYPE_CHECKING:
    from flashbulb_server.pipelines.networks import Networks

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""What can be asked for, and OpenVINO's word for it. Weights are float32 in either case."""


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


@dataclass(frozen=True, slots=True)
class Setting:
    """How graphs compute: as exactly as `precision` says, on `threads` threads; 0 takes as many as torch does."""

    precision: torch.dtype
    threads: int = 0

    @property
    def config(self) -> Config:
        """In OpenVINO's words."""
        return {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.precision],
            "INFERENCE_NUM_THREADS": self.threads or torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the machine is not ours alone
        }


class OpenVinoBackend:
    """Networks whose weights are float32, on the CPU. `fidelity`: of the graphs as they are. `changed`: as by `change_step`."""

    def __init__(
        self, once: Once, step: Graph, decoder: Graph, setting: Setting, *, fidelity: str, changed: bool = False
    ) -> None:
        self._once, self._step, self._decoder = once, step, decoder
        self._setting, self._fidelity, self._changed = setting, fidelity, changed

    @classmethod
    def convert(cls, networks: Networks, expected: Expected, setting: Setting) -> OpenVinoBackend:
        """The graphs of networks in float32 on the CPU, whose text encoder runs as exactly as the rest from now on.

        `expected`: what the results are checked against, the ends too. Raises Unsupported when they cannot be converted.
        """
        from flashbulb_server.pipelines.conditioning import Conditioner  # diffusers

        precision, sample = setting.precision, expected.sample
        if networks.device.type != "cpu" or networks.dtype != torch.float32 or precision not in PRECISIONS:
            raise Unsupported(f"{networks.device.type} {networks.dtype} as {precision}")
        try:
            conditioner = Conditioner(networks.unet)
            networks.text_encoder.to(precision)
            once = Once.record(Ends(networks, torch.float32), conditioner, sample)
            moments = once.moments(sample.timesteps, sample.prompt[:1], sample.guidance)
            example = (sample.latents, moments, once.keys(sample.prompt))
            step = _compiled(networks.unet, conditioner.detached, example, setting)
            whole = Decode(networks.decoder)
            decoder = _compiled(networks.decoder, lambda **_: nullcontext(whole), example[:1], setting)
            fidelity = fidelity_of(networks, precision)
            backend = cls(once, step, decoder, setting, fidelity=fidelity)
            expected.check(backend, precision)
        except Unsupported:
            raise
        except Exception as err:  # whatever tracing and compiling a stranger's network may raise
            raise Unsupported(f"{type(err).__name__}: {err}") from err
        return backend

    def save(self, folder: Path) -> None:
        """Writes everything into files of a folder. Raises OSError."""
        self._once.save(folder / "once.pt")
        self._step.save(folder, "step")
        self._decoder.save(folder, "decoder")

    @classmethod
    def load(cls, folder: Path, setting: Setting, *, fidelity: str, changed: bool) -> OpenVinoBackend:
        """What was saved there, which is not checked yet. Raises whatever reading a torn file may raise."""
        step, decoder = (Graph.load(folder, name, setting.config) for name in ("step", "decoder"))
        return cls(Once.load(folder / "once.pt"), step, decoder, setting, fidelity=fidelity, changed=changed)

    @property
    def name(self) -> str:
        """`openvino cpu` and the precision."""
        return f"openvino cpu {'w8a8' if self._changed else str(self._setting.precision).removeprefix('torch.')}"

    @property
    def fidelity(self) -> str:
        """EXACT in float32."""
        return "APPROX" if self._changed else self._fidelity

    @property
    def changed(self) -> bool:
        """Whether the UNet was changed."""
        return self._changed

    def change_step(self, change: Callable[[Any], Any]) -> None:
        """Replaces the UNet's graph by what `change` makes of OpenVINO's model: 8-bit numbers (pipelines.quantizing)."""
        self._step = self._step.changed(change)
        self._changed = True

    def embed(self, tokens: Tensor) -> Tensor:
        """One call of the text encoder, by torch."""
        return self._once.embed(tokens)

    def encode(self, picture: Tensor) -> Tensor:
        """One call of the encoder, by torch in float32."""
        return self._once.encode(picture)

    def condition(self, timesteps: Sequence[int], prompt: Tensor, guidance: Tensor | None) -> Condition:
        """What time, guidance and prompt are to every block of the UNet."""
        moments = self._once.moments(torch.tensor(timesteps), prompt, guidance)
        return Condition(moments, (self._once.keys(prompt),))

    def predict(self, latents: Tensor, moments: Tensor, fixed: Sequence[Tensor]) -> Tensor:
        """One run of the UNet."""
        return self._step(latents, moments, *fixed)

    def decode(self, latents: Tensor) -> Tensor:
        """One run of the decoder, levels included."""
        return self._decoder(latents).clone()


def _compiled(
    network: torch.nn.Module,
    open_part: Callable[..., AbstractContextManager[torch.nn.Module]],
    example: tuple[Tensor, ...],
    setting: Setting,
) -> Graph:
    """The graph of what `open_part` opens of `network`. Norms in parts pay where maps are large or many, and need float32."""
    from flashbulb_server.pipelines.rewriting import rewritten  # diffusers

    small, exact = is_small(network), setting.precision == torch.float32

    def convert(*, norms: bool) -> Converted:
        with open_part(norms_apart=norms) as part, rewritten(network, norms=norms):
            return Converted(part, example)

    has_norms = any(isinstance(part, torch.nn.GroupNorm) for part in network.modules())
    together = convert(norms=True) if small and exact and has_norms else None
    return Graph.compile(convert(norms=exact and not small), setting.config, small=small, together=together)
