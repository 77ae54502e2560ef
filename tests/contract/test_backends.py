"""What every backend must do: the networks' own pictures within its tier, for any batch and any size."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, LatentConsistencyModelPipeline

from flashbulb_server.config import WorkerSettings
from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines import quantizing
from flashbulb_server.pipelines.backend import Unsupported
from flashbulb_server.pipelines.checking import Expected, Sample
from flashbulb_server.pipelines.choosing import open_backend
from flashbulb_server.pipelines.eager import EagerBackend
from flashbulb_server.pipelines.loading import (
    EMBEDDED_FOLDER,
    EMBEDDED_MODEL,
    UnusableFolder,
    load_embedded,
    load_folder,
    load_models,
)
from flashbulb_server.pipelines.networks import load_networks
from flashbulb_server.pipelines.openvino_backend import OpenVinoBackend, Setting
from flashbulb_server.pipelines.openvino_graph import OFTEN
from flashbulb_server.pipelines.target import Target
from tests.graphs import FOLDER as GRAPHS_FOLDER
from tests.graphs import GRAPHS
from tests.pipelines.conftest import distance, draw, save_random, stock_draw
from tests.specs import make_spec

CPU = torch.device("cpu")
TARGETS = {
    f"{backend} {dtype}": Target(CPU, getattr(torch, dtype), backend, threads=1)
    for backend in ("eager", "openvino")
    for dtype in ("float32", "bfloat16")
}
PROMPTS = ["a red apple", "a cat face", "a rocket", "a house", "a blue car", "a pizza", "a green tree", "a crown"]


@pytest.fixture(scope="module", params=TARGETS)
def target(request) -> Target:
    return TARGETS[request.param]


@pytest.fixture(scope="module")
def model(target):
    torch.set_num_threads(1)
    return load_embedded(target, GRAPHS)


@pytest.fixture(scope="module")
def backend(target):
    return open_backend(partial(load_networks, EMBEDDED_FOLDER, CPU), target)[1]


@pytest.fixture(scope="module")
def stock():
    pipeline = LatentConsistencyModelPipeline.from_pretrained(
        str(EMBEDDED_FOLDER), dtype=torch.float32, low_cpu_mem_usage=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def networks():
    return load_networks(EMBEDDED_FOLDER, CPU, torch.float32)


def convert(networks) -> OpenVinoBackend:
    expected = Expected.of(Sample.of(networks), EagerBackend(networks), ends=True)
    return OpenVinoBackend.convert(networks, expected, Setting(torch.float32, threads=1))


def decibels(a, b) -> float:
    error = ((a.astype(float) - b.astype(float)) ** 2).mean()
    return 20 * np.log10(255 / np.sqrt(max(error, 1e-9)))


def assert_same(picture, reference, target: Target) -> None:
    if target.dtype == torch.float32:
        assert distance(picture, reference) <= 1
    else:
        assert decibels(picture, reference) >= 40


def rows(backend, target: Target, count: int, height=16, width=16, seed=0):
    """Inputs of a mixed batch: every row has its own timestep, prompt and guidance."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    dtype = torch.float32 if target.backend == "openvino" else target.dtype
    conditions = [
        backend.condition((999 - 100 * row,), noise(1, 32, 128).to(dtype), noise(1, 64).to(dtype))
        for row in range(count)
    ]
    fixed = [torch.cat(parts) for parts in zip(*(c.fixed for c in conditions), strict=True)]
    return noise(count, 8, height, width), torch.cat([c.moments for c in conditions]), fixed


@pytest.mark.parametrize("count, height, width", [(1, 16, 16), (3, 16, 16), (8, 8, 24), (2, 32, 16), (1, 4, 4)])
@torch.inference_mode()
def test_shapes_and_kinds(backend, target, count, height, width):
    latents, moments, fixed = rows(backend, target, count, height, width)
    output = backend.predict(latents, moments, fixed)
    assert (output.shape, output.dtype) == (latents.shape, torch.float32)
    picture = backend.decode(latents)
    assert (picture.shape, picture.dtype) == ((count, height * 8, width * 8, 3), torch.uint8)
    assert picture.is_contiguous()


@torch.inference_mode()
def test_a_row_is_the_same_in_any_batch(backend, target):
    latents, moments, fixed = rows(backend, target, 8)
    together = backend.predict(latents, moments, fixed).clone()
    limit = float(together.abs().max()) * (1e-4 if target.dtype == torch.float32 else 0.05)
    sizes = list(range(1, 8))
    random.Random(0).shuffle(sizes)
    for size in sizes:
        part = backend.predict(latents[-size:], moments[-size:], [f[-size:] for f in fixed])
        assert float((part - together[-size:]).abs().max()) <= limit
    assert float((together[0] - together[1]).abs().max()) > 10 * limit, "rows that are equal would prove nothing"


