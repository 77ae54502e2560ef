"""Inputs as JSON and in queries: what reaches validation, and what never gets so far."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from flashbulb_server.api.http.inputs import digest, fields_of_query, given_fields, parse_object
from flashbulb_server.api.http.problem import Problem
from flashbulb_server.core.catalog import ENDPOINTS, FAST_LCM, ModelInfo
from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import InvalidRequest
from tests.unit.wire.values import quick

EDITED = ENDPOINTS["fast-lcm-diffusion/image-to-image"]
MODEL = ModelInfo("m", tuple(ENDPOINTS), 128, False, 4_194_304, "EXACT", safe_by_construction=True)
NAMES = sorted({field.name for endpoint in ENDPOINTS.values() for field in endpoint.fields})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("body", [b"", b" \n", b"{}"])
def test_an_empty_body_is_an_empty_object(body):
    assert parse_object(body) == {}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "json_invalid"),
        (b"\xff", "json_invalid"),
        (b'{"a": NaN}', "json_invalid"),
        (b'{"a": ' + b"9" * 5000 + b"}", "json_invalid"),
        (b"[" * 100_000, "json_invalid"),
        (b"[]", "dict_type"),
        (b'"x"', "dict_type"),
        (b"null", "dict_type"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body, kind):
    with pytest.raises(Problem) as caught:
        parse_object(body)
    assert (caught.value.status, caught.value.error_type) == (422, kind)
    assert caught.value.body["detail"][0]["loc"] == ["body"]
    assert len(caught.value.body["message"]) < 300


def test_null_and_what_is_unknown_are_absent():
    assert given_fields(FAST_LCM, {"prompt": "x", "seed": None, "loras": [], "image_url": "http://a"}) == {
        "prompt": "x"
    }


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("seed", 4.0, 4),
        ("seed", 4.5, 4.5),
        ("seed", "4", "4"),
        ("guidance_scale", 2, 2),
        ("image_size", "square", "square"),
        ("image_size", {"width": 64.0}, (64, None)),
        ("image_size", {"height": 32, "depth": 1}, (None, 32)),
        ("image_size", {}, (None, None)),
        ("image_size", [1, 2], [1, 2]),
        ("image_url", "http://a/b.png", SourceImage("http://a/b.png")),
        ("image_url", 5, 5),
        ("image_url", b"x", SourceImage(content=b"x")),
    ],
)
def test_values_of_json(name, value, read):
    assert given_fields(EDITED, {name: value}) == {name: read}


def test_values_of_a_query():
    query = QueryParams(
        "prompt=true&seed=4&guidance_scale=1.5&sync_mode=false&expand_prompt=0&num_images=x&image_size=square&other=1&format=null"
    )
    assert fields_of_query(FAST_LCM, query) == {
        "prompt": "true",
        "seed": 4,
        "guidance_scale": 1.5,
        "sync_mode": False,
        "expand_prompt": False,
        "num_images": "x",
        "image_size": "square",
    }


def test_equal_inputs_have_equal_digests():
    one = digest(FAST_LCM, {"prompt": "x", "seed": 1})
    assert digest(FAST_LCM, {"seed": 1, "prompt": "x"}) == one
    assert digest(EDITED, {"prompt": "x", "seed": 1}) != one != digest(FAST_LCM, {"prompt": "x"})


@quick
@given(st.sampled_from(sorted(ENDPOINTS)), st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_json_is_either_valid_or_named(endpoint, body):
    """Nothing that JSON can say breaks validation, and what is refused can be told in JSON again."""
    body = parse_object(json.dumps(body).replace("NaN", "0").replace("Infinity", "1e999").encode())
    try:
        resolve(endpoint, given_fields(ENDPOINTS[endpoint], body), [MODEL])
    except InvalidRequest as err:
        from flashbulb_server.api.http.errors import told

        status, told_body, headers = told(err, body)
        assert status == 422
        json.dumps(told_body, allow_nan=False)
        assert all(value.isascii() for value in headers.values())
