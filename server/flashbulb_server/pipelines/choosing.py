"""Which backend runs a model: the one that was asked for, or the fastest that is there and draws the same pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines import openvino_backend
from flashbulb_server.pipelines.backend import Backend, Unsupported
from flashbulb_server.pipelines.eager import EagerBackend
from flashbulb_server.pipelines.networks import Networks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Where networks run and how. `dtype`: how exactly; `threads`: of the CPU, 0 for as many as torch takes."""

    device: torch.device
    dtype: torch.dtype
    backend: Literal["auto", "eager", "openvino"] = "auto"
    threads: int = 0


def open_backend(load: Callable[[torch.dtype], Networks], target: Target) -> tuple[Networks, Backend]:
    """A model's networks, which `load` reads at a dtype, and what runs them.

    Raises Misconfigured if the backend that was asked for cannot run them; `auto` takes torch then, and logs why.
    """
    if not _wants_openvino(target):
        networks = load(target.dtype)
        return networks, EagerBackend(networks)
    networks = load(torch.float32)
    reference = EagerBackend(networks)
    try:
        backend = openvino_backend.OpenVinoBackend(networks, reference, precision=target.dtype, threads=target.threads)
        networks.text_encoder.to(target.dtype)  # torch runs it, once a prompt, as exactly as the rest
        return networks, backend
    except Unsupported as err:
        if target.backend == "openvino":
            raise Misconfigured(f"OpenVINO cannot run it: {err}") from err
        logger.warning("torch runs a model that OpenVINO cannot run", extra={"reason": str(err)})
        networks = networks.cast(target.dtype)
        return networks, EagerBackend(networks)


def _wants_openvino(target: Target) -> bool:
    if target.backend == "openvino":
        if not openvino_backend.is_installed():
            raise Misconfigured("worker.backend is openvino, which is not installed: pip install openvino")
        return True
    able = target.device.type == "cpu" and target.dtype in openvino_backend.PRECISIONS
    return target.backend == "auto" and able and openvino_backend.is_installed()
