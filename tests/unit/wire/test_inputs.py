"""Inputs between protobuf and core."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb.v1 import image_pb2, input_pb2
from flashbulb_server.core.catalog import ENDPOINTS, FAST_LCM, ModelInfo
from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import InvalidRequest
from flashbulb_server.wire.inputs import digest, given_fields, to_input, to_spec
from tests.specs import make_inpainting_spec, make_spec
from tests.unit.wire.values import SPECS, quick

ROOM = ModelInfo("m", tuple(ENDPOINTS), 64, resamples=True, max_image_pixels=200_000_000, fidelity="EXACT", safe_by_construction=True)  # fmt: skip


def make_input(**fields) -> input_pb2.GenerationInput:
    return input_pb2.GenerationInput(fast_lcm_text_to_image=input_pb2.FastLcmTextToImageInput(**fields))


def given_of(**fields) -> dict[str, object]:
    """The fields that were given, after the way over the wire."""
    data = make_input(**fields).SerializeToString()
    endpoint, found = given_fields(input_pb2.GenerationInput.FromString(data))
    assert endpoint == "fast-lcm-diffusion"
    return found


def problems_of(found: dict[str, object]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        resolve(FAST_LCM.id, {"prompt": "x"} | found, [ROOM])
    return [(v.field, v.description) for v in caught.value.violations]


@quick
@given(SPECS)
def test_a_spec_comes_back_as_it_was(spec):
    data = to_input(spec).SerializeToString()
    assert to_spec(input_pb2.GenerationInput.FromString(data), spec.model_name) == spec


@quick
@given(SPECS.filter(lambda spec: not spec.expand_prompt))
def test_a_resolved_input_resolves_to_itself(spec):
    endpoint, found = given_fields(to_input(spec))
    model = replace(ROOM, name=spec.model_name, stands_in_for=(spec.asked_model,))
    assert resolve(endpoint, found, [model]) == spec


def test_nothing_given():
    assert given_of() == {}
    assert given_of(prompt="", format=0, safety_checker_version=0) == {}


def test_an_optional_text_may_be_given_empty():
    empty = {"negative_prompt": "", "request_id": ""}
    assert given_of(**empty) == empty
    spec = resolve(FAST_LCM.id, {"prompt": "x", **empty}, [ROOM])
    assert (spec.negative_prompt, spec.request_id) == ("", "")


def test_everything_given():
    found = given_of(
        model_name="m",
        prompt="p",
        negative_prompt="n",
        image_size=image_pb2.ImageSize(preset=image_pb2.IMAGE_SIZE_PRESET_PORTRAIT_16_9),
        num_inference_steps=3,
        seed=2**53 - 1,
        guidance_scale=1.25,
        sync_mode=False,
        num_images=2,
        enable_safety_checker=False,
        safety_checker_version=input_pb2.SAFETY_CHECKER_VERSION_V2,
        expand_prompt=False,
        format=image_pb2.IMAGE_FORMAT_PNG,
        guidance_rescale=0.5,
        request_id="mine",
    )
    assert found == {
        "model_name": "m",
        "prompt": "p",
        "negative_prompt": "n",
        "image_size": "portrait_16_9",
        "num_inference_steps": 3,
        "seed": 2**53 - 1,
        "guidance_scale": 1.25,
        "sync_mode": False,
        "num_images": 2,
        "enable_safety_checker": False,
        "safety_checker_version": "v2",
        "expand_prompt": False,
        "format": "png",
        "guidance_rescale": 0.5,
        "request_id": "mine",
    }
    assert set(found) == {field.name for field in FAST_LCM.fields}


def test_a_zero_that_was_given_is_no_absent_one():
    zeros = {"num_inference_steps": 0, "seed": 0, "guidance_scale": 0.0, "num_images": 0, "guidance_rescale": 0.0}
    assert given_of(**zeros, sync_mode=False, model_name="") == zeros | {"sync_mode": False, "model_name": ""}


@pytest.mark.parametrize("endpoint", list(ENDPOINTS.values()), ids=lambda e: e.id)
def test_the_member_names_the_endpoint(endpoint):
    message = input_pb2.GenerationInput()
    getattr(message, endpoint.input_field).prompt = "p"
    assert given_fields(message) == (endpoint.id, {"prompt": "p"})


@pytest.mark.parametrize("data", [b"", b"\x9a\x06\x00"])
def test_no_known_member(data):
    """Nothing is set, or only member 99."""
    message = input_pb2.GenerationInput.FromString(data)
    with pytest.raises(InvalidRequest) as caught:
        given_fields(message)
    assert [v.field for v in caught.value.violations] == ["input"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (image_pb2.ImageSize(preset=image_pb2.IMAGE_SIZE_PRESET_SQUARE), "square"),
        (image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=640, height=480)), (640, 480)),
        (image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(height=480)), (None, 480)),
        (image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions()), (None, None)),
        (image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=-5)), (-5, None)),
    ],
)
def test_sizes(size, expected):
    assert given_of(image_size=size) == {"image_size": expected}


def test_an_unspecified_preset_is_absent():
    assert given_of(image_size=image_pb2.ImageSize(preset=0)) == {}


def test_a_size_that_says_nothing_is_refused():
    found = given_of(image_size=image_pb2.ImageSize())
    assert problems_of(found) == [("image_size", "must be a named size, or width and height")]


def test_unknown_numbers_of_enums_are_refused():
    found = given_of(format=77, safety_checker_version=-3, image_size=image_pb2.ImageSize(preset=99))
    assert [name for name, _ in problems_of(found)] == ["image_size", "safety_checker_version", "format"]


@pytest.mark.parametrize("value", [0.0, 0.01, 0.05, 0.1, 0.95, 1.0, 1.5, 7.5, 19.99, 20.0, 3.14159, 1e-5])
def test_a_number_is_the_decimal_that_was_meant(value):
    assert given_of(guidance_scale=value) == {"guidance_scale": value}


@pytest.mark.parametrize("value", [20.0001, -0.0001, math.inf, -math.inf, math.nan])
def test_a_number_out_of_its_range_stays_so(value):
    ((name, _),) = problems_of(given_of(guidance_scale=value))
    assert name == "guidance_scale"


@quick
@given(st.floats(0, 20, width=32))
def test_a_number_that_travelled_travels_on_unchanged(value):
    once = given_of(guidance_scale=value)["guidance_scale"]
    assert given_of(guidance_scale=once)["guidance_scale"] == once
    assert once == pytest.approx(value, rel=1e-6)
    assert struct.pack("f", once) == struct.pack("f", given_of(guidance_scale=once)["guidance_scale"])


def test_a_spec_without_texts_comes_back():
    spec = make_spec(negative_prompt="", request_id="")
    assert to_spec(to_input(spec), spec.model_name) == spec


def test_an_input_of_an_earlier_release_names_its_model_itself():
    assert to_spec(to_input(make_spec(model_name="m")), "").model_name == "m"


def test_equal_inputs_have_equal_digests():
    one, other = make_input(prompt="a", seed=1), make_input(seed=1, prompt="a")
    assert digest(one) == digest(input_pb2.GenerationInput.FromString(other.SerializeToString()))
    assert len(digest(one)) == 32
    different = [make_input(prompt="a"), make_input(prompt="a", seed=0), make_input(prompt="b", seed=1)]
    flux = input_pb2.GenerationInput(flux_lora_text_to_image=input_pb2.FluxLoraTextToImageInput(prompt="a"))
    assert len({digest(m) for m in (one, flux, *different)}) == 5


def test_pictures_that_came_inline_are_not_echoed():
    kept = SourceImage("https://a.example/b.png")
    for inline in (SourceImage(content=b"x"), SourceImage("data:,x")):
        spec = make_inpainting_spec(image=inline, mask=kept)
        assert to_spec(to_input(spec), spec.model_name) == spec
        echo = to_input(spec, echo=True)
        assert echo.fast_lcm_inpainting.image_url == image_pb2.ImageSource()
        assert to_spec(echo, spec.model_name) == replace(spec, image=SourceImage())
        assert to_input(to_spec(echo, spec.model_name)) == echo


def test_a_source_that_says_nothing_is_refused():
    message = input_pb2.FastLcmImageToImageInput(prompt="x", image_url=image_pb2.ImageSource())
    endpoint, found = given_fields(input_pb2.GenerationInput(fast_lcm_image_to_image=message))
    assert found["image_url"] == SourceImage()
    with pytest.raises(InvalidRequest, match="image_url: content or uri must be set"):
        resolve(endpoint, found, [ROOM])
