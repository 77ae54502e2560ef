"""Where a given picture lies in what is drawn, and how large the answer is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.fields import MAX_SIDE
from flashbulb_server.core.framing import MULTIPLE, frame
from tests.specs import make_image_spec, make_inpainting_spec

FREE = ModelInfo("m", (), 512, resamples=False, max_image_pixels=2**28, fidelity="EXACT")
SQUARE = ModelInfo("m", (), 128, resamples=True, max_image_pixels=2**28, fidelity="EXACT")
SIDES = st.integers(1, 5000)


@pytest.mark.parametrize("info, drawn", [(FREE, (1024, 768)), (SQUARE, (128, 96))])
def test_a_picture_of_the_same_shape_is_used_whole(info, drawn):
    found = frame(make_image_spec(width=1024, height=768), (640, 480), info)
    assert (found.answer, found.drawn, found.box) == ((1024, 768), drawn, (0, 0, 640, 480))


@pytest.mark.parametrize(
    ("given_size", "box"), [((640, 480), (80, 0, 560, 480)), ((480, 640), (0, 80, 480, 560)), ((7, 7), (0, 0, 7, 7))]
)
def test_another_shape_is_cut_at_both_sides_alike(given_size, box):
    for spec in (make_image_spec(width=512, height=512), make_inpainting_spec(width=512, height=512)):
        assert frame(spec, given_size, FREE).box == box


@pytest.mark.parametrize(
    ("given_size", "answer"),
    [
        ((512, 512), (512, 512)),
        ((100, 100), (512, 512)),
        ((1920, 1080), (672, 384)),
        ((1080, 1920), (384, 672)),
        ((640, 480), (576, 416)),
        ((10_000, 1), (8192, 32)),
        ((1, 10_000), (32, 8192)),
    ],
)
def test_the_inputs_aspect_ratio(given_size, answer):
    spec = make_image_spec(width=512, height=512, preserve_aspect_ratio=True)
    assert frame(spec, given_size, FREE).answer == answer


def test_cropping_gives_exactly_the_asked_size():
    spec = make_image_spec(width=500, height=300, preserve_aspect_ratio=True, crop_output=True)
    assert frame(spec, (640, 480), FREE) == frame(make_image_spec(width=500, height=300), (640, 480), FREE)


@settings(max_examples=300, deadline=None, database=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([FREE, SQUARE]), st.booleans())
def test_always(width, height, given_width, given_height, info, preserve):
    spec = make_image_spec(width=width, height=height, preserve_aspect_ratio=preserve)
    found = frame(spec, (given_width, given_height), info)
    left, top, right, bottom = found.box
    assert 0 <= left < right <= given_width and 0 <= top < bottom <= given_height
    shape = found.answer[0] / found.answer[1]
    assert (right - left) / (bottom - top) == pytest.approx(shape, rel=1e-6), "never stretched"
    assert left == pytest.approx(given_width - right, abs=1e-6) and top == pytest.approx(
        given_height - bottom, abs=1e-6
    )
    if not preserve:
        assert found.answer == (width, height)
    else:
        assert all(side % MULTIPLE == 0 and MULTIPLE <= side <= MAX_SIDE for side in found.answer)
        assert found.answer[0] * found.answer[1] <= max(width * height, MULTIPLE**2)
    if info is FREE:
        assert found.drawn == found.answer
    else:
        assert max(found.drawn) == 128 and min(found.drawn) >= 1
