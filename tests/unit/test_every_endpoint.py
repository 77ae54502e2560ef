"""Every endpoint of the catalog, walked field by field with a model that announces them all: defaults, good values, bad values, and the way
of each over protobuf and JSON.
"""

from __future__ import annotations

import json

import pytest

from flashbulb.v1 import image_pb2, input_pb2
from flashbulb_server.api.http.inputs import given_fields as fields_of_json
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint, ModelInfo
from flashbulb_server.core.fields import Field, Kind
from flashbulb_server.core.generation import ATTRIBUTES, EmbeddingUse, GenerationSpec, LoraUse, SourceImage
from flashbulb_server.core.validation import resolve, resolve_session
from flashbulb_server.errors import InvalidRequest, SafetyCheckerUnavailable
from flashbulb_server.wire.fal import error_json
from flashbulb_server.wire.inputs import given_fields, to_input, to_spec
from tests.whole_inputs import MASK, PICTURE, WHOLE, in_protobuf, of_endpoint

FAKE = ModelInfo("fake", tuple(ENDPOINTS), 64, False, 4_194_304, "EXACT", safe_by_construction=True)
GIVEN = {"prompt": "a red apple", "image_url": PICTURE, "mask_url": MASK}
LINE = "x" * 2048

# As JSON: values that are taken, and values that are refused, with the path that names each.
NO_NUMBER = ("1", True, [1], {})
NO_LIST = ("x", 5, {}, True)
GOOD: dict[str, tuple[object, ...]] = {
    "model_name": ("fake",),
    "prompt": ("x", "x" * 4096, "two\nlines"),
    "negative_prompt": ("", "fog", "x" * 4096),
    "image_size": ("square", "portrait_16_9", {"width": 640, "height": 480}, {"width": 64}, {}),
    "seed": (0, 7, 2**53 - 1),
    "sync_mode": (True, False),
    "num_images": (1, 4),
    "enable_safety_checker": (True, False),
    "safety_checker_version": ("v1", "v2"),
    "expand_prompt": (False,),
    "format": ("jpeg", "png"),
    "output_format": ("jpeg", "png"),
    "guidance_rescale": (0, 0.5, 1),
    "guidance_scale": (0, 1.25, 20),
    "img_guidance_scale": (0, 1.6, 20),
    "num_inference_steps": (1, 2, 32),
    "request_id": ("", "mine", "x" * 128),
    "image_url": (PICTURE, "data:image/png;base64,iVBO"),
    "mask_url": (MASK, "data:image/png;base64,iVBO"),
    "input_image_urls": ([], [PICTURE], [PICTURE, "data:,x"], [PICTURE] * 8),
    "strength": (0.05, 0.5, 1),
    "preserve_aspect_ratio": (True, False),
    "crop_output": (True, False),
    "loras": (
        [],
        [{"path": "a"}],
        [{"path": LINE, "scale": 0}, {"path": "https://a.example/b.safetensors", "scale": 1, "force": True}],
        [{"path": "a", "scale": 0.25, "force": None, "unknown": 5}] * 16,
    ),
    "embeddings": (
        [],
        [{"path": "a"}],
        [{"path": LINE, "tokens": []}, {"path": "b", "tokens": ["<cat>", "x" * 128]}],
        [{"path": "a", "tokens": ["<s>"] * 16}] * 16,
    ),
    "acceleration": ("none", "regular"),
}
BAD: dict[str, tuple[tuple[object, str], ...]] = {
    "model_name": (("other", ""), (5, "")),
    "prompt": (("", ""), (" \n", ""), ("x" * 4097, ""), ("a\x00", ""), (5, ""), (None, "")),
    "negative_prompt": (("x" * 4097, ""), ("\x1b", ""), (5, "")),
    "image_size": (("huge", ""), (5, ""), ({"width": 0}, ".width"), ({"height": 14143}, ".height"), ([64, 64], "")),
    "seed": ((-1, ""), (2**53, ""), (1.5, ""), ("7", "")),
    "sync_mode": ((1, ""), ("true", "")),
    "num_images": ((0, ""), (9, ""), (1.5, "")),
    "enable_safety_checker": ((1, ""), ("true", "")),
    "safety_checker_version": (("v3", ""), (1, "")),
    "expand_prompt": ((True, ""), (1, "")),
    "format": (("gif", ""), (1, "")),
    "output_format": (("gif", ""), (1, "")),
    "guidance_rescale": ((-0.01, ""), (1.01, ""), *((value, "") for value in NO_NUMBER)),
    "guidance_scale": ((-0.01, ""), (35.01, ""), *((value, "") for value in NO_NUMBER)),
    "img_guidance_scale": ((-0.01, ""), (20.01, ""), *((value, "") for value in NO_NUMBER)),
    "num_inference_steps": ((0, ""), (51, ""), *((value, "") for value in NO_NUMBER)),
    "request_id": (("x" * 129, ""), ("\x00", ""), (5, "")),
    "image_url": ((None, ""), ("", ""), ("ftp://a", ""), (5, ""), ([PICTURE], "")),
    "mask_url": ((None, ""), ("", ""), ("ftp://a", ""), (5, ""), ([MASK], "")),
    "input_image_urls": (
        *((value, "") for value in NO_LIST),
        ([PICTURE] * 9, ""),
        ([None], "[0]"),
        ([""], "[0]"),
        ([PICTURE, "ftp://a"], "[1]"),
        ([PICTURE, PICTURE, 5], "[2]"),
    ),
    "strength": ((0, ""), (1.01, ""), *((value, "") for value in NO_NUMBER)),
    "preserve_aspect_ratio": ((1, ""), ("true", "")),
    "crop_output": ((1, ""), ("true", "")),
    "loras": (
        *((value, "") for value in NO_LIST),
        ([{"path": "a"}] * 17, ""),
        (["a"], "[0]"),
        ([None], "[0]"),
        ([{}], "[0].path"),
        ([{"path": "a"}, {"path": None, "scale": 1}], "[1].path"),
        ([{"path": " "}], "[0].path"),
        ([{"path": LINE + "x"}], "[0].path"),
        ([{"path": "a\nb"}], "[0].path"),
        ([{"path": 5}], "[0].path"),
        ([{"path": "a"}, {"path": "b", "scale": -0.01}], "[1].scale"),
        ([{"path": "b", "scale": 4.01}], "[0].scale"),
        ([{"path": "b", "scale": "1"}], "[0].scale"),
        ([{"path": "b", "force": 1}], "[0].force"),
    ),
    "embeddings": (
        *((value, "") for value in NO_LIST),
        ([{"path": "a"}] * 17, ""),
        (["a"], "[0]"),
        ([{"tokens": ["<s>"]}], "[0].path"),
        ([{"path": LINE + "x"}], "[0].path"),
        ([{"path": "a\x00"}], "[0].path"),
        ([{"path": "a", "tokens": "<s>"}], "[0].tokens"),
        ([{"path": "a", "tokens": ["<s>"] * 17}], "[0].tokens"),
        ([{"path": "a", "tokens": ["<s>", ""]}], "[0].tokens[1]"),
        ([{"path": "a", "tokens": [None]}], "[0].tokens[0]"),
        ([{"path": "a", "tokens": ["x" * 129]}], "[0].tokens[0]"),
        ([{"path": "a", "tokens": ["<s>\n"]}], "[0].tokens[0]"),
    ),
    "acceleration": (("fast", ""), (1, "")),
}
DEFAULTS: dict[str, dict[str, object]] = {
    "fast-lcm-diffusion": {"width": 1024, "height": 1024, "num_inference_steps": 6, "guidance_scale": 1.5, "sync_mode": True},
    "fast-lcm-diffusion/image-to-image": {
        "width": 1024, "height": 1024, "num_inference_steps": 6, "guidance_scale": 1.5, "sync_mode": True, "strength": 0.95,
    },
    "fast-lcm-diffusion/inpainting": {
        "width": 1024, "height": 1024, "num_inference_steps": 6, "guidance_scale": 1.5, "sync_mode": True, "strength": 0.95,
    },
    "stable-diffusion-v15": {"width": 512, "height": 512, "num_inference_steps": 25, "guidance_scale": 7.5},
    "omnigen-v1": {
        "width": 1024, "height": 1024, "num_inference_steps": 50, "guidance_scale": 3.0, "img_guidance_scale": 1.6,
    },
    "flux-lora": {"width": 1024, "height": 768, "num_inference_steps": 28, "guidance_scale": 3.5},
    "flux-lora/image-to-image": {
        "width": 1024, "height": 768, "num_inference_steps": 28, "guidance_scale": 3.5, "strength": 0.85,
    },
    "flux-lora/inpainting": {
        "width": 1024, "height": 768, "num_inference_steps": 28, "guidance_scale": 3.5, "strength": 0.85,
    },
}  # fmt: skip
"""Of the published schemas. What an endpoint has no field for has no effect."""

