"""From what a caller gave to a spec: every field at and past its limits, defaults, and what is refused."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbulb_server.core.catalog import ENDPOINTS, FAST_LCM, ModelInfo, Task
from flashbulb_server.core.fields import IMAGE_SIZES, MAX_SEED
from flashbulb_server.core.generation import GenerationSpec, SourceImage
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import EndpointUnavailable, FieldViolation, InvalidRequest, SafetyCheckerUnavailable

HERE = FAST_LCM.id


def make_model(name: str, **values) -> ModelInfo:
    """An installed model that may draw anything."""
    defaults = {
        "endpoints": (HERE,),
        "native_size": 64,
        "resamples": True,
        "max_image_pixels": 200_000_000,
        "fidelity": "EXACT",
        "safe_by_construction": True,
    }
    return ModelInfo(name=name, **{**defaults, **values})


TINY = make_model("flashbulb/tiny")
OTHER = make_model("another/model")
CHECKED = make_model("checked/model", safe_by_construction=False, safety_checker_versions=("v2",))
UNCHECKED = make_model("unchecked/model", safe_by_construction=False)
ELSEWHERE = make_model("elsewhere/model", endpoints=("omnigen-v1",))
INSTALLED = (TINY, OTHER, CHECKED, UNCHECKED, ELSEWHERE)

NOT_INTEGERS = (True, False, 1.0, "1", "one", [1], (1, 1))
NOT_NUMBERS = (True, False, "1", [1], math.nan, math.inf, -math.inf, 10**400, -(10**400))
NOT_BOOLEANS = (0, 1, "true", "false", 1.0, [True])
NOT_TEXTS = (5, 1.5, True, b"bytes", ["a"])
CONTROLS = ("a\x00b", "\x1b[31m", "a\x7f", "a\x85b", "half \ud800")

EDGES = {
    "model_name": ((TINY.name, OTHER.name), ("no/model", "x" * 100_000, ELSEWHERE.name, *NOT_TEXTS, *CONTROLS)),
    "prompt": (("x", "x" * 4096, "two\nlines\tand a tab\r", "\U0001f34e" * 4096), ("", " ", "\n\t", "x" * 4097, *NOT_TEXTS, *CONTROLS)),
    "negative_prompt": (("", " ", "x" * 4096), ("x" * 4097, *NOT_TEXTS, *CONTROLS)),
    "image_size": (
        (*IMAGE_SIZES, (1, 1), (14142, 1), (1, 14142), (14142, 14142), (None, None)),
        ("huge", "512x512", "SQUARE", (), (5,), (5, 5, 5), [5, 5], (5.0, 5), ("5", 5), (True, True), (-1, -1), (14143, 14143), 512),
    ),
    "num_inference_steps": ((1, 32), (0, 33, -1, 10**400, *NOT_INTEGERS)),
    "seed": ((0, MAX_SEED), (-1, MAX_SEED + 1, 10**400, *NOT_INTEGERS)),
    "guidance_scale": ((0, 0.0, 20, 20.0), (-0.001, 20.001, *NOT_NUMBERS)),
    "sync_mode": ((True, False), NOT_BOOLEANS),
    "num_images": ((1, 8), (0, 9, -1, *NOT_INTEGERS)),
    "enable_safety_checker": ((True, False), NOT_BOOLEANS),
    "safety_checker_version": (("v1", "v2"), ("v3", "V1", 1, "unknown value 9", True)),
    "expand_prompt": ((False,), (True, *NOT_BOOLEANS)),
    "format": (("jpeg", "png"), ("JPEG", "webp", 1, "unknown value 7")),
    "guidance_rescale": ((0, 0.0, 1, 1.0), (-0.001, 1.001, *NOT_NUMBERS)),
    "request_id": (("", "x" * 128, "\u00e9" * 128), ("x" * 129, *NOT_TEXTS, *CONTROLS)),
}  # fmt: skip
"""Of every field: values that are taken, and values that are refused."""

GOOD = [(name, value) for name, (good, _) in EDGES.items() for value in good]
BAD = [(name, value) for name, (_, bad) in EDGES.items() for value in bad]


def short(value: object) -> str:
    """The id of a parameter."""
    return ascii(value)[:24] if not isinstance(value, int) or abs(value) < 10**30 else "large"


def resolved(**given: object) -> GenerationSpec:
    return resolve(HERE, {"prompt": "a red apple", **given}, INSTALLED)


def refused(**given: object) -> tuple[FieldViolation, ...]:
    """What is wrong with the fields."""
    with pytest.raises(InvalidRequest) as caught:
        resolved(**given)
    return caught.value.violations


def test_the_table_of_edges_is_complete():
    assert set(EDGES) == {field.name for field in FAST_LCM.fields}


def test_defaults():
    spec = resolve(HERE, {"prompt": "a red apple"}, [TINY])
    assert 0 <= spec.seed <= MAX_SEED
    assert spec == GenerationSpec(
        endpoint="fast-lcm-diffusion",
        model_name="flashbulb/tiny",
        prompt="a red apple",
        width=1024,
        height=1024,
        num_inference_steps=6,
        seed=spec.seed,
        guidance_scale=1.5,
        sync_mode=True,
        num_images=1,
        enable_safety_checker=True,
        safety_checker_version="v1",
        format="jpeg",
    )


def test_a_seed_that_is_not_given_is_drawn():
    assert len({resolved().seed for _ in range(8)}) == 8


@pytest.mark.parametrize(("name", "value"), GOOD, ids=short)
def test_a_value_in_its_range_is_taken(name, value):
    spec = resolved(**{name: value})
    if name == "image_size":
        assert (spec.width, spec.height) == (
            IMAGE_SIZES[value] if isinstance(value, str) else tuple(v or 512 for v in value)
        )
    else:
        assert getattr(spec, name) == value


@pytest.mark.parametrize(("name", "value"), BAD, ids=short)
def test_a_value_out_of_its_range_is_named(name, value):
    violations = refused(**{name: value})
    sides = name == "image_size" and isinstance(value, tuple) and len(value) == 2
    assert {v.field for v in violations} <= ({f"{name}.width", f"{name}.height"} if sides else {name})
    assert all(len(v.description) < 300 for v in violations)


@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize("name", [f.name for f in FAST_LCM.fields if not f.required and f.name != "seed"])
def test_an_empty_value_is_the_default(name, value):
    assert resolved(seed=1, **{name: value}) == resolved(seed=1)


def test_a_number_may_be_given_as_an_integer():
    spec = resolved(guidance_scale=2, guidance_rescale=1)
    assert (type(spec.guidance_scale), type(spec.guidance_rescale)) == (float, float)


def test_all_bad_fields_are_reported_together():
    bad = {name: values[-1] for name, (_, values) in EDGES.items()}
    assert {v.field for v in refused(**bad)} == set(EDGES)


def test_what_is_wrong_around_the_input_is_reported_with_it():
    also = FieldViolation("start_timeout", "is too long")
    with pytest.raises(InvalidRequest) as caught:
        resolve(HERE, {"seed": -1}, INSTALLED, also=[also])
    assert [v.field for v in caught.value.violations] == ["start_timeout", "prompt", "seed"]
    with pytest.raises(InvalidRequest) as caught:
        resolve(HERE, {"prompt": "x"}, INSTALLED, also=[also])
    assert caught.value.violations == (also,)


def test_a_missing_prompt_is_named():
    with pytest.raises(InvalidRequest, match="prompt: is required"):
        resolve(HERE, {}, INSTALLED)


def test_a_violation_says_range_and_value():
    assert refused(num_inference_steps=33) == (FieldViolation("num_inference_steps", "must be from 1 to 32, not 33"),)
    assert refused(guidance_scale=20.5) == (FieldViolation("guidance_scale", "must be from 0 to 20, not 20.5"),)
    assert refused(seed=-1) == (FieldViolation("seed", "must be from 0 to 9007199254740991, not -1"),)
    assert refused(format="gif") == (FieldViolation("format", "must be one of jpeg, png"),)


@pytest.mark.parametrize(
    ("size", "paths"),
    [
        ((-1, 5), ["image_size.width"]),
        ((0, None), ["image_size.width"]),
        ((14143, 5), ["image_size.width"]),
        ((5, -1), ["image_size.height"]),
        ((5, 14143), ["image_size.height"]),
        ((None, "5"), ["image_size.height"]),
        ((-1, 14143), ["image_size.width", "image_size.height"]),
    ],
)
def test_the_bad_sides_of_a_size_are_named(size, paths):
    assert [violation.field for violation in refused(image_size=size)] == paths


@pytest.mark.parametrize(
    ("bad", "kind", "limits"),
    [
        ({"prompt": None}, "missing", {}),
        ({"prompt": 5}, "string_type", {}),
        ({"prompt": " "}, "sequence_too_short", {"min_length": 1}),
        ({"prompt": "x" * 4097}, "sequence_too_long", {"max_length": 4096}),
        ({"seed": "7"}, "int_type", {}),
        ({"guidance_scale": True}, "float_type", {}),
        ({"num_images": 0}, "greater_than_equal", {"ge": 1}),
        ({"num_images": 9}, "less_than_equal", {"le": 8}),
        ({"guidance_scale": float("nan")}, "less_than_equal", {"le": 20}),
        ({"sync_mode": 1}, "bool_type", {}),
        ({"format": "gif"}, "one_of", {"expected": ["jpeg", "png"]}),
        ({"image_size": "huge"}, "one_of", {"expected": list(IMAGE_SIZES)}),
        ({"image_size": (0, None)}, "greater_than_equal", {"ge": 1}),
        ({"model_name": "other"}, "one_of", {"expected": ["m"]}),
        ({"seed": MAX_SEED, "num_images": 2}, "less_than_equal", {"le": MAX_SEED - 1}),
        ({"expand_prompt": True}, "feature_not_supported", {}),
    ],
)
def test_a_violation_tells_its_parts(bad, kind, limits):
    with pytest.raises(InvalidRequest) as caught:
        resolve(HERE, {"prompt": "x", **bad}, [make_model("m")])
    (violation,) = caught.value.violations
    assert (violation.type, violation.limits) == (kind, limits)


@pytest.mark.parametrize(
    ("given_size", "size"), [((None, None), (512, 512)), ((640, None), (640, 512)), ((None, 640), (512, 640))]
)
def test_a_side_that_is_left_out_is_512(given_size, size):
    spec = resolved(image_size=given_size)
    assert (spec.width, spec.height) == size


def test_the_model_limits_the_area():
    small = make_model("a/small", max_image_pixels=1024 * 1024)
    installed = [small, TINY]
    for size in ((1024, 1024), (2048, 512), "square_hd"):
        assert resolve(HERE, {"prompt": "x", "image_size": size}, installed).model_name == small.name
    with pytest.raises(InvalidRequest, match=r"image_size: 1024 x 1025 is more than the 1048576 pixels that a/small"):
        resolve(HERE, {"prompt": "x", "image_size": (1024, 1025)}, installed)
    wide = {"prompt": "x", "image_size": (1024, 1025), "model_name": TINY.name}
    assert resolve(HERE, wide, installed).height == 1025


def test_the_area_counts_with_a_side_left_out():
    with pytest.raises(InvalidRequest, match="600 x 512 is more"):
        resolve(HERE, {"prompt": "x", "image_size": (600, None)}, [make_model("m", max_image_pixels=512 * 512)])


def test_an_unknown_model_lists_those_of_the_endpoint():
    (violation,) = refused(model_name="no/model")
    assert violation.description == (
        "'no/model' is not installed; installed: another/model, checked/model, flashbulb/tiny, unchecked/model"
    )


def test_the_default_model():
    preferred = make_model(FAST_LCM.preferred_model)
    assert resolve(HERE, {"prompt": "x"}, [TINY, preferred, OTHER]).model_name == preferred.name
    assert resolve(HERE, {"prompt": "x"}, [TINY, OTHER]).model_name == OTHER.name  # the first by name
    assert resolve(HERE, {"prompt": "x"}, iter([ELSEWHERE, TINY])).model_name == TINY.name


def test_an_endpoint_without_models():
    with pytest.raises(EndpointUnavailable) as caught:
        resolve(HERE, {"seed": "not even looked at"}, [ELSEWHERE])
    assert caught.value.metadata == {"endpoint": HERE, "available": "omnigen-v1"}
    with pytest.raises(EndpointUnavailable, match="available: none"):
        resolve(HERE, {}, [])


@pytest.mark.parametrize(
    ("model", "wish", "allowed"),
    [
        (TINY, {}, True),  # safe by construction: nothing to check
        (TINY, {"safety_checker_version": "v2"}, True),
        (UNCHECKED, {}, False),
        (UNCHECKED, {"enable_safety_checker": False}, True),
        (CHECKED, {"safety_checker_version": "v2"}, True),
        (CHECKED, {"safety_checker_version": "v1"}, False),
        (CHECKED, {}, False),
    ],
)
def test_the_safety_checker_must_be_installed(model, wish, allowed):
    asked = {"prompt": "x", "model_name": model.name, **wish}
    if allowed:
        assert resolve(HERE, asked, INSTALLED).model_name == model.name
    else:
        with pytest.raises(SafetyCheckerUnavailable) as caught:
            resolve(HERE, asked, INSTALLED)
        assert caught.value.metadata["installed"] == (", ".join(model.safety_checker_versions) or "none")


def test_bad_fields_come_before_the_safety_checker():
    assert {v.field for v in refused(model_name=UNCHECKED.name, seed=-1)} == {"seed"}


def test_prompt_expansion_is_refused():
    assert refused(expand_prompt=True) == (
        FieldViolation("expand_prompt", "no prompt expansion is installed on this server"),
    )


def test_fields_of_other_endpoints_are_passed_over():
    assert resolved(seed=1, strength=2.0, acceleration="none") == resolved(seed=1)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=3),
    st.tuples(st.integers(-5, 20_000), st.integers(-5, 20_000)),
    st.lists(st.integers(), max_size=3),
)
PROMPTS = st.text("ab\u00e9 \n\U0001f34e", min_size=1, max_size=8).filter(str.strip)


def likely(name: str) -> st.SearchStrategy[object]:
    """Mostly good values of a field, some bad ones, some of anything."""
    good, bad = EDGES[name]
    return st.one_of(st.sampled_from(good), st.sampled_from(good), st.sampled_from(bad), JUNK)


ANYTHING = st.fixed_dictionaries(
    {"prompt": st.one_of(PROMPTS, PROMPTS, likely("prompt"))},
    optional={name: likely(name) for name in EDGES if name != "prompt"},
)


@settings(deadline=None, max_examples=60, database=None)
@given(ANYTHING)
def test_a_spec_resolves_to_itself(given_fields):
    try:
        spec = resolve(HERE, given_fields, INSTALLED)
    except InvalidRequest as error:
        assert {v.field.partition(".")[0] for v in error.violations} <= set(given_fields)
        return
    except SafetyCheckerUnavailable:
        return
    again = asdict(spec) | {"image_size": (spec.width, spec.height)}
    assert resolve(HERE, again, INSTALLED) == spec


def test_every_picture_s_seed_can_be_given_again() -> None:
    with pytest.raises(InvalidRequest, match=f"seed: must be at most {MAX_SEED - 2} for 3 pictures"):
        resolve("fast-lcm-diffusion", {"prompt": "a cat", "seed": MAX_SEED - 1, "num_images": 3}, [TINY])
    assert resolve("fast-lcm-diffusion", {"prompt": "a cat", "seed": MAX_SEED}, [TINY]).seed == MAX_SEED


# Pictures

PICTURE = SourceImage(content=b"x")


def resolved_picture(endpoint: str = "fast-lcm-diffusion/image-to-image", **given: object) -> GenerationSpec:
    model = replace(TINY, endpoints=tuple(ENDPOINTS))
    return resolve(endpoint, {"prompt": "a red apple", "image_url": PICTURE, **given}, [model])


def test_defaults_of_image_to_image():
    spec = resolved_picture()
    assert spec.task is Task.IMAGE_TO_IMAGE
    assert (spec.endpoint, spec.image, spec.sources) == (
        "fast-lcm-diffusion/image-to-image",
        PICTURE,
        {"image_url": PICTURE},
    )
    assert (spec.strength, spec.preserve_aspect_ratio, spec.crop_output) == (0.95, False, False)
    assert (spec.width, spec.height, spec.num_inference_steps, spec.guidance_scale) == (1024, 1024, 6, 1.5)


def test_defaults_of_inpainting():
    mask = SourceImage("https://a.example/mask.png")
    spec = resolved_picture("fast-lcm-diffusion/inpainting", mask_url=mask)
    assert spec.task is Task.INPAINTING
    assert (spec.image, spec.mask, spec.strength) == (PICTURE, mask, 0.95)
    assert spec.sources == {"image_url": PICTURE, "mask_url": mask}


@pytest.mark.parametrize(
    ("endpoint", "least"), [("fast-lcm-diffusion/image-to-image", 0.05), ("fast-lcm-diffusion/inpainting", 0.01)]
)
def test_strengths(endpoint, least):
    for strength in (least, 0.5, 1, 1.0):
        assert resolved_picture(endpoint, mask_url=PICTURE, strength=strength).strength == strength
    for strength in (least - 0.001, 1.001, 0, float("nan"), True, "1"):
        with pytest.raises(InvalidRequest) as caught:
            resolved_picture(endpoint, mask_url=PICTURE, strength=strength)
        assert [v.field for v in caught.value.violations] == ["strength"]


@pytest.mark.parametrize(
    "source", [None, "", SourceImage(), SourceImage("ftp://a.example/b"), "https://a.example/b.png", b"x", 1]
)
def test_every_bad_picture_is_reported(source):
    with pytest.raises(InvalidRequest) as caught:
        resolved_picture("fast-lcm-diffusion/inpainting", image_url=source, mask_url=source, strength=2)
    assert {v.field for v in caught.value.violations} == {"image_url", "mask_url", "strength"}
