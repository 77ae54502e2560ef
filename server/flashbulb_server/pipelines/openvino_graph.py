"""A torch module as an OpenVINO graph on the CPU: for open shapes at once, and for the shapes that come often, compiled beside.

1. OpenVINO tells a server on the internet who imports it, unless its telemetry package is missing: here it always is.
2. Closed shapes take a quarter less time where a network is small: nothing is left to be worked out at run time. A size that came a
   few times will come again, and compiling it takes half a second of another thread.
3. Snippets, OpenVINO's own fusing of small operations, are off: 2026.4 crashes on the embedded model's closed float32 shapes with them.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

OFTEN = 4
"""Calls with the same shapes after which they get a graph of their own: before core.pace believes what it measured of their size."""

MOST_CLOSED = 8
"""Graphs of closed shapes: each has its own copy of the weights."""

MOST_SEEN = 256
"""Shapes that are counted."""

LARGEST_CLOSED = 2**26
"""Bytes of weights above which a network stays with open shapes: there arithmetic takes the time, and a copy takes memory."""

Shapes = tuple[torch.Size, ...]


class Converted:
    """A module in OpenVINO's words, not compiled yet. `example`: inputs to trace it with, of which only the numbers of axes and the kinds of
    number matter. The same tensor must not be given twice: tracing would join the two inputs."""

    def __init__(self, module: torch.nn.Module, example: tuple[Tensor, ...]) -> None:
        _import()
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about checks of shapes that stay as they are
            traced = torch.jit.trace(module, example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
            self._source = TorchScriptPythonDecoder(traced, example_input=example)  # owns weights that are not packed
            frontend = FrontEndManager().load_by_framework("pytorch")
            self.model = frontend.convert(frontend.load(self._source))

    def changed(self, change: Callable[[Any], Any]) -> Converted:
        """The same with another model, which `change` makes of its own."""
        other = copy.copy(self)
        other.model = change(self.model)
        return other


class Graph:
    """A module, called like it with tensors on the CPU. The result of a call is overwritten by a later one.

    `small`: whether shapes that come often get graphs of their own. `together`: the same in a form that is faster for several rows: those
    graphs are made of it. `config`: OpenVINO's settings for compiling.
    """

    def __init__(
        self, converted: Converted, config: Mapping[str, object], *, small: bool, together: Converted | None = None
    ) -> None:
        openvino = _import()
        self._core, self._tensor = openvino.Core(), openvino.Tensor
        self._config = {**config, "SNIPPETS_MODE": "DISABLE"}
        self._alone, self._together = converted, together or converted
        self._given = config
        self._open = self._compile(converted.model)
        self._closed: dict[Shapes, Any] = {}
        self._seen: Counter[Shapes] = Counter()
        self._lent: Sequence[Tensor] = ()
        self._compiler = ThreadPoolExecutor(1, "flashbulb-compiler") if small else None

    @property
    def closed(self) -> frozenset[Shapes]:
        """The shapes that have graphs of their own by now."""
        return frozenset(self._closed)

    def __call__(self, *inputs: Tensor) -> Tensor:
        self._lent = [tensor.contiguous() for tensor in inputs]  # live as long as a request refers to them
        shapes = tuple(tensor.shape for tensor in inputs)
        request = self._closed.get(shapes)
        if request is None:
            request = self._open
            self._count(shapes)
        for index, tensor in enumerate(self._lent):
            request.set_input_tensor(index, self._tensor(tensor.numpy(), shared_memory=True))
        request.infer()
        return torch.from_numpy(request.get_output_tensor(0).data)

    def changed(self, change: Callable[[Any], Any]) -> Graph:
        """A graph of what `change` makes of the model."""
        return Graph(self._alone.changed(change), self._given, small=self._compiler is not None)

    def _count(self, shapes: Shapes) -> None:
        if self._compiler is None or (shapes not in self._seen and len(self._seen) >= MOST_SEEN):
            return
        self._seen[shapes] += 1
        if self._seen[shapes] == OFTEN and sum(count >= OFTEN for count in self._seen.values()) <= MOST_CLOSED:
            self._compiler.submit(self._close, shapes)

    def _close(self, shapes: Shapes) -> None:
        """On the compiler's thread: makes the graph of these shapes."""
        try:
            model = (self._alone if shapes[0][0] == 1 else self._together).model.clone()
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            self._closed[shapes] = self._compile(model)
        except Exception:
            logger.exception("a graph of closed shapes cannot be made")

    def _compile(self, model: Any) -> Any:  # noqa: ANN401  # openvino's classes are not typed for us
        return self._core.compile_model(model, "CPU", self._config).create_infer_request()


def is_small(module: torch.nn.Module) -> bool:
    """Whether it pays to compile it for single shapes."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) <= LARGEST_CLOSED


def _import() -> Any:  # noqa: ANN401  # a module with types of its own making
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it raises ImportError from now on
    import openvino

    return openvino