each_endpoint = pytest.mark.parametrize("endpoint", list(ENDPOINTS.values()), ids=lambda e: e.id)
each_field = pytest.mark.parametrize(
    ("endpoint", "field"),
    [(endpoint, field) for endpoint in ENDPOINTS.values() for field in endpoint.fields],
    ids=lambda value: getattr(value, "id", None) or value.name,
)


def resolved(endpoint: Endpoint, given: dict[str, object], model: ModelInfo = FAKE) -> GenerationSpec:
    """The spec of a body of JSON."""
    body = json.loads(json.dumps({**of_endpoint(endpoint, GIVEN), **given}))
    return resolve(endpoint.id, fields_of_json(endpoint, body), [model])


def refused(endpoint: Endpoint, given: dict[str, object]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        resolved(endpoint, given)
    return caught.value


def expected(field: Field, value: object) -> object:
    """What the spec holds for a good value."""
    match field.kind:
        case Kind.SOURCE:
            return SourceImage(value)
        case Kind.SOURCES:
            return tuple(map(SourceImage, value))
        case Kind.LORAS:
            return tuple(LoraUse(item["path"], item.get("scale", 1.0), bool(item.get("force"))) for item in value)
        case Kind.EMBEDDINGS:
            return tuple(EmbeddingUse(item["path"], tuple(item.get("tokens") or ("<s0>", "<s1>"))) for item in value)
        case _:
            return value


def test_the_tables_hold_every_field():
    names = {field.name for endpoint in ENDPOINTS.values() for field in endpoint.fields}
    assert set(GOOD) == set(BAD) == set(WHOLE) == names
    assert set(DEFAULTS) == set(ENDPOINTS)


@each_endpoint
def test_defaults(endpoint):
    spec = resolved(endpoint, {"seed": 1})
    pictures = {
        ATTRIBUTES[name]: SourceImage(uri) for name, uri in of_endpoint(endpoint, GIVEN).items() if name in ATTRIBUTES
    }
    version = "v1" if any(f.name == "safety_checker_version" for f in endpoint.fields) else ""
    assert spec == GenerationSpec(
        **{
            "endpoint": endpoint.id,
            "model_name": "fake",
            "prompt": "a red apple",
            "seed": 1,
            "sync_mode": False,
            "num_images": 1,
            "enable_safety_checker": True,
            "safety_checker_version": version,
            "format": "jpeg",
            **pictures,
            **DEFAULTS[endpoint.id],
        }
    )


@each_field
def test_good_values_are_taken_and_survive_the_way(endpoint, field):
    for value in GOOD[field.name]:
        given = {field.name: value} | ({} if field.name == "seed" else {"seed": 1})
        spec = resolved(endpoint, given)
        if field.kind is not Kind.SIZE:
            assert getattr(spec, ATTRIBUTES.get(field.name, field.name)) == expected(field, value), value
        back = to_spec(input_pb2.GenerationInput.FromString(to_input(spec).SerializeToString()), spec.model_name)
        assert back == spec, value


@each_field
def test_a_value_that_is_left_out_is_the_default(endpoint, field):
    if not field.required and field.name != "seed":
        assert resolved(endpoint, {field.name: None, "seed": 1}) == resolved(endpoint, {"seed": 1})


@each_field
def test_bad_values_are_named_by_their_paths(endpoint, field):
    for value, part in BAD[field.name]:
        error = refused(endpoint, {field.name: value})
        assert [violation.field for violation in error.violations] == [field.name + part], value
        assert all(len(violation.description) < 300 for violation in error.violations)


@each_endpoint
def test_all_bad_fields_are_named_together(endpoint):
    bad = {field.name: BAD[field.name][-1] for field in endpoint.fields}
    error = refused(endpoint, {name: value for name, (value, _) in bad.items()})
    assert {violation.field for violation in error.violations} == {name + part for name, (_, part) in bad.items()}


@each_endpoint
def test_json_and_protobuf_say_the_same(endpoint):
    whole = of_endpoint(endpoint, WHOLE)
    name, given = given_fields(in_protobuf(endpoint, whole))
    assert set(given) == {field.name for field in endpoint.fields}
    assert resolve(name, given, [FAKE]) == resolved(endpoint, whole)


@each_endpoint
def test_what_is_left_out_is_the_same_in_protobuf(endpoint):
    given = of_endpoint(endpoint, {**GIVEN, "seed": 1})
    name, found = given_fields(in_protobuf(endpoint, given))
    assert resolve(name, found, [FAKE]) == resolved(endpoint, given)


@pytest.mark.parametrize(
    ("endpoint", "strongest"), [("stable-diffusion-v15", 1), ("flux-lora", 4), ("flux-lora/inpainting", 4)]
)
def test_how_strong_an_adapter_may_be(endpoint, strongest):
    loras = [{"path": "a", "scale": strongest}]
    assert resolved(ENDPOINTS[endpoint], {"loras": loras}).loras == (LoraUse("a", strongest, force=False),)
    loras[0]["scale"] = strongest + 0.01
    (violation,) = refused(ENDPOINTS[endpoint], {"loras": loras}).violations
    assert (violation.field, violation.limits) == ("loras[0].scale", {"le": strongest})


def test_bad_items_of_protobuf_are_named_by_their_paths():
    fields = {
        "prompt": "x",
        "loras": [{"path": "a", "scale": 0.1}, {"scale": 1.5}],
        "embeddings": [{"path": "a", "tokens": ["<a>", ""]}, {"path": "x" * 2049}],
    }
    endpoint, given = given_fields(input_pb2.GenerationInput(stable_diffusion_v15=fields))
    with pytest.raises(InvalidRequest) as caught:
        resolve(endpoint, given, [FAKE])
    assert [violation.field for violation in caught.value.violations] == [
        "loras[1].path",
        "loras[1].scale",
        "embeddings[0].tokens[1]",
        "embeddings[1].path",
    ]
    fields = {"prompt": "x", "input_image_urls": [{"uri": PICTURE}, {}, {"uri": "ftp://a"}]}
    endpoint, given = given_fields(input_pb2.GenerationInput(omnigen_v1=fields))
    with pytest.raises(InvalidRequest) as caught:
        resolve(endpoint, given, [FAKE])
    assert [violation.field for violation in caught.value.violations] == ["input_image_urls[1]", "input_image_urls[2]"]


def test_bad_items_of_json_are_told_by_their_places():
    body = {
        "prompt": "x",
        "loras": [{"path": "a"}, {"path": "b", "scale": 9}],
        "embeddings": [{"path": "a", "tokens": [5]}],
    }
    endpoint = ENDPOINTS["stable-diffusion-v15"]
    with pytest.raises(InvalidRequest) as caught:
        resolve(endpoint.id, fields_of_json(endpoint, body), [FAKE])
    scale, token = error_json(caught.value, body)[1]["detail"]
    assert (scale["loc"], scale["input"], scale["ctx"]) == (["body", "loras", 1, "scale"], 9, {"le": 1})
    assert (token["loc"], token["input"]) == (["body", "embeddings", 0, "tokens", 0], 5)


def test_pictures_of_a_list_that_came_inline_are_not_echoed():
    spec = resolve(
        "omnigen-v1", {"prompt": "x", "input_image_urls": [SourceImage(content=b"x"), SourceImage(PICTURE)]}, [FAKE]
    )
    assert spec.sources == {
        "input_image_urls[0]": SourceImage(content=b"x"),
        "input_image_urls[1]": SourceImage(PICTURE),
    }
    echo = to_input(spec, echo=True).omnigen_v1
    assert list(echo.input_image_urls) == [image_pb2.ImageSource(), image_pb2.ImageSource(uri=PICTURE)]
    replaced = spec.with_sources({"input_image_urls[0]": SourceImage(MASK)})
    assert replaced.input_images == (SourceImage(MASK), SourceImage(PICTURE))
    assert replaced.with_sources({}) == replaced


def test_what_an_item_lacks_does_not_come_later_in_a_session():
    """Only required fields of the input itself may come with the frames."""
    assert resolve_session("flux-lora", {}, [FAKE]) is None
    with pytest.raises(InvalidRequest) as caught:
        resolve_session("flux-lora", {"loras": [{}]}, [FAKE])
    assert [violation.field for violation in caught.value.violations] == ["loras[0].path"]


@pytest.mark.parametrize("endpoint", ["omnigen-v1", "flux-lora"])
def test_an_endpoint_without_versions_takes_any_checker(endpoint):
    checked = ModelInfo("m", tuple(ENDPOINTS), 64, False, 4_194_304, "EXACT", safety_checker_versions=("v2",))
    assert resolved(ENDPOINTS[endpoint], {}, checked).safety_checker_version == ""
    assert checked.checker("") == checked.checker("v2") == "v2"
    unchecked = ModelInfo("m", tuple(ENDPOINTS), 64, False, 4_194_304, "EXACT")
    with pytest.raises(SafetyCheckerUnavailable, match="a safety checker is not installed"):
        resolved(ENDPOINTS[endpoint], {}, unchecked)
    assert resolved(ENDPOINTS[endpoint], {"enable_safety_checker": False}, unchecked).model_name == "m"


@pytest.mark.parametrize(
    ("endpoint", "steps"),
    [
        ("flux-lora", 28),
        ("flux-lora/image-to-image", 14),  # the last half of them
        ("flux-lora/inpainting", 14),
        ("fast-lcm-diffusion/image-to-image", 25),  # as many as the lowest half of the schedule has
        ("omnigen-v1", 28),
    ],
)
def test_steps_that_are_really_taken(endpoint, steps):
    given = of_endpoint(ENDPOINTS[endpoint], {"num_inference_steps": 28, "strength": 0.5})
    assert resolved(ENDPOINTS[endpoint], given).steps == steps
