"""Which backend runs a model: the one that was asked for, or the fastest that is there and draws the same pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines.backend import Backend, Unsupported
from flashbulb_server.pipelines.compiled import CompiledBackend
from flashbulb_server.pipelines.eager import EagerBackend
from flashbulb_server.pipelines.networks import Networks
from flashbulb_server.pipelines.openvino_backend import PRECISIONS, OpenVinoBackend, is_installed
from flashbulb_server.pipelines.quantizing import quantize

logger = logging.getLogger(__name__)


Kind = Literal["eager", "openvino", "compile"]

TITLES: Mapping[Kind, str] = {"eager": "torch", "openvino": "OpenVINO", "compile": "torch.compile"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where networks run and how. `dtype`: how exactly; `threads`: of the CPU, 0 for as many as torch takes; `sizes`: batch sizes that
    torch.compile prepares, ascending; `quantize`: 8-bit numbers, on OpenVINO alone."""

    device: torch.device
    dtype: torch.dtype
    backend: Literal["auto", "eager", "openvino", "compile"] = "auto"
    threads: int = 0
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    quantize: Literal["none", "w8a8"] = "none"


def open_backend(load: Callable[[torch.dtype], Networks], target: Target) -> tuple[Networks, Backend]:
    """A model's networks, which `load` reads at a dtype, and what runs them.

    Raises Misconfigured if the backend that was asked for cannot run them; `auto` takes torch then, and logs why.
    """
    kind = _wanted(target)
    if target.quantize != "none" and kind != "openvino":
        raise Misconfigured(
            f"FLASHBULB_WORKER__QUANTIZE is {target.quantize}, which OpenVINO alone can do, and {TITLES[kind]} runs it"
        )
    networks = load(torch.float32 if kind == "openvino" else target.dtype)
    reference = EagerBackend(networks)
    try:
        match kind:
            case "eager":
                return networks, reference
            case "compile":
                return networks, CompiledBackend(networks, reference, sizes=target.sizes)
            case "openvino":
                backend = OpenVinoBackend(networks, reference, precision=target.dtype, threads=target.threads)
                if target.quantize == "w8a8":
                    quantize(networks, backend)
                networks.text_encoder.to(target.dtype)  # torch runs it, once a prompt, as exactly as the rest
                return networks, backend
    except Unsupported as err:
        if target.backend == kind or target.quantize != "none":
            raise Misconfigured(f"FLASHBULB_WORKER__BACKEND: {TITLES[kind]} cannot run it: {err}") from err
        logger.warning("torch runs a model that %s cannot run", TITLES[kind], extra={"reason": str(err)})
        networks = networks.cast(target.dtype)
        return networks, EagerBackend(networks)


def _wanted(target: Target) -> Kind:
    """What to try. On CUDA graphs have to be asked for: recording them has never been run on a card."""
    if target.backend == "openvino" and not is_installed():
        raise Misconfigured("FLASHBULB_WORKER__BACKEND is openvino, which is not installed: pip install openvino")
    if target.backend != "auto":
        return target.backend
    able = target.device.type == "cpu" and target.dtype in PRECISIONS
    return "openvino" if able and is_installed() else "eager"
