"""The networks compiled by OpenVINO for the CPU: fused, with weights packed for the processor, for any batch and any size.

1. Converted at load from the very modules that diffusers loaded, and checked against them; no network, no files.
2. What depends on time, guidance and prompt alone is computed by torch, once a picture (pipelines.conditioning).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import Backend, Condition, Unsupported
from flashbulb_server.pipelines.checking import Decode, Expected, Sample, fidelity_of
from flashbulb_server.pipelines.conditioning import Conditioner
from flashbulb_server.pipelines.networks import Networks
from flashbulb_server.pipelines.openvino_graph import Converted, Graph, is_small
from flashbulb_server.pipelines.rewriting import rewritten

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""What can be asked for, and OpenVINO's word for it. Weights are float32 in either case."""


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoBackend:
    """Networks in float32 on the CPU, run as exactly as `precision` says. Raises Unsupported when they cannot be converted.

    `reference`: what its results are checked against. `threads`: 0 takes as many as torch does.
    """

    def __init__(self, networks: Networks, reference: Backend, *, precision: torch.dtype, threads: int = 0) -> None:
        if networks.device.type != "cpu" or networks.dtype != torch.float32 or precision not in PRECISIONS:
            raise Unsupported(f"{networks.device.type} {networks.dtype} as {precision}")
        self._precision = precision
        self._networks = networks
        self._changed = False
        config = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the machine is not ours alone
        }
        try:
            sample = Sample(networks)
            expected = Expected(sample, reference)
            self._conditioner = Conditioner(networks.unet)
            moments = self._conditioner.moments(sample.timesteps, sample.prompt[:1], sample.guidance)
            keys = self._conditioner.keys(sample.prompt)
            example = (sample.latents, moments, keys)
            self._step = self._compiled(networks.unet, self._conditioner.detached, example, config)
            self._decoder = self._compiled(
                networks.decoder, lambda **_: nullcontext(Decode(networks.decoder)), example[:1], config
            )
            expected.check(self, precision)
        except Unsupported:
            raise
        except Exception as err:  # whatever tracing and compiling a stranger's network may raise
            raise Unsupported(f"{type(err).__name__}: {err}") from err

    def _compiled(
        self,
        network: torch.nn.Module,
        open_part: Callable[..., AbstractContextManager[torch.nn.Module]],
        example: tuple[Tensor, ...],
        config: Mapping[str, object],
    ) -> Graph:
        """The graph of what `open_part` opens of `network`. Norms in parts pay where maps are large or many, and need float32."""
        small = is_small(network)

        def convert(*, norms: bool) -> Converted:
            with open_part(norms_apart=norms) as part, rewritten(network, norms=norms):
                return Converted(part, example)

        exact = self._precision == torch.float32
        has_norms = any(isinstance(part, torch.nn.GroupNorm) for part in network.modules())
        together = convert(norms=True) if small and exact and has_norms else None
        return Graph(convert(norms=exact and not small), config, small=small, together=together)

    @property
    def name(self) -> str:
        """`openvino cpu` and the precision."""
        return f"openvino cpu {'w8a8' if self._changed else str(self._precision).removeprefix('torch.')}"

    @property
    def fidelity(self) -> str:
        """EXACT in float32."""
        return "APPROX" if self._changed else fidelity_of(self._networks, self._precision)

    def change_step(self, change: Callable[[Any], Any]) -> None:
        """Replaces the UNet's graph by what `change` makes of OpenVINO's model: 8-bit numbers (pipelines.quantizing)."""
        self._step = self._step.changed(change)
        self._changed = True

    def condition(self, timesteps: Sequence[int], prompt: Tensor, guidance: Tensor | None) -> Condition:
        """What time, guidance and prompt are to every block of the UNet."""
        moments = self._conditioner.moments(torch.tensor(timesteps), prompt, guidance)
        return Condition(moments, (self._conditioner.keys(prompt),))

    def predict(self, latents: Tensor, moments: Tensor, fixed: Sequence[Tensor]) -> Tensor:
        """One run of the UNet."""
        return self._step(latents, moments, *fixed)

    def decode(self, latents: Tensor) -> Tensor:
        """One run of the decoder, levels included."""
        return self._decoder(latents).clone()
