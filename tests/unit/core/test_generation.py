"""Valid inputs, and what may travel in an answer."""

from __future__ import annotations

import pytest

from flashbulb_server.core.generation import MAX_INLINE_BYTES, inline_allowed
from tests.specs import make_image_spec, make_inpainting_spec, make_spec


@pytest.mark.parametrize(
    ("sizes", "allowed"),
    [
        ([], True),
        ([MAX_INLINE_BYTES], True),
        ([MAX_INLINE_BYTES + 1], False),
        ([MAX_INLINE_BYTES // 2] * 2, True),
        ([MAX_INLINE_BYTES // 2 + 1] * 2, False),
    ],
)
def test_pictures_travel_in_an_answer_up_to_a_limit(sizes, allowed):
    assert inline_allowed(sizes) is allowed


def test_an_answer_of_the_most_bytes_is_below_grpcs_default():
    assert MAX_INLINE_BYTES + 512 * 1024 < 4 * 1024 * 1024


@pytest.mark.parametrize("name", ["jpeg", "png"])
def test_the_media_type(name):
    assert make_spec(format=name).content_type == f"image/{name}"


@pytest.mark.parametrize(
    ("steps", "strength", "changed", "painted"),
    [
        (6, 1.0, 6, 6),
        (6, 0.95, 6, 5),
        (4, 0.5, 4, 2),
        (8, 0.05, 2, 1),
        (32, 0.3, 15, 9),
        (32, 0.58, 28, 18),  # 50 * 0.58 is a little less than 29
        (1, 0.05, 1, 1),
    ],
)
def test_steps_that_are_really_taken(steps, strength, changed, painted):
    assert make_spec(num_inference_steps=steps).steps == steps
    assert make_image_spec(num_inference_steps=steps, strength=strength).steps == changed
    assert make_inpainting_spec(num_inference_steps=steps, strength=strength).steps == painted
