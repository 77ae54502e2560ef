"""Outputs and errors in fal's shape: every class of error has a status that its clients treat rightly, and a body that says what is wrong."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from flashbulb_server import errors
from flashbulb_server.core.generation import DrawnImage, GenerationResult
from flashbulb_server.core.requests import Failure
from flashbulb_server.errors import FieldViolation, InvalidRequest
from flashbulb_server.wire.fal import error_json, failure_json, kind_of, output_json
from tests.specs import make_spec
from tests.unit.wire.values import ERRORS, leaves, name_of

STATUSES = {
    "INVALID_INPUT": 422,
    "BAD_IMAGE": 422,
    "KEY_MISSING": 401,
    "KEY_UNKNOWN": 401,
    "TOKEN_INVALID": 401,
    "TOKEN_FORBIDS": 403,
    "REQUEST_NOT_FOUND": 404,
    "FILE_NOT_FOUND": 404,
    "REQUEST_NOT_FINISHED": 400,
    "NO_WEBHOOK": 400,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "ENDPOINT_UNAVAILABLE": 404,
    "SAFETY_CHECKER_UNAVAILABLE": 422,
    "QUEUE_FULL": 429,
    "TOO_MANY_SESSIONS": 429,
    "TOO_MANY_CALLS": 429,
    "WORKERS_BUSY": 429,
    "NO_WORKER": 503,
    "STORE_UNAVAILABLE": 503,
    "DRAINING": 503,
    "NEWER_RELEASE": 503,
    "REQUEST_CANCELLED": 499,
    "START_TIMEOUT": 504,
    "ENGINE_FAILED": 500,
    "WORKER_LOST": 500,
    "DATA_UNREADABLE": 500,
}
SENT_AGAIN = {408, 409, 429, 502, 503, 504}
"""Statuses after which one of fal's clients sends the call again."""

PICTURE = DrawnImage("image/png", 8, 6, 64, 64, 3, 7, key="out/a/b/0.png", url="http://files/0.png")
RESULT = GenerationResult(
    make_spec(request_id="mine"), (PICTURE,), (False,), "EXACT", 1.0, {"inference": 0.25}, "torch cpu float32"
)


@pytest.mark.parametrize("leaf", sorted(leaves(), key=lambda c: c.__name__), ids=lambda c: c.__name__)
def test_every_class_has_a_status(leaf):
    assert kind_of(leaf).status == STATUSES[leaf.reason]


def test_a_class_without_a_status_is_found():
    with pytest.raises(StopIteration):
        kind_of(errors.FlashbulbError)


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_an_error_says_what_is_wrong(error):
    status, body = error_json(error)
    assert status == STATUSES[error.reason]
    assert body["message"] == error.message
    if status == 422:
        for entry in body["detail"]:
            assert entry["loc"][0] in ("body", "header", "query")
            assert entry["msg"] and entry["type"]
            assert entry["url"] == f"https://docs.fal.ai/errors#{entry['type']}"
    else:
        assert isinstance(body["detail"], str) and body["error_type"] == kind_of(type(error)).error_type
    json.dumps(body, allow_nan=False)


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_only_what_passes_is_sent_again(error):
    helps = isinstance(error, errors.Busy | errors.Unavailable)
    timed_out = isinstance(error, errors.StartTimeout)  # 504, with a header that stops both clients
    assert (error_json(error)[0] in SENT_AGAIN) == (helps or timed_out)


def test_what_was_begun_is_not_drawn_again():
    assert error_json(errors.NoWorker("lost while drawing", retry_after=None))[0] == 500


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_a_failure_has_the_status_of_its_error(error):
    status, body = failure_json(Failure.of(error))
    assert (status, body["message"]) == (STATUSES[error.reason], error.message)
    assert isinstance(body["detail"], list) == (status == 422)


def test_a_failure_of_a_newer_release_is_told_too():
    assert failure_json(Failure("SOMETHING_NEW", "it is new")) == (
        500,
        {"detail": "it is new", "error_type": "internal_error", "message": "it is new"},
    )


def test_violations_are_told_in_parts():
    violations = [
        FieldViolation("image_size.width", "is too small", "greater_than_equal", {"ge": 1}),
        FieldViolation("loras[1].scale", "is no number", "float_type"),
        FieldViolation("start_timeout", "is too short"),
        FieldViolation("prompt", "is required", "missing"),
    ]
    given = {"image_size": {"width": 0}, "loras": [{}, {"scale": "x"}]}
    _, body = error_json(InvalidRequest(violations), given)
    width, scale, timeout, prompt = body["detail"]
    assert (width["loc"], width["ctx"], width["input"]) == (["body", "image_size", "width"], {"ge": 1}, 0)
    assert (scale["loc"], scale["input"]) == (["body", "loras", 1, "scale"], "x")
    assert timeout["loc"] == ["header", "x-fal-request-timeout"]
    assert (prompt["loc"], prompt["type"], "input" in prompt) == (["body", "prompt"], "missing", False)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "x" * 201, {"a": 1}, [1], None])
def test_what_cannot_be_quoted_is_not(value):
    _, body = error_json(InvalidRequest([FieldViolation("seed", "is bad")]), {"seed": value})
    assert "input" not in body["detail"][0]


@pytest.mark.parametrize("kind", ["file_download_error", "image_load_error"])
def test_why_a_picture_is_bad_is_told(kind):
    (entry,) = failure_json(Failure.of(errors.BadImage("image_url", "is gone", kind)))[1]["detail"]
    assert (entry["type"], entry["loc"], entry["msg"]) == (kind, ["body", "image_url"], "is gone")


def test_an_output_with_links():
    assert output_json(RESULT) == {
        "images": [
            {
                "url": "http://files/0.png",
                "width": 8,
                "height": 6,
                "content_type": "image/png",
                "file_size": 3,
            }
        ],
        "timings": {"inference": 0.25},
        "seed": 7,
        "has_nsfw_concepts": [False],
        "prompt": "a red apple",
        "model_name": "flashbulb/tiny",
        "fidelity": "EXACT",
        "backend": "torch cpu float32",
        "request_id": "mine",
    }


def test_an_output_in_sync_mode_is_whole():
    image = replace(PICTURE, content=b"abc")
    result = replace(RESULT, spec=make_spec(sync_mode=True), images=(image,))
    output = output_json(result)
    assert output["images"][0]["url"] == "data:image/png;base64," + base64.b64encode(b"abc").decode()
    assert "request_id" not in output
    assert output_json(replace(result, images=(PICTURE,)))["images"][0]["url"] == PICTURE.url, "too large to be inline"
