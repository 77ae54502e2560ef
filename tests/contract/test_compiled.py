"""torch.compile's backend: sizes made at load, everything else beside, and a network that is whole when it cannot be compiled.

Most of it runs without inductor's code generation, which takes minutes: how calls reach what was compiled is the same.
"""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines.backend import Unsupported
from flashbulb_server.pipelines.choosing import open_backend
from flashbulb_server.pipelines.compiled import CompiledBackend
from flashbulb_server.pipelines.eager import EagerBackend
from flashbulb_server.pipelines.latent_consistency import LatentConsistencyPipeline
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.networks import load_networks
from flashbulb_server.pipelines.target import Target
from tests.pipelines.conftest import distance, draw, save_random
from tests.specs import make_spec

CPU = torch.device("cpu")
SIZES = (1, 3)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=[32, None], ids=["guidance embedding", "classifier-free"])
def folder(request, tmp_path_factory):
    torch.set_num_threads(1)
    return save_random(tmp_path_factory.mktemp("model"), guidance_width=request.param)


def pipeline_of(networks, backend) -> LatentConsistencyPipeline:
    info = ModelInfo("random", (), 32, resamples=False, max_image_pixels=2**20, fidelity=backend.fidelity)
    return LatentConsistencyPipeline(Model.of(networks, backend), info, {})


@pytest.fixture(scope="module")
def reference(folder):
    networks = load_networks(folder, CPU, torch.float32)
    return pipeline_of(networks, EagerBackend(networks))


@pytest.fixture(scope="module")
def model(folder):
    networks = load_networks(folder, CPU, torch.float32)
    backend = CompiledBackend(networks, EagerBackend(networks), sizes=SIZES, compiler="eager")
    assert (backend.name, backend.fidelity) == ("torch.compile cpu float32", "EXACT")
    return pipeline_of(networks, backend)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_pictures_are_those_of_torch_in_any_batch(model, reference, count):
    """Two are filled up to three; four are more than any size."""
    graphs = counters["stats"]["unique_graphs"]
    specs = [
        make_spec(
            width=32, height=32, seed=i, prompt=f"house {i}", guidance_scale=1.5 + i, num_inference_steps=2 + i % 3
        )
        for i in range(count)
    ]
    lanes = [model.prepare(spec)[0] for spec in specs]
    while flying := [lane for lane in lanes if lane.step < lane.total_steps]:
        model.step(flying)
    for spec, picture in zip(specs, model.decode(lanes), strict=True):
        assert distance(picture, draw(reference, spec)[0]) <= 1
    assert counters["stats"]["unique_graphs"] == graphs, "nothing is compiled while somebody waits"


def test_other_sizes_run_beside(model, reference):
    graphs = counters["stats"]["unique_graphs"]
    for width, height in ((64, 32), (40, 24)):
        spec = make_spec(width=width, height=height, guidance_scale=4.0)
        assert distance(draw(model, spec)[0], draw(reference, spec)[0]) <= 1
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_picture_outlives_the_next_call(model):
    first = draw(model, make_spec(width=32, height=32))[0]
    copy = first.copy()
    draw(model, make_spec(width=32, height=32, seed=99))
    assert (first == copy).all()


class _Breaks(torch.nn.Module):
    """A part that torch.compile cannot take whole."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return self.part(x)


class _OtherWhenCompiled(torch.nn.Module):
    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.part(x)
        return y * 0.5 if torch.compiler.is_compiling() else y


@pytest.mark.parametrize("wrap, problem", [(_Breaks, "graph_break|Unsupported"), (_OtherWhenCompiled, "UNet differs")])
def test_what_cannot_be_compiled_is_refused_and_left_whole(folder, wrap, problem):
    networks = load_networks(folder, CPU, torch.float32)
    networks.unet.conv_out = wrap(networks.unet.conv_out)
    spec = make_spec(width=32, height=32)
    before = draw(pipeline_of(networks, EagerBackend(networks)), spec)[0]
    with pytest.raises(Unsupported, match=problem):
        CompiledBackend(networks, EagerBackend(networks), sizes=(2,), compiler="eager")
    assert (draw(pipeline_of(networks, EagerBackend(networks)), spec)[0] == before).all()


def test_inductor_draws_the_same(tmp_path):
    """With the code that is generated for this processor, a second a kernel; a failure is told to whoever asked for it."""
    folder = save_random(tmp_path, guidance_width=32, blocks=(4,), mid_block_type=None)
    target = Target(CPU, torch.float32, "compile", threads=1, sizes=(1,))
    networks, backend = open_backend(lambda dtype: load_networks(folder, CPU, dtype), target)
    other = load_networks(folder, CPU, torch.float32)
    size = networks.figures.native_size
    spec = make_spec(width=size, height=size)
    ours = draw(pipeline_of(networks, backend), spec)[0]
    assert distance(ours, draw(pipeline_of(other, EagerBackend(other)), spec)[0]) <= 1

    def broken(dtype):
        networks = load_networks(folder, CPU, dtype)
        networks.unet.conv_out = _Breaks(networks.unet.conv_out)
        return networks

    with pytest.raises(Misconfigured, match=r"torch\.compile cannot run it"):
        open_backend(broken, target)
