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
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
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
Config = Mapping[str, object]


class Converted:
    """A module in OpenVINO's words, not compiled yet. `example`: inputs to trace it with, of which only the numbers of axes and the kinds of
    number matter. The same tensor must not be given twice: tracing would join the two inputs."""

    def __init__(self, module: torch.nn.Module, example: tuple[Tensor, ...]) -> None:
        import_openvino()
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

    `compiled`: OpenVINO's compiled model, for open shapes. `model`: gives its model to make graphs of closed shapes of, in the form that is
    best for several rows (True) or for one; None where such graphs do not pay. `owner`: of memory that the compiled model reads. `config`:
    OpenVINO's settings for compiling.
    """

    def __init__(
        self,
        compiled: Any,  # noqa: ANN401  # openvino's classes are not typed for us
        model: Callable[[bool], Any] | None,
        owner: object,
        config: Config,
    ) -> None:
        self._tensor = import_openvino().Tensor
        self._compiled, self._model, self._owner, self._config = compiled, model, owner, config
        self._open = compiled.create_infer_request()
        self._closed: dict[Shapes, Any] = {}
        self._seen: Counter[Shapes] = Counter()
        self._lent: Sequence[Tensor] = ()
        self._compiler = None if model is None else ThreadPoolExecutor(1, "flashbulb-compiler")

    @classmethod
    def compile(cls, converted: Converted, config: Config, *, small: bool, together: Converted | None = None) -> Graph:
        """`small`: whether shapes that come often get graphs of their own. `together`: the same in a form that is faster for several rows."""
        forms = (converted, together or converted)
        model = (lambda rows: forms[rows].model.clone()) if small else None
        return cls(_compile(converted.model, config), model, converted, config)

    def changed(self, change: Callable[[Any], Any]) -> Graph:
        """Of a graph that was compiled here: that of what `change` makes of its model."""
        assert isinstance(self._owner, Converted), "it was loaded"
        return Graph.compile(self._owner.changed(change), self._config, small=self._model is not None)

    def save(self, folder: Path, name: str) -> None:
        """Writes it into files of a folder, whose names begin with `name`."""
        content = BytesIO()
        self._compiled.export_model(content)
        (folder / f"{name}.blob").write_bytes(content.getbuffer())
        if self._model is not None:
            for rows in (False, True):
                import_openvino().save_model(self._model(rows), folder / _form(name, rows), compress_to_fp16=False)

    @classmethod
    def load(cls, folder: Path, name: str, config: Config) -> Graph:
        """What was saved there, without compiling anything; the files are used for as long as it lives. Raises RuntimeError for torn ones."""
        openvino = import_openvino()
        content = np.memmap(folder / f"{name}.blob", mode="c")  # openvino wants it writeable; nobody writes
        compiled = openvino.Core().import_model(openvino.Tensor(content, shared_memory=True), "CPU", _settings(config))

        def model(rows: bool) -> Any:  # noqa: ANN401  # as above
            return openvino.Core().read_model(folder / _form(name, rows))

        return cls(compiled, model if (folder / _form(name, False)).exists() else None, content, config)

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

    def _count(self, shapes: Shapes) -> None:
        if self._compiler is None or (shapes not in self._seen and len(self._seen) >= MOST_SEEN):
            return
        self._seen[shapes] += 1
        if self._seen[shapes] == OFTEN and sum(count >= OFTEN for count in self._seen.values()) <= MOST_CLOSED:
            self._compiler.submit(self._close, shapes)

    def _close(self, shapes: Shapes) -> None:
        """On the compiler's thread: makes the graph of these shapes."""
        assert self._model is not None, "there is a compiler only where there is a model"
        try:
            model = self._model(shapes[0][0] > 1)
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            self._closed[shapes] = _compile(model, self._config).create_infer_request()
        except Exception:
            logger.exception("a graph of closed shapes cannot be made")


def _compile(model: Any, config: Config) -> Any:  # noqa: ANN401  # openvino's classes are not typed for us
    return import_openvino().Core().compile_model(model, "CPU", _settings(config))


def _settings(config: Config) -> dict[str, object]:
    return {**config, "SNIPPETS_MODE": "DISABLE"}


def _form(name: str, rows: bool) -> str:
    return f"{name}-{'several' if rows else 'one'}.xml"


def processor() -> str:
    """What OpenVINO knows of the processor: graphs are made for it."""
    core = import_openvino().Core()
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {sorted(core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))}"


def is_small(module: torch.nn.Module) -> bool:
    """Whether it pays to compile it for single shapes."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) <= LARGEST_CLOSED


def import_openvino() -> Any:  # noqa: ANN401  # a module with types of its own making
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it raises ImportError from now on
    import openvino

    return openvino
