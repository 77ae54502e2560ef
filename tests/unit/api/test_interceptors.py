"""What surrounds every call, over a real server: who calls, and how errors leave, for all four shapes of RPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from flashbulb.v1 import (
    generation_pb2,
    queue_pb2,
    queue_pb2_grpc,
    realtime_pb2,
    realtime_pb2_grpc,
    storage_pb2,
    storage_pb2_grpc,
)
from flashbulb_server import errors
from flashbulb_server.api.grpc.interceptors import CallInterceptor, caller
from flashbulb_server.api.keys import Keys, digest
from flashbulb_server.core.catalog import FAST_LCM, ModelInfo
from flashbulb_server.core.validation import resolve
from flashbulb_server.wire.status import code_of
from tests.unit.wire.values import ERRORS, name_of

KEY = (("authorization", "Key demo:secret"),)
OTHER_KEY = (("authorization", "Key other:secret"),)
LIMIT = 10.0
TRUNCATED = b"\x0a\x05ab"  # a text of 5 bytes, of which 2 came
STORAGE, QUEUE, REALTIME = (f"/flashbulb.v1.{name}Service/" for name in ("Storage", "Queue", "Realtime"))


class Scripted(
    queue_pb2_grpc.QueueServiceServicer, storage_pb2_grpc.StorageServiceServicer, realtime_pb2_grpc.RealtimeServiceServicer
):  # fmt: skip
    """One RPC of each shape. Each does `act`, answers once, then does `then`; it says who called, and when it was left."""

    def __init__(self) -> None:
        self.act: Callable[[], object] = lambda: None
        self.then: Callable[[], object] = lambda: None
        self.abort = self.hang = False
        self.callers: list[str] = []
        self.entered = asyncio.Event()
        self.left = asyncio.Event()

    async def GetStatus(self, request, context):
        async for _ in self._answers(context):
            pass
        return queue_pb2.GetStatusResponse(request=queue_pb2.GenerationRequest(request_id=request.request_id))

    async def WatchStatus(self, request, context):
        if request.include_previews:
            async with aclosing(self._flood()) as large:
                async for preview in large:
                    yield queue_pb2.WatchStatusResponse(preview=preview)
        async for number in self._answers(context):
            yield queue_pb2.WatchStatusResponse(sequence=number)

    async def Upload(self, request_iterator, context):
        size = sum([len(message.chunk) async for message in request_iterator])
        async for _ in self._answers(context):
            pass
        return storage_pb2.UploadResponse(file=storage_pb2.File(size_bytes=size))

    async def Connect(self, request_iterator, context):
        async for _ in request_iterator:
            async for number in self._answers(context):
                yield realtime_pb2.ConnectResponse(sequence=number)

    async def _flood(self) -> AsyncIterator[generation_pb2.Preview]:
        try:
            while True:
                self.entered.set()
                yield generation_pb2.Preview(content=bytes(1 << 20))  # more than HTTP/2 takes of what nobody reads
        finally:
            self.left.set()

    async def _answers(self, context) -> AsyncIterator[int]:
        try:
            self.callers.append(caller())
            if self.abort:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not yet")
            self.act()
            yield 1
            self.entered.set()
            if self.hang:
                await asyncio.Event().wait()
            if asyncio.iscoroutine(done := self.then()):
                await done
        finally:
            self.left.set()


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()


@pytest.fixture
async def channel(servicer):
    """A channel to a server of the scripted services, health and reflection."""
    keys = Keys({"demo": digest("secret"), "other": digest("secret")})
    server = grpc.aio.server(interceptors=[CallInterceptor(keys)])
    queue_pb2_grpc.add_QueueServiceServicer_to_server(servicer, server)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(servicer, server)
    realtime_pb2_grpc.add_RealtimeServiceServicer_to_server(servicer, server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


def unary(channel, metadata, timeout=LIMIT):
    stub = queue_pb2_grpc.QueueServiceStub(channel)
    return stub.GetStatus(queue_pb2.GetStatusRequest(request_id="r1"), metadata=metadata, timeout=timeout)


def server_stream(channel, metadata, timeout=LIMIT):
    stub = queue_pb2_grpc.QueueServiceStub(channel)
    return stub.WatchStatus(queue_pb2.WatchStatusRequest(), metadata=metadata, timeout=timeout)


def client_stream(channel, metadata, timeout=LIMIT):
    chunks = [storage_pb2.UploadRequest(chunk=b"ab"), storage_pb2.UploadRequest(chunk=b"c")]
    return storage_pb2_grpc.StorageServiceStub(channel).Upload(iter(chunks), metadata=metadata, timeout=timeout)


def both_stream(channel, metadata, timeout=LIMIT):
    frames = [realtime_pb2.ConnectRequest()]
    return realtime_pb2_grpc.RealtimeServiceStub(channel).Connect(iter(frames), metadata=metadata, timeout=timeout)


SHAPES = [unary, server_stream, client_stream, both_stream]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__name__)


async def read(call) -> list:
    """All messages of an answer."""
    return [message async for message in call] if hasattr(call, "__aiter__") else [await call]


async def refusal(call) -> grpc.aio.AioRpcError:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    return caught.value


def details(error: grpc.aio.AioRpcError) -> dict[str, object]:
    """The details of its rich status by the name of their message."""
    status = rpc_status.from_call(error)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    return found


def raising(error: Exception) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


@each_shape
async def test_a_call_passes(channel, servicer, shape):
    (answer,) = await read(shape(channel, KEY))
    assert servicer.callers == ["demo"]
    expected = {unary: "r1", client_stream: 3, server_stream: 1, both_stream: 1}[shape]
    seen = {unary: lambda: answer.request.request_id, client_stream: lambda: answer.file.size_bytes}
    assert seen.get(shape, lambda: answer.sequence)() == expected


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
async def test_every_error_leaves_every_shape_as_rich_status(channel, servicer, error):
    servicer.act = raising(error)
    for shape in SHAPES:
        refused = await refusal(shape(channel, KEY))
        assert refused.code().value[0] == code_of(type(error))
        assert refused.details() == error.message
        parts = details(refused)
        info = parts.pop("ErrorInfo")
        assert (info.reason, info.domain, dict(info.metadata)) == (error.reason, "flashbulb", error.metadata)
        bad = parts.pop("BadRequest", error_details_pb2.BadRequest()).field_violations
        if isinstance(error, errors.BadImage):
            assert [(v.field, v.description) for v in bad] == [(error.metadata["field"], error.metadata["problem"])]
        else:
            assert [(v.field, v.description) for v in bad] == [
                (v.field, v.description) for v in getattr(error, "violations", ())
            ]
        if error.retry_after is not None:
            assert parts.pop("RetryInfo").retry_delay.ToTimedelta().total_seconds() == error.retry_after
        assert parts == {}


@each_shape
async def test_an_error_after_an_answer(channel, servicer, shape):
    servicer.then = raising(errors.Draining())
    call = shape(channel, KEY)
    if hasattr(call, "__aiter__"):
        call = aiter(call)
        assert (await anext(call)).sequence == 1
    assert (await refusal(call)).code() is grpc.StatusCode.UNAVAILABLE
    assert servicer.left.is_set()


@each_shape
@pytest.mark.parametrize("error", [KeyError("my secret"), TimeoutError("my secret"), OSError(5, "my secret")], ids=repr)
async def test_an_unexpected_error_tells_nothing(channel, servicer, shape, error, caplog):
    servicer.act = raising(error)
    with caplog.at_level(logging.ERROR):
        refused = await refusal(shape(channel, KEY))
    assert refused.code() is grpc.StatusCode.INTERNAL
    assert details(refused)["ErrorInfo"].reason == "INTERNAL"
    assert "secret" not in refused.details()
    assert b"secret" not in rpc_status.from_call(refused).SerializeToString()
    (record,) = [r for r in caplog.records if r.name.startswith("flashbulb_server")]
    assert record.exc_info[1] is error  # the operator learns all


@each_shape
async def test_a_status_that_a_handler_gave_itself_stays(channel, servicer, shape, caplog):
    servicer.abort = True
    refused = await refusal(shape(channel, KEY))
    assert (refused.code(), refused.details()) == (grpc.StatusCode.UNIMPLEMENTED, "not yet")
    assert caplog.records == []


async def test_a_method_that_is_not_there(channel):
    call = channel.unary_unary(f"{QUEUE}NoSuchMethod")(b"", metadata=KEY, timeout=LIMIT)
    assert (await refusal(call)).code() is grpc.StatusCode.UNIMPLEMENTED


@each_shape
@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "KEY_MISSING"),
        ((("authorization", "Bearer demo:secret"),), "KEY_MISSING"),
        ((("authorization", "Key demo"),), "KEY_MISSING"),
        ((("authorization", "Key demo:wrong"),), "KEY_UNKNOWN"),
        ((("authorization", "Key nobody:secret"),), "KEY_UNKNOWN"),
    ],
    ids=lambda v: v if isinstance(v, str) else dict(v).get("authorization", "none"),
)
async def test_without_a_known_key_nothing_is_done(channel, servicer, shape, metadata, reason):
    refused = await refusal(shape(channel, metadata))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details(refused)["ErrorInfo"].reason == reason
    assert servicer.callers == []


async def test_health_needs_no_key(channel):
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LIMIT)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_needs_a_key(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    wish = [reflection_pb2.ServerReflectionRequest(list_services="")]
    assert (await refusal(stub.ServerReflectionInfo(iter(wish)))).code() is grpc.StatusCode.UNAUTHENTICATED
    (answer,) = await read(stub.ServerReflectionInfo(iter(wish), metadata=KEY, timeout=LIMIT))
    assert reflection.SERVICE_NAME in [s.name for s in answer.list_services_response.service]


def raw_calls(channel, metadata):
    """A truncated message to each shape."""
    options = {"metadata": metadata, "timeout": LIMIT}
    return [
        channel.unary_unary(f"{QUEUE}GetStatus")(TRUNCATED, **options),
        channel.unary_stream(f"{QUEUE}WatchStatus")(TRUNCATED, **options),
        channel.stream_unary(f"{STORAGE}Upload")(iter([TRUNCATED]), **options),
        channel.stream_stream(f"{REALTIME}Connect")(iter([TRUNCATED]), **options),
    ]


async def test_truncated_messages_are_the_callers_fault(channel, servicer):
    for call in raw_calls(channel, KEY):
        refused = await refusal(call)
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(refused)["ErrorInfo"].reason == "INVALID_INPUT"
        assert len(details(refused)["BadRequest"].field_violations) == 1
    assert servicer.callers == []


async def test_a_truncated_message_after_a_good_one(channel, servicer):
    good = realtime_pb2.ConnectRequest().SerializeToString()
    call = channel.stream_stream(f"{REALTIME}Connect")(iter([good, TRUNCATED]), metadata=KEY, timeout=LIMIT)
    answers = aiter(call)
    assert realtime_pb2.ConnectResponse.FromString(await anext(answers)).sequence == 1
    assert (await refusal(answers)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_calls_comes_before_what_is_said(channel):
    for call in raw_calls(channel, ()):
        assert (await refusal(call)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_callers_of_calls_at_once_are_told_apart(channel, servicer):
    servicer.then = lambda: asyncio.sleep(0)
    calls = [shape(channel, metadata) for shape in SHAPES for metadata in (KEY, OTHER_KEY)]
    await asyncio.gather(*(read(call) for call in calls))
    assert sorted(servicer.callers) == ["demo"] * 4 + ["other"] * 4


def test_outside_of_a_call_there_is_no_caller():
    with pytest.raises(LookupError):
        caller()


@each_shape
async def test_a_caller_that_goes_away_ends_the_handler(channel, servicer, shape):
    servicer.hang = True
    call = shape(channel, KEY)
    async with asyncio.timeout(LIMIT):
        await servicer.entered.wait()
        assert not servicer.left.is_set()
        call.cancel()
        await servicer.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await read(call)


async def test_a_caller_that_reads_nothing_and_goes_away_ends_the_handler(channel, servicer):
    stub = queue_pb2_grpc.QueueServiceStub(channel)
    call = stub.WatchStatus(queue_pb2.WatchStatusRequest(include_previews=True), metadata=KEY, timeout=LIMIT)
    async with asyncio.timeout(LIMIT):
        await servicer.entered.wait()
        call.cancel()
        await servicer.left.wait()


@each_shape
async def test_a_deadline_ends_the_handler(channel, servicer, shape):
    servicer.hang = True
    for seconds in (0.05, 0.5, 5.0):  # the first is enough, unless the machine is too busy to get into the handler
        refused = await refusal(shape(channel, KEY, seconds))
        assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if servicer.entered.is_set():
            break
    async with asyncio.timeout(LIMIT):
        await servicer.left.wait()


async def test_every_bad_field_at_once_fits_into_an_answer(channel, servicer):
    """Trailers of more than 8 KiB do not reach the caller: it would see RESOURCE_EXHAUSTED, and try again."""
    models = [ModelInfo(f"some/model-with-a-name-{i}", (FAST_LCM.id,), 64, True, 1, "EXACT") for i in range(100)]
    given = {field.name: "\u4e00" * 100_000 for field in FAST_LCM.fields} | {"num_images": 10**300}
    servicer.act = lambda: resolve(FAST_LCM.id, given, models)
    for shape in SHAPES:
        refused = await refusal(shape(channel, KEY))
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        named = {v.field for v in details(refused)["BadRequest"].field_violations}
        assert named == {field.name for field in FAST_LCM.fields}


async def test_a_long_name_fits_into_an_answer(channel, servicer):
    servicer.act = raising(errors.RequestNotFound("\u4e00" * 100_000))
    for shape in SHAPES:
        refused = await refusal(shape(channel, KEY))
        assert refused.code() is grpc.StatusCode.NOT_FOUND
        assert details(refused)["ErrorInfo"].reason == "REQUEST_NOT_FOUND"
