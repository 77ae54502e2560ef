"""Models from folders: what they announce, what is refused and how it is said, and never a network."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from flashbulb_server.config import WorkerSettings
from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines.devices import choose_device, choose_dtype
from flashbulb_server.pipelines.loading import (
    EMBEDDED_FOLDER,
    EMBEDDED_MODEL,
    LATENT_CONSISTENCY_ENDPOINTS,
    UnusableFolder,
    load_folder,
    load_models,
)
from flashbulb_server.pipelines.networks import load_networks
from tests.graphs import FOLDER
from tests.pipelines.conftest import CPU, TARGET, draw
from tests.specs import make_spec


def test_embedded_model(tiny):
    info = tiny.info
    assert info.name == EMBEDDED_MODEL
    assert info.endpoints == LATENT_CONSISTENCY_ENDPOINTS
    assert (info.native_size, info.resamples, info.max_image_pixels) == (128, True, 4_194_304)
    assert (info.fidelity, info.safe_by_construction, info.backend) == ("EXACT", True, "openvino cpu float32")
    assert tiny.check([np.zeros((8, 8, 3), np.uint8)], "v1") == [False]


def test_embedded_model_draws_its_square_whatever_is_asked(tiny):
    assert draw(tiny, make_spec(width=1024, height=576, num_inference_steps=1))[0].shape == (128, 128, 3)


def test_folders_and_the_embedded_model(random_folders):
    settings = WorkerSettings(threads=1, device="cpu", models={"mine": random_folders(None)}, cache_dir=FOLDER)
    models = load_models(settings)
    assert list(models) == [EMBEDDED_MODEL, "mine"]
    info = models["mine"].info
    assert (info.native_size, info.resamples, info.max_image_pixels) == (32, False, 1_048_576)
    assert not info.safe_by_construction
    only = load_models(settings.model_copy(update={"embedded_model": False}))
    assert list(only) == ["mine"]


def test_pictures_have_the_asked_size(random_models):
    assert draw(random_models(None), make_spec(width=50, height=20, num_inference_steps=1))[0].shape == (20, 50, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_part_has_the_dtype(dtype):
    networks = load_networks(EMBEDDED_FOLDER, CPU, dtype)
    for network in (networks.unet, networks.vae, networks.text_encoder):
        assert {p.dtype for p in network.parameters()} == {dtype}


def _edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _refused(folder, problem):
    with pytest.raises(UnusableFolder, match=f"(?s){re.escape(str(folder))}: .*{problem}"):
        load_folder("broken", folder, TARGET, {})


def test_a_missing_folder_is_named(tmp_path):
    _refused(tmp_path / "none", "model_index.json")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_missing_part_is_named(broken_folder, part):
    for file in (broken_folder / part).iterdir():
        file.unlink()
    _refused(broken_folder, part)


def test_a_tokenizer_of_another_model_is_refused(broken_folder):
    _edit(broken_folder / "tokenizer" / "tokenizer_config.json", model_max_length=77)
    _refused(broken_folder, "does not fit")


def test_weights_that_are_no_safetensors_are_refused(broken_folder):
    weights = broken_folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, broken_folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    _refused(broken_folder, "safetensors")


def test_cut_weights_are_refused(broken_folder):
    weights = broken_folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    _refused(broken_folder, "")


def test_stable_diffusion_xl_is_refused(broken_folder):
    _edit(broken_folder / "unet" / "config.json", addition_embed_type="text_time")
    _refused(broken_folder, "text_time")


def test_other_conditioning_is_refused(broken_folder):
    _edit(broken_folder / "unet" / "config.json", class_embed_type="timestep")
    _refused(broken_folder, "conditioning")


def test_a_model_that_is_not_distilled_is_refused(broken_folder):
    _edit(broken_folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    _refused(broken_folder, "PNDMScheduler")


def test_an_unknown_autoencoder_is_refused(broken_folder):
    _edit(broken_folder / "model_index.json", vae=["diffusers", "VQModel"])
    _refused(broken_folder, "VQModel")


def test_a_broken_safety_checker_is_named(tmp_path):
    with pytest.raises(UnusableFolder, match=re.escape(str(tmp_path))):
        load_models(WorkerSettings(threads=1, device="cpu", embedded_model=False, safety_checkers={"v1": tmp_path}))


def test_the_network_is_never_asked(monkeypatch, random_folders):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_models(WorkerSettings(threads=1, device="cpu", backend="eager", models={"mine": random_folders(32)}))


def test_choices():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16


def test_prompts_are_encoded_once(tiny, monkeypatch):
    calls = []
    embed = tiny._backend.embed
    monkeypatch.setattr(tiny._backend, "embed", lambda tokens: (calls.append(1), embed(tokens))[1])
    for _ in range(3):
        tiny.prepare(make_spec(prompt="a prompt that nobody used yet", num_images=4))
    assert calls == [1]


@pytest.mark.parametrize("prompt", ["x", "word " * 800, "ein grüner Baum 🌳", "\n\t"])
def test_any_prompt_draws(tiny, prompt):
    assert draw(tiny, make_spec(prompt=prompt, num_inference_steps=1))[0].shape == (128, 128, 3)


def test_previews_look_like_the_picture(tiny):
    (lane,) = tiny.prepare(make_spec())
    tiny.step([lane])
    rough = tiny.preview(lane).astype(float)
    assert rough.shape == (16, 16, 3)
    while lane.step < lane.total_steps:
        tiny.step([lane])
    small = tiny.decode([lane])[0].reshape(16, 8, 16, 8, 3).mean((1, 3))
    assert np.corrcoef(rough.ravel(), small.ravel())[0, 1] > 0.9


def test_the_engine_needs_no_torch():
    code = "import sys, flashbulb_server.worker.engine as e; sys.exit(any(m in sys.modules for m in ('torch', 'diffusers')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuda:99", r"is cuda:99, and torch finds (no|\d+) cuda devices? here"),
        ("mps:7", r"is mps:7, and torch finds (no mps devices|1 mps device) here"),
        ("nonsense", "torch knows no device nonsense"),
    ],
)
def test_a_device_that_is_not_there_is_refused(name, says):
    with pytest.raises(Misconfigured, match=f"FLASHBULB_WORKER__DEVICE:? {says}"):
        choose_device(name)
