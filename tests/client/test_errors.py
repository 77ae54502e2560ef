"""Every reason and every gRPC status becomes its class, with all that the server said."""

from __future__ import annotations

import copy
import pickle
import re

import grpc
import pytest

import flashbulb
from flashbulb import FlashbulbError, _errors
from flashbulb.v1 import error_pb2
from tests.client.scripted import failure

PREFIX = "ERROR_REASON_"
REASONS = [
    name.removeprefix(PREFIX) for name in error_pb2.ErrorReason.keys() if not name.endswith("UNSPECIFIED")
]  # an enum's keys
CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]

# Reason, its status in the contract, its class.
EXPECTED = {
    "INVALID_INPUT": ("INVALID_ARGUMENT", flashbulb.InvalidInput),
    "BAD_IMAGE": ("INVALID_ARGUMENT", flashbulb.BadImage),
    "KEY_MISSING": ("UNAUTHENTICATED", flashbulb.AuthenticationError),
    "KEY_UNKNOWN": ("UNAUTHENTICATED", flashbulb.AuthenticationError),
    "REQUEST_NOT_FOUND": ("NOT_FOUND", flashbulb.RequestNotFound),
    "FILE_NOT_FOUND": ("NOT_FOUND", flashbulb.FileNotFound),
    "REQUEST_NOT_FINISHED": ("FAILED_PRECONDITION", flashbulb.NotFinished),
    "IDEMPOTENCY_KEY_REUSED": ("FAILED_PRECONDITION", flashbulb.IdempotencyKeyReused),
    "NO_WEBHOOK": ("FAILED_PRECONDITION", flashbulb.NoWebhook),
    "QUEUE_FULL": ("RESOURCE_EXHAUSTED", flashbulb.QueueFull),
    "WORKERS_BUSY": ("RESOURCE_EXHAUSTED", flashbulb.WorkersBusy),
    "NO_WORKER": ("UNAVAILABLE", flashbulb.Unavailable),
    "ENDPOINT_UNAVAILABLE": ("FAILED_PRECONDITION", flashbulb.EndpointUnavailable),
    "SAFETY_CHECKER_UNAVAILABLE": ("FAILED_PRECONDITION", flashbulb.SafetyCheckerUnavailable),
    "STORE_UNAVAILABLE": ("UNAVAILABLE", flashbulb.Unavailable),
    "ENGINE_FAILED": ("INTERNAL", flashbulb.RequestFailed),
    "WORKER_LOST": ("INTERNAL", flashbulb.RequestFailed),
    "REQUEST_CANCELLED": ("CANCELLED", flashbulb.RequestCancelled),
    "START_TIMEOUT": ("DEADLINE_EXCEEDED", flashbulb.RequestExpired),
    "DRAINING": ("UNAVAILABLE", flashbulb.Unavailable),
    "NEWER_RELEASE": ("UNAVAILABLE", flashbulb.Unavailable),
    "DATA_UNREADABLE": ("INTERNAL", flashbulb.ServerError),
    "TOO_MANY_SESSIONS": ("RESOURCE_EXHAUSTED", flashbulb.Busy),
    "TOO_MANY_CALLS": ("RESOURCE_EXHAUSTED", flashbulb.Busy),
    "TOKEN_INVALID": ("UNAUTHENTICATED", flashbulb.AuthenticationError),
    "TOKEN_FORBIDS": ("PERMISSION_DENIED", flashbulb.AuthenticationError),
    "INTERNAL": ("INTERNAL", flashbulb.ServerError),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_every_reason_has_its_class(client, server, reason):
    assert reason in _errors.CLASSES, "a reason of the contract without a class"
    code, expected = EXPECTED[reason]
    server.expect("Generate", failure(code, reason, "the message", metadata={"a": "b"}))

    with pytest.raises(FlashbulbError) as caught:
        await client.generate(prompt="a")

    error = caught.value
    assert type(error) is expected
    assert (error.code, error.reason, error.message, error.metadata) == (code, reason, "the message", {"a": "b"})
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)


@pytest.mark.parametrize("code", CODES)
async def test_every_status_without_a_reason_has_a_class(client, server, code):
    assert code in _errors.CLASSES
    server.expect("Generate", failure(code, message="bare"))
    with pytest.raises(_errors.CLASSES[code], match="bare") as caught:
        await client.generate(prompt="a")
    assert (caught.value.code, caught.value.reason) == (code, "")


async def test_an_unknown_reason_is_kept_and_the_status_decides(client, server):
    server.expect("Generate", failure("NOT_FOUND", "SOMETHING_NEW", "no such thing"))
    with pytest.raises(flashbulb.NotFound) as caught:
        await client.generate(prompt="a")
    assert caught.value.reason == "SOMETHING_NEW"


async def test_bad_fields_are_listed(client, server):
    violations = [("seed", "must be at least 0"), ("image_size.width", "must be at most 14142")]
    server.expect("Submit", failure("INVALID_ARGUMENT", "INVALID_INPUT", "2 bad fields", violations=violations))
    with pytest.raises(flashbulb.InvalidInput) as caught:
        await client.submit(prompt="a", seed=-1)
    assert [(v.field, v.description) for v in caught.value.violations] == violations
    assert isinstance(caught.value, ValueError)


async def test_a_reason_of_another_domain_is_not_ours(client, server):
    reply = failure("UNAVAILABLE", "NO_WORKER", retry_after=0.01)
    for detail in reply.status.details:
        detail.value = detail.value.replace(b"flashbulb", b"otherbulb")
    server.expect("Generate", reply)
    with pytest.raises(flashbulb.Unavailable) as caught:
        await client.generate(prompt="a")
    assert caught.value.reason == ""


def test_the_tree_in_the_docstring_is_the_tree():
    parents, path = {}, ["FlashbulbError"]
    for indent, name in re.findall(r"^    ([│ ]*)[├└]── (\w+)", _errors.__doc__, re.MULTILINE):
        depth = 1 + len(indent) // 4
        path[depth:] = [name]
        parents[name] = path[depth - 1]
    classes = [c for c in vars(_errors).values() if isinstance(c, type) and issubclass(c, FlashbulbError)]
    assert parents == {c.__name__: c.__bases__[0].__name__ for c in classes if c is not FlashbulbError}


@pytest.mark.parametrize("copied", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"])
def test_errors_survive_a_copy(copied):
    error = flashbulb.QueueFull(
        "full", reason="QUEUE_FULL", code="RESOURCE_EXHAUSTED", metadata={"limit": "3"}, retry_after=2.5
    )
    again = copied(error)
    assert type(again) is flashbulb.QueueFull
    assert vars(again) == vars(error)
    assert str(again) == "full"
