"""Where networks run and how, and which backend is to run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines.openvino_backend import PRECISIONS, is_installed

Kind = Literal["eager", "openvino", "compile"]

TITLES: Mapping[Kind, str] = {"eager": "torch", "openvino": "OpenVINO", "compile": "torch.compile"}


@dataclass(frozen=True, slots=True)
class Target:
    """`dtype`: how exactly; `threads`: of the CPU, 0 for as many as torch takes; `sizes`: batch sizes that torch.compile prepares,
    ascending; `quantize`: 8-bit numbers, on OpenVINO alone."""

    device: torch.device
    dtype: torch.dtype
    backend: Literal["auto", "eager", "openvino", "compile"] = "auto"
    threads: int = 0
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    quantize: Literal["none", "w8a8"] = "none"

    @property
    def kind(self) -> Kind:
        """What to try first. On CUDA graphs have to be asked for: recording them has never been run on a card.

        Raises Misconfigured if it cannot be had.
        """
        kind = self._kind()
        if self.quantize != "none" and kind != "openvino":
            raise Misconfigured(
                f"FLASHBULB_WORKER__QUANTIZE is {self.quantize}, which OpenVINO alone can do, and {TITLES[kind]} runs it"
            )
        return kind

    @property
    def may_wait(self) -> bool:
        """Whether torch may draw until compiled networks are there: where nothing was asked for, and both draw the same pictures."""
        return self.backend == "auto" and self.quantize == "none" and self.kind == "openvino"

    def _kind(self) -> Kind:
        if self.backend == "openvino" and not is_installed():
            raise Misconfigured("FLASHBULB_WORKER__BACKEND is openvino, which is not installed: pip install openvino")
        if self.backend != "auto":
            return self.backend
        able = self.device.type == "cpu" and self.dtype in PRECISIONS
        return "openvino" if able and is_installed() else "eager"
