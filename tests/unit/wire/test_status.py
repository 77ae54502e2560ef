"""Errors as rich status, and back: every class has a code and a reason of the contract."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2

from flashbulb.v1 import error_pb2
from flashbulb_server import errors
from flashbulb_server.core.requests import Failure
from flashbulb_server.wire.status import code_of, failure_status, fault_status, from_status, to_status
from tests.unit.wire.values import ERRORS, leaves, name_of

CODES = {
    "INVALID_INPUT": "INVALID_ARGUMENT",
    "BAD_IMAGE": "INVALID_ARGUMENT",
    "KEY_MISSING": "UNAUTHENTICATED",
    "KEY_UNKNOWN": "UNAUTHENTICATED",
    "TOKEN_INVALID": "UNAUTHENTICATED",
    "TOKEN_FORBIDS": "PERMISSION_DENIED",
    "REQUEST_NOT_FOUND": "NOT_FOUND",
    "FILE_NOT_FOUND": "NOT_FOUND",
    "REQUEST_NOT_FINISHED": "FAILED_PRECONDITION",
    "IDEMPOTENCY_KEY_REUSED": "FAILED_PRECONDITION",
    "NO_WEBHOOK": "FAILED_PRECONDITION",
    "ENDPOINT_UNAVAILABLE": "FAILED_PRECONDITION",
    "SAFETY_CHECKER_UNAVAILABLE": "FAILED_PRECONDITION",
    "QUEUE_FULL": "RESOURCE_EXHAUSTED",
    "TOO_MANY_SESSIONS": "RESOURCE_EXHAUSTED",
    "TOO_MANY_CALLS": "RESOURCE_EXHAUSTED",
    "WORKERS_BUSY": "RESOURCE_EXHAUSTED",
    "NO_WORKER": "UNAVAILABLE",
    "STORE_UNAVAILABLE": "UNAVAILABLE",
    "DRAINING": "UNAVAILABLE",
    "NEWER_RELEASE": "UNAVAILABLE",
    "REQUEST_CANCELLED": "CANCELLED",
    "START_TIMEOUT": "DEADLINE_EXCEEDED",
    "ENGINE_FAILED": "INTERNAL",
    "WORKER_LOST": "INTERNAL",
    "DATA_UNREADABLE": "INTERNAL",
}


def details(status: status_pb2.Status) -> dict[str, object]:
    """The details by the name of their message, of which each stands once."""
    found: dict[str, object] = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if packed.Unpack(message):
                assert kind.__name__ not in found
                found[kind.__name__] = message
    assert len(found) == len(status.details)
    return found


def test_there_is_an_error_of_every_class():
    assert {type(error) for error in ERRORS} == leaves()


@pytest.mark.parametrize("leaf", sorted(leaves(), key=lambda c: c.__name__), ids=lambda c: c.__name__)
def test_every_class_has_a_code_and_a_reason_of_its_own(leaf):
    assert code_pb2.Code.Name(code_of(leaf)) == CODES[leaf.reason]
    assert [other for other in leaves() if other.reason == leaf.reason] == [leaf]


def test_a_class_without_a_code_is_found():
    with pytest.raises(StopIteration):
        code_of(errors.FlashbulbError)  # as a class right below it would be


def test_reasons_are_those_of_the_contract():
    reasons = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()}
    assert reasons - {type(error).reason for error in ERRORS} == {"UNSPECIFIED", "INTERNAL"}
    assert {type(error).reason for error in ERRORS} == set(CODES) < reasons


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_a_status_holds_all_parts_of_an_error(error):
    status = to_status(error)
    parts = details(status)
    assert (code_pb2.Code.Name(status.code), status.message) == (CODES[error.reason], error.message)
    info = parts.pop("ErrorInfo")
    assert (info.reason, info.domain, dict(info.metadata)) == (error.reason, "flashbulb", error.metadata)
    for name, value in error.metadata.items():
        assert value in error.message or name == "type"
    if isinstance(error, errors.InvalidRequest):
        bad = parts.pop("BadRequest").field_violations
        assert [(v.field, v.description) for v in bad] == [(v.field, v.description) for v in error.violations]
    if isinstance(error, errors.BadImage):
        (violation,) = parts.pop("BadRequest").field_violations
        assert (violation.field, violation.description) == ("mask_url", "is no picture")
    if error.retry_after is not None:
        assert parts.pop("RetryInfo").retry_delay.ToTimedelta().total_seconds() == error.retry_after
    assert parts == {}


def test_what_passes_is_to_be_tried_again():
    assert {type(e) for e in ERRORS if e.retry_after is not None} == leaves(errors.Busy) | leaves(errors.Unavailable)


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_an_error_comes_back_as_it_was(error):
    back = from_status(status_pb2.Status.FromString(to_status(error).SerializeToString()))
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_a_status_of_others_is_a_failure_of_the_engine():
    foreign = status_pb2.Status(code=code_pb2.UNKNOWN, message="secret")
    packed = Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="SOMETHING_NEW", domain="flashbulb"))
    foreign.details.append(packed)
    for status in (status_pb2.Status(code=code_pb2.INTERNAL, message="secret"), foreign):
        back = from_status(status)
        assert (type(back), back.message) == (errors.EngineFailed, "drawing failed")


def test_a_fault_tells_nothing():
    status = fault_status()
    info = details(status)["ErrorInfo"]
    assert (status.code, info.reason, dict(info.metadata)) == (code_pb2.INTERNAL, "INTERNAL", {})


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_a_failure_is_told_as_its_error(error):
    status = failure_status(Failure.of(error))
    assert (status.code, status.message) == (to_status(error).code, error.message)
    assert details(status)["ErrorInfo"] == details(to_status(error))["ErrorInfo"]


def test_a_failure_of_a_newer_release_is_told_too():
    status = failure_status(Failure("SOMETHING_NEW", "it is new", {"a": "b"}))
    assert (status.code, status.message) == (code_pb2.INTERNAL, "it is new")
    assert details(status)["ErrorInfo"].reason == "SOMETHING_NEW"


@pytest.mark.parametrize("character", ["x", "\u00e9", "\u4e00", "\U0001f34e"])
@pytest.mark.parametrize("make", [errors.RequestNotFound, errors.FileNotFound, errors.EngineFailed])
def test_long_texts_are_cut(make, character):
    status = to_status(make(character * 100_000))
    assert 0 < status.ByteSize() < 1400  # what travels in trailers must stay far below 8 KiB
    assert character * 100 in status.message


def test_long_violations_are_cut():
    many = [errors.FieldViolation(f"field_{i}", "x" * 10_000) for i in range(3)]
    status = to_status(errors.InvalidRequest(many))
    assert status.ByteSize() < 2500
    assert len(details(status)["BadRequest"].field_violations) == 3
