"""The catalog says what the contract says: the descriptors, and the ranges that the comments of input.proto state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flashbulb.v1 import image_pb2, input_pb2
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint, ModelInfo, Task, default_model, models_of
from flashbulb_server.core.fields import (
    IMAGE_SIZES,
    MAX_LABEL_CHARS,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    MAX_SIDE,
    Field,
    Kind,
)

PROTO = Path(__file__).parents[3] / "proto" / "flashbulb" / "v1"
MEMBERS = input_pb2.GenerationInput.DESCRIPTOR.oneofs_by_name["input"].fields
each_endpoint = pytest.mark.parametrize("endpoint", list(ENDPOINTS.values()), ids=lambda e: e.id)
PROTO_KINDS = {
    Kind.TEXT: "string",
    Kind.INTEGER: ("int32", "int64"),
    Kind.NUMBER: "float",
    Kind.BOOLEAN: "bool",
    Kind.SIZE: "ImageSize",
    Kind.SOURCE: "ImageSource",
    Kind.SOURCES: "repeated ImageSource",
    Kind.LORAS: "repeated LoraWeight",
    Kind.EMBEDDINGS: "repeated TextualInversion",
    Kind.CHOICE: ("string", "SafetyCheckerVersion", "ImageFormat"),
}
UNSAID = {"empty": "", "none": None, "drawn at random": None, "the endpoint's": None}


def comments_of(source: str) -> dict[tuple[str, str], tuple[str, str]]:
    """(message, field) -> (type, comment), from the text of a .proto file."""
    found, message, comment = {}, "", []
    for line in source.splitlines():
        text = line.strip()
        if opened := re.fullmatch(r"message (\w+) \{\}?", text):
            message, comment = opened[1], []
        elif text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
        elif declared := re.fullmatch(r"(?:optional )?((?:repeated )?\w+) (\w+) = \d+;", text):
            found[message, declared[2]] = (declared[1], " ".join(comment))
            comment = []
        elif not text:
            comment = []
    return found


STATED = comments_of((PROTO / "input.proto").read_text())


def stated(endpoint: Endpoint, field: Field) -> tuple[str, str]:
    """Type and comment of a field in input.proto."""
    message = input_pb2.GenerationInput.DESCRIPTOR.fields_by_name[endpoint.input_field].message_type
    return STATED[message.name, field.name]


def number(text: str) -> float:
    """A number of a comment, such as `0.05`, `square_hd` not, `2^53 - 1` yes."""
    return 2**53 - 1 if text.startswith("2^53") else float(text)


def test_the_reader_of_comments_reads_every_field():
    declared = {(m.name, f.name) for m in input_pb2.DESCRIPTOR.message_types_by_name.values() for f in m.fields}
    assert set(STATED) == declared


def test_every_member_of_the_input_is_an_endpoint():
    assert {m.name: m.message_type.name for m in MEMBERS} == {
        e.input_field: input_pb2.GenerationInput.DESCRIPTOR.fields_by_name[e.input_field].message_type.name
        for e in ENDPOINTS.values()
    }
    assert [e.input_field for e in ENDPOINTS.values()] == [m.name for m in MEMBERS]


@each_endpoint
def test_an_endpoint_has_the_fields_of_its_message(endpoint):
    message = input_pb2.GenerationInput.DESCRIPTOR.fields_by_name[endpoint.input_field].message_type
    names = [f.name for f in endpoint.fields]
    assert len(names) == len(set(names))
    assert set(names) == set(message.fields_by_name)
    assert f"Endpoint `{endpoint.id}`." in STATED["GenerationInput", endpoint.input_field][1]
    assert ENDPOINTS[endpoint.id] is endpoint
    assert endpoint.field(names[-1]).name == names[-1]


@each_endpoint
def test_a_field_has_the_kind_of_its_message(endpoint):
    for field in endpoint.fields:
        kinds = PROTO_KINDS[field.kind]
        assert stated(endpoint, field)[0] in ((kinds,) if isinstance(kinds, str) else kinds), field.name


@each_endpoint
def test_an_enum_has_the_choices_of_its_field(endpoint):
    message = input_pb2.GenerationInput.DESCRIPTOR.fields_by_name[endpoint.input_field].message_type
    for field in endpoint.fields:
        enum = message.fields_by_name[field.name].enum_type
        if field.kind is Kind.SIZE:
            enum = image_pb2.ImageSizePreset.DESCRIPTOR
        if enum is None:
            assert field.kind is not Kind.CHOICE or field.name == "acceleration"  # which the contract has as a string
            continue
        prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
        assert field.choices == tuple(v.name.removeprefix(prefix).lower() for v in enum.values[1:]), field.name
        assert field.default in field.choices, field.name


@each_endpoint
def test_a_range_is_the_one_that_the_comment_states(endpoint):
    for field in endpoint.fields:
        comment, limits = stated(endpoint, field)[1], (field.minimum, field.maximum)
        if between := re.search(r"([\d.]+) to (2\^53 - 1|[\d.]+) (?:inclusive|characters)", comment):
            assert limits == (number(between[1]), number(between[2])), field.name
        elif up_to := re.search(r"up to (\d+)", comment):
            assert limits == (None, int(up_to[1])), field.name
        else:
            assert field.kind not in (Kind.INTEGER, Kind.NUMBER), field.name
            assert limits == ((1, MAX_SIDE) if field.kind is Kind.SIZE else (None, None)), field.name


@each_endpoint
def test_a_default_is_the_one_that_the_comment_states(endpoint):
    for field in endpoint.fields:
        comment = stated(endpoint, field)[1]
        assert field.required == ("Required" in comment), field.name
        found = re.search(r"Default: `?(drawn at random|the endpoint's|[\w.]+?)`?(?=[.\s]*(?:\s|$))", comment)
        assert (found is None) == field.required, field.name
        assert field.default == (default_of(field, found[1]) if found else None), field.name


LISTS = [
    (field, message)
    for endpoint in ENDPOINTS.values()
    for field in endpoint.fields
    for message in [{Kind.LORAS: "LoraWeight", Kind.EMBEDDINGS: "TextualInversion"}.get(field.kind)]
    if message
]


@pytest.mark.parametrize(("field", "message"), LISTS, ids=lambda value: getattr(value, "name", value))
def test_an_item_has_the_fields_and_limits_of_its_message(field, message):
    assert {part.name for part in field.items} == {name for owner, name in STATED if owner == message}
    for part in field.items:
        comment = STATED[message, part.name][1]
        assert part.required == ("Required" in comment), part.name
        if between := re.search(r"one line, (\d+) to (\d+) characters", comment):
            assert (part.kind, part.minimum, part.maximum) == (Kind.REFERENCE, int(between[1]), int(between[2]))
        elif up_to := re.search(r"up to (\d+), of (\d+) to (\d+) characters", comment):
            (word,) = part.items
            assert (part.maximum, word.minimum, word.maximum) == tuple(map(int, up_to.groups()))
            assert part.default == tuple(re.findall(r"`(<s\d>)`", comment))
        elif part.name == "scale":
            assert part.default == 1


@each_endpoint
def test_the_strongest_adapter_is_the_one_that_the_comment_states(endpoint):
    for field in endpoint.fields:
        if field.kind is Kind.LORAS:
            low, high = re.search(r"`scale` (\d) to (\d)", stated(endpoint, field)[1]).groups()
            scale = next(part for part in field.items if part.name == "scale")
            assert (scale.minimum, scale.maximum) == (int(low), int(high))


@each_endpoint
def test_a_task_goes_with_its_pictures(endpoint):
    pictures = tuple(f.name for f in endpoint.fields if f.kind in (Kind.SOURCE, Kind.SOURCES))
    assert (
        pictures
        == {
            Task.TEXT_TO_IMAGE: (),
            Task.IMAGE_TO_IMAGE: ("image_url",),
            Task.INPAINTING: ("image_url", "mask_url"),
            Task.EDIT: ("input_image_urls",),
        }[endpoint.task]
    )


def default_of(field: Field, said: str) -> object:
    """The default that a comment says."""
    if said in UNSAID:
        return UNSAID[said] if field.kind is not Kind.CHOICE else said  # `none` is also an acceleration
    if field.kind is Kind.BOOLEAN:
        return {"true": True, "false": False}[said]
    return number(said) if field.kind in (Kind.INTEGER, Kind.NUMBER) else said.lower()


def test_named_sizes_are_those_that_the_comments_state():
    source = (PROTO / "image.proto").read_text()
    pairs = re.findall(r"// (\d+) x (\d+)\.\s+IMAGE_SIZE_PRESET_(\w+) =", source)
    assert {name.lower(): (int(width), int(height)) for width, height, name in pairs} == IMAGE_SIZES


def test_limits():
    assert (MAX_SEED, MAX_PROMPT_CHARS, MAX_LABEL_CHARS) == (2**53 - 1, 4096, 128)
    side = re.search(r"Width in pixels, 1 to (\d+) inclusive", (PROTO / "image.proto").read_text())
    assert int(side[1]) == MAX_SIDE


def test_an_unknown_field():
    with pytest.raises(StopIteration):
        ENDPOINTS["flux-lora"].field("negative_prompt")


def make_model(name: str, *endpoints: str) -> ModelInfo:
    return ModelInfo(name, endpoints, native_size=64, resamples=True, max_image_pixels=1, fidelity="EXACT")


def test_models_of_an_endpoint():
    endpoint = ENDPOINTS["omnigen-v1"]
    second, first = make_model("b", "flux-lora", "omnigen-v1"), make_model("a", "omnigen-v1")
    installed = [second, make_model("c", "flux-lora"), first]
    assert models_of(endpoint, installed) == [first, second]
    assert default_model(endpoint, installed) is first
    own = make_model(endpoint.preferred_model, "omnigen-v1")
    assert default_model(endpoint, [first, own]) is own
    assert default_model(endpoint, [make_model(endpoint.preferred_model)]) is None
