"""The OpenAPI documents: valid, complete, and of one mind with validation."""

from __future__ import annotations

import json
import re

import pytest
from jsonschema import Draft202012Validator

from flashbulb_server.api.http.inputs import given_fields
from flashbulb_server.api.http.openapi import document
from flashbulb_server.api.http.schemas import input_schema
from flashbulb_server.core.catalog import ENDPOINTS, FAST_LCM
from flashbulb_server.core.descriptions import FIELDS
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import InvalidRequest
from tests.unit.api.test_http_inputs import MODEL

SMALL = {"prompt": "x", "image_url": "http://a/b.png", "mask_url": "http://a/m.png"}


def test_every_field_is_described_and_nothing_else():
    fields = [field for endpoint in ENDPOINTS.values() for field in endpoint.fields]
    parts = [part for field in fields if field.objects for part in field.items]
    assert {field.name for field in (*fields, *parts)} == set(FIELDS)


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda e: e.id)
def test_input_schemas_are_valid(endpoint):
    schema = input_schema(endpoint)
    Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == [field.name for field in endpoint.fields]


def test_every_reference_leads_somewhere():
    made = document(ENDPOINTS.values(), "http://a")
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(made)):
        assert name in made["components"]["schemas"]
    assert len(made["paths"]) == 8 * len(ENDPOINTS)


def test_a_document_of_one_endpoint_holds_no_other():
    made = document([FAST_LCM], "http://a", single=True)
    assert {path.split("/")[3] for path in made["paths"]} == {"fast-lcm-diffusion"}
    assert made["info"]["x-fal-metadata"] == {"endpointId": "fal-ai/fast-lcm-diffusion"}


VALUES = [
    *(None, "", " ", "x", "x" * 4097, "square", "huge", "jpeg", "gif", "v1", "a\x00b", True, False),
    *(
        -1,
        0,
        1,
        7,
        8,
        9,
        32,
        33,
        1.5,
        20,
        21,
        0.04,
        2**53,
        {},
        [],
        {"width": 0},
        {"width": 64},
        {"width": 14143},
        {"height": "a"},
    ),
    *("http://a/b.png", "ftp://a", "data:,x", "data:", "http://"),
    *(["http://a/b.png"], ["http://a/b.png", None], ["ftp://a"], [5], ["data:,x"] * 8, ["data:,x"] * 9),
    *(
        [{}],
        [{"path": "a"}],
        [{"path": "a"}] * 16,
        [{"path": "a"}] * 17,
        [{"path": " "}],
        [{"path": "a\nb"}],
        [{"path": 5}],
    ),
    *([{"path": "x" * 2048}], [{"path": "x" * 2049}], [{"path": "a", "more": 1}]),
    *([{"path": "a", "scale": scale}] for scale in (None, 0, 0.5, 1, 1.01, 4, 4.01, -0.01, "1", True)),
    *([{"path": "a", "force": force}] for force in (None, True, 1)),
    *(
        [{"path": "a", "tokens": t}]
        for t in (None, [], "x", ["<s>"], ["<s>"] * 17, [""], [None], ["a\nb"], ["x" * 129])
    ),
]


@pytest.mark.parametrize("endpoint_id", ENDPOINTS)
def test_schema_and_validation_are_of_one_mind(endpoint_id):
    """What the schema takes, validation takes, and the other way round, but for the few things that a schema cannot say."""
    endpoint = ENDPOINTS[endpoint_id]
    validator = Draft202012Validator(input_schema(endpoint))
    for field in endpoint.fields:
        for value in VALUES:
            given = {
                **{name: v for name, v in SMALL.items() if any(f.name == name for f in endpoint.fields)},
                field.name: value,
            }
            allowed = not list(validator.iter_errors(given))
            try:
                resolve(endpoint_id, given_fields(endpoint, given), [MODEL])
                taken = True
            except InvalidRequest:
                taken = False
            if (field.name, value) in UNSAYABLE or (value == "" and field.name != "prompt"):
                continue
            assert allowed == taken, (field.name, value)


UNSAYABLE = [
    *(("model_name", value) for value in VALUES if isinstance(value, str)),  # what is installed, changes
    ("expand_prompt", True),
    *(("image_url", value) for value in ("http://", "data:")),
    *(("mask_url", value) for value in ("http://", "data:")),
]
