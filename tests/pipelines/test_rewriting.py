"""Rewritten parts compute what they stand for, and leave the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from flashbulb_server.pipelines import rewriting
from flashbulb_server.pipelines.rewriting import Doubled, Norm, rewritten
from tests.pipelines.conftest import random_parts


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("height, width", [(1, 1), (4, 4), (5, 9)])
def test_a_doubled_convolution(height, width, bias):
    convolution = torch.nn.Conv2d(3, 5, 3, padding=1, bias=bias)
    maps = torch.randn(2, 3, height, width)
    expected = convolution(functional.interpolate(maps, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(Doubled(convolution)(maps), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("widest", [512, 4], ids=["one matrix", "two matrices"])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
def test_a_norm_between_a_shift_and_a_scale(monkeypatch, widest, apart, shifted):
    """Far from zero too: a mean a hundred times the deviation."""
    monkeypatch.setattr(rewriting, "WIDEST_MATRIX", widest)
    norm = torch.nn.GroupNorm(4, 12)
    maps = torch.randn(3, 12, 5, 7) + 100 * torch.randn(1, 4, 1, 1, 1).expand(1, 4, 3, 1, 1).reshape(1, 12, 1, 1)
    before = torch.randn(3, 12, 1, 1) if shifted else None
    scale, after = torch.randn(3, 12, 1, 1), torch.randn(3, 12, 1, 1)
    moved = maps if before is None else maps + before
    expected = (functional.group_norm(moved.double(), 4) * scale + after).float()
    found = Norm(norm, apart=apart).between(maps, before, scale, after)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_norm_alone_and_of_sequences():
    norm = torch.nn.GroupNorm(4, 12)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    for maps in (torch.randn(2, 12, 5, 7), torch.randn(2, 12, 9)):
        torch.testing.assert_close(Norm(norm, apart=True)(maps), norm(maps), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_network_is_rewritten_and_left_whole(part):
    network = random_parts(guidance_width=None)[part].eval()
    inputs = (torch.randn(2, 4, 8, 8),)
    words = {"timestep": 500, "encoder_hidden_states": torch.randn(2, 7, 32)} if part == "unet" else {}
    call = network if part == "unet" else network.decode
    before, kinds = call(*inputs, **words).sample, [type(module) for module in network.modules()]
    with pytest.raises(ZeroDivisionError), rewritten(network, norms=True):
        inside = {type(module) for module in network.modules()}
        assert {Doubled, Norm} <= inside
        assert all(isinstance(module.norm, torch.nn.GroupNorm) for module in network.modules() if type(module) is Norm)
        torch.testing.assert_close(call(*inputs, **words).sample, before, rtol=1e-4, atol=1e-4)
        raise ZeroDivisionError
    assert [type(module) for module in network.modules()] == kinds
    assert torch.equal(call(*inputs, **words).sample, before)
