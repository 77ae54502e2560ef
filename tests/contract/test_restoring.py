"""Models whose compiled networks were kept: ready without compiling, without diffusers, with the same pictures; or made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flashbulb_server.config import WorkerSettings
from flashbulb_server.core.pipeline import Sources
from flashbulb_server.pipelines import restoring
from flashbulb_server.pipelines.keeping import Cache, fingerprint
from flashbulb_server.pipelines.loading import Loader, Source, find_model, load_embedded, load_folder
from flashbulb_server.pipelines.target import Target
from tests.pipelines.conftest import distance, draw, save_random
from tests.specs import make_image_spec, make_spec

CPU = torch.device("cpu")
TARGET = Target(CPU, torch.float32, threads=1)
EAGER = replace(TARGET, backend="eager")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A random model with a variational encoder, quick to compile."""
    torch.set_num_threads(1)
    return save_random(tmp_path_factory.mktemp("model"), guidance_width=32)


@pytest.fixture(scope="module")
def made(small, tmp_path_factory) -> Path:
    """A folder in which it is kept."""
    folder = tmp_path_factory.mktemp("cache")
    load_folder("small", small, TARGET, {}, kept=Cache(folder))
    return folder


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A copy of that, to break."""
    return Path(shutil.copytree(made, tmp_path / "cache"))


@pytest.fixture
def compiled(monkeypatch) -> list[int]:
    """Grows with every network that is converted."""
    from flashbulb_server.pipelines import openvino_graph

    calls: list[int] = []
    convert = openvino_graph.Converted.__init__
    monkeypatch.setattr(openvino_graph.Converted, "__init__", lambda *args: (calls.append(1), convert(*args))[1])
    return calls


def small_spec(**more):
    return make_spec(**{"width": 32, "height": 32, **more})


def entry(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return found


def test_a_second_start_compiles_nothing(small, made, compiled):
    model = load_folder("small", small, TARGET, {}, kept=Cache(made))
    assert compiled == [] and model.info.backend == "openvino cpu float32"
    eager = load_folder("small", small, EAGER, {})
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for seed in range(3):
        for spec, sources in (
            (small_spec(seed=seed, guidance_scale=1.0 + seed), None),
            (make_image_spec(width=32, height=32, seed=seed, strength=0.7), Sources((image,), None, 32, 32)),
        ):
            assert distance(draw(model, spec, sources)[0], draw(eager, spec, sources)[0]) <= 1


def test_kept_and_compiled_here_are_the_same_to_the_last_bit(small, made):
    here = load_folder("small", small, TARGET, {})
    kept = load_folder("small", small, TARGET, {}, kept=Cache(made))
    assert (draw(here, small_spec())[0] == draw(kept, small_spec())[0]).all()


def find(small: Path, folder: Path):
    return find_model(Source(small), TARGET, Cache(folder))


@pytest.mark.parametrize("file", ["step.blob", "once.pt", "expected.safetensors", "model.json", "step-one.bin"])
def test_a_torn_entry_is_thrown_away(small, copied, caplog, file):
    assert find(small, copied) is not None
    path = entry(copied) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert find(small, copied) is None
    assert not path.exists() and "thrown away" in caplog.text


@pytest.mark.parametrize("part", ["output", "levels", "embeddings", "encoded"])
def test_graphs_that_compute_something_else_are_thrown_away(small, copied, part):
    """As on a processor that the key does not tell from the one they were made on."""
    from safetensors.torch import load_file, save_file

    path = entry(copied) / "expected.safetensors"
    tensors = load_file(path)
    tensors[part] = (tensors[part].flip(-1) + 1).contiguous()
    save_file(tensors, path)
    listed = entry(copied) / "files.json"
    listed.write_text(json.dumps({**json.loads(listed.read_text()), path.name: fingerprint(path)}))
    assert find(small, copied) is None
    assert not path.exists()


def test_what_was_thrown_away_is_made_again(small, copied, compiled):
    (entry(copied) / "step.blob").unlink()
    assert load_folder("small", small, TARGET, {}, kept=Cache(copied)).info.backend == "openvino cpu float32"
    assert compiled
    compiled.clear()
    load_folder("small", small, TARGET, {}, kept=Cache(copied))
    assert compiled == []


def other_weights(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"] += 0.1
    save_file(weights, path, metadata={"format": "pt"})


def other_settings(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "timestep_scaling": 9.0}))


@pytest.mark.parametrize("change", [other_weights, other_settings])
def test_another_model_in_the_same_place_is_another(small, made, tmp_path, change):
    folder = Path(shutil.copytree(small, tmp_path / "model"))
    key = restoring.key(TARGET, folder, None)
    assert key == restoring.key(TARGET, small, None)
    change(folder)
    assert restoring.key(TARGET, folder, None) != key


@pytest.mark.parametrize("change", ["processor", "_version", "_code"])
def test_what_was_made_elsewhere_is_not_used(small, monkeypatch, change):
    before = restoring.key(TARGET, small, None)
    monkeypatch.setattr(restoring, change, lambda *_: "another")
    assert restoring.key(TARGET, small, None) != before


def test_every_setting_has_its_own(small):
    targets = [
        TARGET,
        replace(TARGET, threads=2),
        replace(TARGET, dtype=torch.bfloat16),
        replace(TARGET, quantize="w8a8"),
    ]
    keys = {restoring.key(target, small, decoder) for target in targets for decoder in (None, small / "vae")}
    assert len(keys) == 8


def test_where_nothing_can_be_kept_it_is_compiled(small, tmp_path, compiled, caplog):
    (tmp_path / "file").touch()
    settings = WorkerSettings(
        threads=1, device="cpu", embedded_model=False, models={"small": small}, cache_dir=tmp_path / "file"
    )
    assert Loader(settings).load()["small"].info.backend == "openvino cpu float32"
    assert compiled and "cannot be kept" in caplog.text


def test_torch_draws_until_it_is_compiled_and_then_the_same(small, tmp_path):
    settings = WorkerSettings(
        threads=1, device="cpu", embedded_model=False, models={"small": small}, cache_dir=tmp_path / "cache"
    )
    loader = Loader(settings)
    models, unfinished = loader.load_at_once()
    first = models["small"]
    assert (unfinished, first.info.backend, first.info.fidelity) == (["small"], "torch cpu float32", "EXACT")
    assert loader.find("small", tmp_path / "beside") is None
    Loader(loader.only(["small"])).load()
    then = loader.find("small", tmp_path / "beside")
    assert then.info == replace(first.info, backend="openvino cpu float32")
    for seed in range(3):
        assert distance(draw(first, small_spec(seed=seed))[0], draw(then, small_spec(seed=seed))[0]) <= 1
    assert Loader(settings).load_at_once()[1] == [], "the next start finds it"


@pytest.mark.parametrize("change", [{"backend": "openvino"}, {"backend": "eager"}])
def test_nothing_waits_where_a_backend_was_asked_for(small, change):
    settings = WorkerSettings(threads=1, device="cpu", embedded_model=False, models={"small": small}, **change)
    models, unfinished = Loader(settings).load_at_once()
    assert unfinished == [] and change["backend"] in models["small"].info.backend.replace("torch", "eager")


WITHOUT = """
import sys
from pathlib import Path
from flashbulb_server.config import WorkerSettings
from flashbulb_server.pipelines.loading import load_models
model = load_models(WorkerSettings(threads=1, device="cpu", cache_dir=Path(sys.argv[1])))["flashbulb/tiny"]
print(model.info.backend, [name for name in ("diffusers", "transformers", "torch._dynamo", "grpc") if name in sys.modules])
"""


def test_a_kept_model_needs_no_diffusers(tmp_path):
    load_embedded(TARGET, Cache(tmp_path))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, timeout=110
    )
    assert (run.stdout, run.stderr) == ("openvino cpu float32 []\n", "")


@pytest.mark.slow
def test_bfloat16_is_kept_too(tmp_path):
    target = replace(TARGET, dtype=torch.bfloat16)
    here = load_embedded(target, Cache(tmp_path))
    kept = load_embedded(target, Cache(tmp_path))
    assert kept.info == here.info and kept.info.fidelity == "CLOSE"
    assert distance(draw(here, make_spec())[0], draw(kept, make_spec())[0]) <= 1


def test_the_compiler_ends_with_its_worker():
    """Its standard input is closed when the worker dies, however it dies."""
    from flashbulb_server.config import LogSettings
    from flashbulb_server.pipelines.compiling import MODULE, Order

    settings = WorkerSettings(threads=1, device="cpu", cache_dir=Path(os.devnull))
    order = Order(worker=settings, log=LogSettings(), beside=Path(os.devnull))
    with subprocess.Popen([sys.executable, "-m", MODULE], stdin=subprocess.PIPE) as process:
        process.stdin.write(order.as_line())
        process.stdin.flush()
        process.stdin.close()
        assert process.wait(60) == 1


def test_the_compiler_keeps_what_it_is_told_to(small, tmp_path):
    from flashbulb_server.config import LogSettings
    from flashbulb_server.pipelines.compiling import MODULE, Order

    (tmp_path / "file").touch()
    settings = WorkerSettings(
        threads=1, device="cpu", embedded_model=False, models={"small": small}, cache_dir=tmp_path / "file"
    )
    order = Order(worker=settings, log=LogSettings(), beside=tmp_path / "beside")
    with subprocess.Popen([sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(order.as_line())
        process.stdin.flush()
        assert process.wait(110) == 0, process.stderr.read()
    assert Loader(settings).find("small", tmp_path / "beside").info.backend == "openvino cpu float32"