@torch.inference_mode()
def test_a_decoded_picture_outlives_the_next_call(backend):
    first = backend.decode(torch.zeros(1, 8, 16, 16))
    copy = first.clone()
    backend.decode(torch.ones(1, 8, 16, 16))
    assert torch.equal(first, copy)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_pictures_are_those_of_diffusers(model, target, stock, steps):
    assert model.info.fidelity == ("EXACT" if target.dtype == torch.float32 else "CLOSE")
    for seed, scale in ((7, 1.5), (2**53 - 1, 6.0)):
        spec = make_spec(num_inference_steps=steps, seed=seed, guidance_scale=scale)
        assert_same(draw(model, spec)[0], stock_draw(stock, spec), target)


def test_a_picture_is_the_same_in_a_batch_that_changes(model, target):
    specs = [make_spec(prompt=prompt, seed=i, num_inference_steps=1 + i % 4) for i, prompt in enumerate(PROMPTS)]
    alone = [draw(model, spec)[0] for spec in specs]
    lanes = [model.prepare(spec)[0] for spec in specs]
    while flying := [lane for lane in lanes if lane.step < lane.total_steps]:
        model.step(flying)
    for picture, reference in zip(model.decode(lanes), alone, strict=True):
        assert_same(picture, reference, target)


@pytest.mark.parametrize("name", ["eager float32", "openvino float32"])  # random weights are too rough for bfloat16
def test_a_model_without_guidance_embedding_and_other_sizes(name, tmp_path):
    """Classifier-free guidance takes two rows a picture, of one timestep and two prompts."""
    target = TARGETS[name]
    folder = save_random(tmp_path, guidance_width=None)
    reference = load_folder("reference", folder, TARGETS["eager float32"], {})
    model = load_folder("random", folder, target, {})
    for width, height in ((32, 32), (40, 24), (64, 32)):
        spec = make_spec(width=width, height=height, guidance_scale=4.0, negative_prompt="dull")
        assert_same(draw(model, spec)[0], draw(reference, spec)[0], target)


@pytest.mark.slow
def test_memory_does_not_grow():
    """200 steps of batches that change at every step, after every size was met and got its graph."""
    model = load_embedded(TARGETS["openvino float32"], GRAPHS)
    rng = random.Random(1)
    lanes = [lane for i in range(8) for lane in model.prepare(make_spec(seed=i, num_inference_steps=50))]

    def step(count):
        for lane in lanes:
            lane.step %= 49
        model.step(rng.sample(lanes, count))

    for count in range(1, 9):
        for _ in range(OFTEN):
            step(count)
        wait_for(lambda: len(model._backend._step.closed) == count)  # noqa: B023  # called here and now
    for _ in range(50):
        step(rng.randrange(1, 9))
    before = _resident()
    for _ in range(200):
        step(rng.randrange(1, 9))
    assert _resident() - before < 16 * 2**20


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@torch.inference_mode()
def test_a_shape_that_comes_often_gets_its_own_graph():
    target = TARGETS["openvino float32"]
    backend = open_backend(partial(load_networks, EMBEDDED_FOLDER, CPU), target)[1]
    latents, moments, fixed = rows(backend, target, 2)
    before = backend.predict(latents, moments, fixed).clone()
    shapes = (latents.shape, moments.shape, fixed[0].shape)
    for _ in range(OFTEN):
        assert shapes not in backend._step.closed
        backend.predict(latents, moments, fixed)
    wait_for(lambda: shapes in backend._step.closed)
    after = backend.predict(latents, moments, fixed)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def _random_folder(tmp_path, **unet) -> Path:
    from tests.pipelines import conftest

    parts = conftest.random_parts(guidance_width=32, **unet)
    pipeline = LatentConsistencyModelPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.save_pretrained(str(tmp_path))
    return tmp_path


