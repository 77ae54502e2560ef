"""Which backend runs a model: the one that was asked for, or the fastest that is there and draws the same pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines.backend import Backend, Unsupported
from flashbulb_server.pipelines.checking import Expected, Sample
from flashbulb_server.pipelines.compiled import CompiledBackend
from flashbulb_server.pipelines.eager import EagerBackend
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.networks import Networks
from flashbulb_server.pipelines.openvino_backend import OpenVinoBackend, Setting
from flashbulb_server.pipelines.quantizing import quantize
from flashbulb_server.pipelines.restoring import save
from flashbulb_server.pipelines.target import TITLES, Target

logger = logging.getLogger(__name__)

Keep = Callable[[Callable[[Path], None]], None]
"""Is given what writes a compiled model into a folder."""


def open_backend(
    load: Callable[[torch.dtype], Networks], target: Target, keep: Keep | None = None
) -> tuple[Networks, Backend]:
    """A model's networks, which `load` reads at a dtype, and what runs them. `keep`: called with compiled ones that can be kept.

    Raises Misconfigured if the backend that was asked for cannot run them; `auto` takes torch then, and logs why.
    """
    kind = target.kind
    networks = load(torch.float32 if kind == "openvino" else target.dtype)
    reference = EagerBackend(networks)
    try:
        match kind:
            case "eager":
                return networks, reference
            case "compile":
                return networks, CompiledBackend(networks, reference, sizes=target.sizes)
            case "openvino":
                return networks, _converted(networks, reference, target, keep)
    except Unsupported as err:
        if target.backend == kind or target.quantize != "none":
            raise Misconfigured(f"FLASHBULB_WORKER__BACKEND: {TITLES[kind]} cannot run it: {err}") from err
        logger.warning("torch runs a model that %s cannot run", TITLES[kind], extra={"reason": str(err)})
        networks = networks.cast(target.dtype)
        return networks, EagerBackend(networks)


def _converted(networks: Networks, reference: Backend, target: Target, keep: Keep | None) -> OpenVinoBackend:
    expected = Expected.of(Sample.of(networks), reference, ends=True)
    backend = OpenVinoBackend.convert(networks, expected, Setting(target.dtype, target.threads))
    if target.quantize == "w8a8":
        quantize(networks, backend)
    if keep is not None:
        keep(lambda folder: save(Model.of(networks, backend), backend, expected, folder))
    return backend
