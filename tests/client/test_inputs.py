"""Values become messages, and messages values."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

import flashbulb
from flashbulb import InvalidInput, Lora, TextToImage, TextualInversion, UnknownField
from flashbulb._decode import typed_input
from flashbulb._encode import encode
from flashbulb._inputs import BY_ENDPOINT, INPUTS
from flashbulb.v1 import image_pb2, input_pb2
from tests.client.scripted import output

MEMBERS = {field.name: field.message_type for field in input_pb2.GenerationInput.DESCRIPTOR.fields}


def fields_of(message):
    return getattr(message, message.WhichOneof("input"))


def test_every_member_of_the_contract_has_a_class_and_no_other():
    assert sorted(c.field for c in INPUTS) == sorted(MEMBERS)
    assert len(BY_ENDPOINT) == len(INPUTS)


@pytest.mark.parametrize("input_class", INPUTS, ids=lambda c: c.__name__)
def test_a_class_has_exactly_the_fields_of_its_message(input_class):
    assert {f.name for f in dataclasses.fields(input_class)} == set(MEMBERS[input_class.field].fields_by_name)
    required = {f.name for f in dataclasses.fields(input_class) if f.default is dataclasses.MISSING}
    assert required <= {"prompt", "image_url", "mask_url"}


def test_none_is_absent_and_zero_is_not():
    fields = fields_of(encode("fast-lcm-diffusion", {"prompt": "a", "seed": 0, "guidance_scale": None}).message)
    assert fields.HasField("seed")
    assert not fields.HasField("guidance_scale")
    assert [f.name for f, _ in fields.ListFields()] == ["prompt", "seed"]


def test_keywords_replace_fields_of_a_typed_input():
    fields = fields_of(encode(TextToImage("a", seed=1, format="png"), {"seed": 2, "prompt": "b"}).message)
    assert (fields.prompt, fields.seed, fields.format) == ("b", 2, image_pb2.IMAGE_FORMAT_PNG)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("portrait_4_3", image_pb2.ImageSize(preset=image_pb2.IMAGE_SIZE_PRESET_PORTRAIT_4_3)),
        ("SQUARE", image_pb2.ImageSize(preset=image_pb2.IMAGE_SIZE_PRESET_SQUARE)),
        ((640, 480), image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=640, height=480))),
        ([640, 480], image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=640, height=480))),
        ({"width": 640}, image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=640))),
    ],
)
def test_sizes(size, expected):
    assert fields_of(encode("fast-lcm-diffusion", {"image_size": size}).message).image_size == expected


@pytest.mark.parametrize("lora", [Lora("x", scale=0.5), {"path": "x", "scale": 0.5}], ids=["typed", "mapping"])
def test_lists_of_messages(lora):
    values = {"prompt": "a", "loras": [lora], "embeddings": (TextualInversion("y", ["<s0>"]),)}
    fields = fields_of(encode("stable-diffusion-v15", values).message)
    assert [(item.path, item.scale, item.HasField("force")) for item in fields.loras] == [("x", 0.5, False)]
    assert [(item.path, list(item.tokens)) for item in fields.embeddings] == [("y", ["<s0>"])]


@pytest.mark.parametrize(
    ("source", "uri"),
    [
        ("https://example.com/a.png", "https://example.com/a.png"),
        (flashbulb.File("flashbulb://files/1", "http://x", "image/png", 3), "flashbulb://files/1"),
        (flashbulb.Image("http://x/1.jpeg", b"", "image/jpeg", 1, 1, 1, 1, 9, 0), "http://x/1.jpeg"),
    ],
)
def test_links_are_sent_as_they_are(source, uri):
    encoded = encode("fast-lcm-diffusion/image-to-image", {"image_url": source})
    assert fields_of(encoded.message).image_url.uri == uri
    assert not encoded.pending


def test_all_problems_are_reported_at_once():
    with pytest.raises(UnknownField) as caught:
        encode(
            "flux-lora",
            {
                "promt": "a",
                "seed": "7",
                "num_images": True,
                "image_size": "huge",
                "loras": [Lora("x"), {"paht": "y"}, 3],
                "guidance_scale": "a lot",
                "output_format": "gif",
                "sync_mode": 1,
            },
        )
    found = {v.field: v.description for v in caught.value.violations}
    assert found == {
        "promt": "no such field; did you mean prompt?",
        "seed": "must be a whole number, not str",
        "num_images": "must be a whole number, not bool",
        "image_size": "must be one of square_hd, square, portrait_4_3, portrait_16_9, landscape_4_3, landscape_16_9, not 'huge'",
        "loras[1].paht": "no such field; did you mean path?",
        "loras": "must be a LoraWeight or a mapping, not int",
        "guidance_scale": "must be a number, not str",
        "output_format": "must be one of jpeg, png, not 'gif'",
        "sync_mode": "must be true or false, not int",
    }
    assert isinstance(caught.value, TypeError)
    assert "promt: no such field" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 2**63),
        ("num_images", 2**31),
        ("prompt", b"a"),
        ("image_size", (1, 2, 3)),
        ("image_size", 512),
        ("image_url", 3),
        ("image_url", image_pb2.ImageSource()),
    ],
)
def test_values_that_do_not_fit_are_refused(field, value):
    with pytest.raises(InvalidInput) as caught:
        encode("fast-lcm-diffusion/image-to-image", {field: value})
    assert [v.field for v in caught.value.violations] == [field]
    assert type(caught.value) is InvalidInput


def test_a_text_is_no_list():
    with pytest.raises(InvalidInput, match="must be a list, not str"):
        encode("omnigen-v1", {"prompt": "a", "input_image_urls": "http://x"})


def test_an_unknown_endpoint_names_close_ones():
    with pytest.raises(InvalidInput, match="did you mean fast-lcm-diffusion") as caught:
        encode("fast-lcm-difusion", {"prompt": "a"})
    assert caught.value.violations[0].field == "endpoint"


@pytest.mark.parametrize(
    ("argument", "value"),
    [("priority", "urgent"), ("start_timeout", -1), ("start_timeout", "1 h"), ("start_timeout", 1e12)],
)
async def test_bad_arguments_are_refused_before_a_call(client, argument, value):
    with pytest.raises(InvalidInput, match=argument):
        await client.submit(prompt="a", **{argument: value})


async def test_bad_states_are_refused_before_a_call(client):
    with pytest.raises(InvalidInput, match="must be one of queued, running"):
        await anext(client.list(["done"]))


def strategy(field: FieldDescriptor) -> st.SearchStrategy:
    """Values of a field as a typed input has them after decoding."""
    name = field.message_type.name if field.message_type else ""
    one = {
        "ImageSize": st.sampled_from(["square", "landscape_16_9"])
        | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
        "ImageSource": st.text(min_size=1),
        "LoraWeight": st.builds(Lora, st.text(), st.none() | st.floats(0, 4, width=32), st.none() | st.booleans()),
        "TextualInversion": st.builds(TextualInversion, st.text(), st.none() | st.just(("<s0>",))),
    }.get(name)
    if one is None:
        one = {
            FieldDescriptor.CPPTYPE_STRING: st.text(min_size=1),
            FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
            FieldDescriptor.CPPTYPE_FLOAT: st.floats(0, 35, width=32),
            FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
            FieldDescriptor.CPPTYPE_INT64: st.integers(0, 2**53 - 1),
            FieldDescriptor.CPPTYPE_ENUM: st.sampled_from(["png", "jpeg"] if "ormat" in field.name else ["v1", "v2"]),
        }[field.cpp_type]
    return st.lists(one, min_size=1, max_size=3).map(tuple) if field.is_repeated else one


def inputs() -> st.SearchStrategy:
    def of(input_class):
        message = MEMBERS[input_class.field]
        values = {}
        for field in dataclasses.fields(input_class):
            values[field.name] = strategy(message.fields_by_name[field.name])
            if field.default is not dataclasses.MISSING:
                values[field.name] |= st.none()
        return st.builds(input_class, **values)

    return st.one_of(*map(of, INPUTS))


@given(inputs())
def test_an_input_survives_the_way_there_and_back(value):
    assert typed_input(encode(value, {}).message) == value


def test_an_endpoint_of_a_later_server_is_no_error():
    message = output()
    message.resolved_input.ParseFromString(b"\xa2\x06\x00")  # member 100
    assert typed_input(message.resolved_input) is None


def test_pictures_to_read_are_left_for_later():
    path = Path("picture.png")
    encoded = encode(flashbulb.Inpainting("a", path, b"mask"), {})
    assert [(value, where) for _, value, where in encoded.pending] == [(path, "image_url"), (b"mask", "mask_url")]
