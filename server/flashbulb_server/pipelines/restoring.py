"""Models whose networks are compiled, written into a folder and read from it: read, they need neither diffusers nor transformers.

1. The key of an entry names all that its numbers depend on: weights and configuration, our code, the libraries, the processor, settings.
2. What is read is checked with a small batch, whose outcome was written with it.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from flashbulb_server.pipelines.checking import Expected, Sample
from flashbulb_server.pipelines.figures import Figures
from flashbulb_server.pipelines.keeping import Cache, fingerprint, key_of
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.openvino_backend import OpenVinoBackend, Setting
from flashbulb_server.pipelines.openvino_graph import processor
from flashbulb_server.pipelines.schedule import Rule, Schedules
from flashbulb_server.pipelines.target import Target
from flashbulb_server.pipelines.tokens import Tokens

_LIBRARIES = ("torch", "openvino", "diffusers", "transformers", "tokenizers", "safetensors", "numpy")
_READ = {".json", ".safetensors", ".txt", ".model"}
"""Endings of the files that models are read from."""


def key(target: Target, *folders: Path | None) -> str:
    """The key of a model in folders, compiled for a target. A folder that is missing or broken has one too."""
    setting = Setting(target.dtype, target.threads)
    return key_of(
        {
            "weights": [None if folder is None else _files(folder, _READ) for folder in folders],
            "code": _code(),
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability(), processor()],
            "settings": [dict(setting.config), target.quantize],
        }
    )


def restore(kept: Cache, key: str, target: Target) -> Model | None:
    """The model that was kept, checked. None if there is none, or one that is of no use, which is thrown away."""
    folder = kept.find(key)
    if folder is None:
        return None
    try:
        return _read(folder, Setting(target.dtype, target.threads))
    except Exception as err:  # noqa: BLE001  # whatever libraries may raise that read what they have not written
        kept.discard(key, err)
        return None


def save(model: Model, backend: OpenVinoBackend, expected: Expected, folder: Path) -> None:
    """Writes a model and its backend into files of a folder. `expected`: a sample that the backend was checked with. Raises OSError."""
    backend.save(folder)
    own = Expected.of(expected.sample, backend, ends=True)
    tensors = {**_tensors(own.sample), **_tensors(own)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "expected.safetensors")
    (folder / "tokenizer.json").write_text(model.tokens.saved(), encoding="utf-8")
    told = {
        "figures": asdict(model.figures),
        "rule": asdict(model.schedules.rule),
        "tokens": {"length": model.tokens.length, "filler": model.tokens.filler},
        "backend": {"fidelity": backend.fidelity, "changed": backend.changed},
    }
    (folder / "model.json").write_text(json.dumps(told), encoding="utf-8")


def _read(folder: Path, setting: Setting) -> Model:
    told = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    backend = OpenVinoBackend.load(folder, setting, **told["backend"])
    tensors = load_file(folder / "expected.safetensors")
    sample = Sample(**{field.name: tensors.get(field.name) for field in fields(Sample)})  # type: ignore[arg-type]  # guidance alone may be None
    outcome = {field.name: tensors[field.name] for field in fields(Expected) if field.name != "sample"}
    with torch.inference_mode():
        Expected(sample, **outcome).check(backend, setting.precision)
    return Model(
        Figures(**told["figures"]),
        Tokens.restored((folder / "tokenizer.json").read_text(encoding="utf-8"), **told["tokens"]),
        Schedules(Rule(**{**told["rule"], "alphas": tuple(told["rule"]["alphas"])})),
        backend,
        torch.device("cpu"),
        torch.float32,
    )


def _tensors(value: Sample | Expected) -> dict[str, torch.Tensor]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def _files(folder: Path, endings: set[str]) -> dict[str, str]:
    """Fingerprints of the files in a folder that end so, by their paths."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in endings and path.is_file())
    return {path.relative_to(folder).as_posix(): fingerprint(path) for path in found}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@cache
def _code() -> dict[str, str]:
    """What our own part in it depends on."""
    return _files(Path(__file__).parent, {".py"})