class _OtherWhenTraced(torch.nn.Module):
    """A part that a tracer records wrongly."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.part(x)
        return y * 0.5 if torch.jit.is_tracing() else y


@pytest.mark.parametrize("part", ["UNet", "decoder"])
def test_what_comes_out_differently_is_refused(networks, part):
    if part == "UNet":
        networks.unet.conv_out = _OtherWhenTraced(networks.unet.conv_out)
    else:
        networks.vae.decoder = _OtherWhenTraced(networks.vae.decoder)
    with torch.inference_mode(), pytest.raises(Unsupported, match=f"{part} differs"):
        convert(networks)


def test_what_openvino_cannot_run_runs_on_torch(caplog):
    def load(dtype):
        networks = load_networks(EMBEDDED_FOLDER, CPU, dtype)
        networks.unet.conv_out = _OtherWhenTraced(networks.unet.conv_out)
        return networks

    with torch.inference_mode():
        networks, backend = open_backend(load, Target(CPU, torch.bfloat16))
        assert (backend.name, backend.fidelity) == ("torch cpu bfloat16", "CLOSE")
        assert {p.dtype for p in networks.unet.parameters()} == {torch.bfloat16}
        assert "OpenVINO cannot run" in caplog.text
        with pytest.raises(Misconfigured, match="OpenVINO cannot run it: its UNet differs"):
            open_backend(load, TARGETS["openvino bfloat16"])


def test_a_refused_unet_is_left_whole(networks):
    spec = torch.zeros(1, 8, 16, 16), torch.tensor([499])
    words = {"encoder_hidden_states": torch.ones(1, 32, 128), "timestep_cond": torch.zeros(1, 64)}
    before = networks.unet(*spec, **words).sample
    convert(networks)
    torch.testing.assert_close(networks.unet(*spec, **words).sample, before)


def test_a_tiny_decoder_is_announced_as_approximate(target, tmp_path):
    folder = _random_folder(tmp_path / "model")
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )
    tiny.save_pretrained(str(tmp_path / "decoder"))
    own = load_folder("mine", folder, target, {}, kept=GRAPHS)
    model = load_folder("mine", folder, target, {}, tmp_path / "decoder", GRAPHS)
    spec = make_spec(width=32, height=32, num_inference_steps=2)
    assert model.info.fidelity == "APPROX"
    assert draw(model, spec)[0].shape == (32, 32, 3)
    assert distance(draw(model, spec)[0], draw(own, spec)[0]) > 1
    with pytest.raises(UnusableFolder, match="another shape"):
        load_folder("mine", folder, target, {}, EMBEDDED_FOLDER / "vae")


def test_a_tiny_decoder_of_no_model_is_refused(tmp_path):
    with pytest.raises(Misconfigured, match="TINY_DECODERS names mine"):
        load_models(WorkerSettings(threads=1, device="cpu", tiny_decoders={"mine": tmp_path}))


def test_auto_takes_openvino_on_a_cpu():
    models = load_models(WorkerSettings(threads=1, device="cpu", cache_dir=GRAPHS_FOLDER))
    assert models[EMBEDDED_MODEL].info.backend == "openvino cpu float32"
    models = load_models(WorkerSettings(threads=1, device="cpu", dtype="float16"))
    assert models[EMBEDDED_MODEL].info.backend == "torch cpu float16"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not quantizing.is_installed(), reason="NNCF is not installed: pip install nncf")
def test_8_bit_numbers_are_near_and_announced(stock):
    model = load_embedded(Target(CPU, torch.float32, "openvino", threads=1, quantize="w8a8"))
    assert (model.info.backend, model.info.fidelity) == ("openvino cpu w8a8", "APPROX")
    for seed, prompt in enumerate(("a pizza", "a crown")):
        spec = make_spec(prompt=prompt, seed=seed)
        picture, reference = draw(model, spec)[0], stock_draw(stock, spec)
        assert decibels(picture, reference) >= 20
        assert distance(picture, reference) > 1, "8 bits cannot be exact: something else ran"


def test_8_bit_numbers_need_nncf_and_openvino(monkeypatch):
    with pytest.raises(Misconfigured, match="OpenVINO alone can do, and torch runs it"):
        load_models(WorkerSettings(threads=1, device="cpu", backend="eager", quantize="w8a8"))
    monkeypatch.setattr(quantizing, "is_installed", lambda: False)
    with pytest.raises(Misconfigured, match="pip install"):
        load_models(WorkerSettings(threads=1, device="cpu", quantize="w8a8"))


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, **environment},
    )


LOAD = """
from flashbulb_server.config import WorkerSettings
from flashbulb_server.pipelines.loading import load_models
print(load_models(WorkerSettings(threads=1, device="cpu", backend={backend!r}))["flashbulb/tiny"].info.backend)
"""


def test_a_worker_without_openvino_works():
    missing = "import sys; sys.modules['openvino'] = None\n"
    run = _run(missing + LOAD.format(backend="auto"))
    assert (run.stdout, run.stderr) == ("torch cpu float32\n", "")
    run = _run(missing + LOAD.format(backend="openvino"))
    assert "pip install openvino" in run.stderr


def test_openvino_tells_nobody_and_leaves_nothing(tmp_path):
    """Its telemetry would write into the home folder and ask the network when it is imported. Nothing else that is loaded says anything."""
    refuse = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('the network was asked')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
    )
    run = _run(refuse + LOAD.format(backend="openvino"), HOME=str(tmp_path))
    assert (run.returncode, run.stdout, run.stderr) == (0, "openvino cpu float32\n", "")
    assert not list(tmp_path.rglob("*"))
