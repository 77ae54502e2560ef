"""Who may call is decided on the head of a call: callers without a key hold no place and no memory, and nobody holds a place in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from flashbulb.v1 import queue_pb2, queue_pb2_grpc, realtime_pb2, realtime_pb2_grpc, storage_pb2, storage_pb2_grpc
from flashbulb_server.api.grpc import admission
from flashbulb_server.api.grpc.interceptors import CallInterceptor
from flashbulb_server.api.keys import Keys, digest
from tests.driving import refusal, until
from tests.raw_http2 import prefix, raw_call

KEY = (("authorization", "Key demo:secret"),)
WRONG = (("authorization", "Key demo:wrong"),)
LIMIT = 10.0
MIB = 1 << 20
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
METHODS = (
    "/flashbulb.v1.QueueService/GetStatus",
    "/flashbulb.v1.QueueService/WatchStatus",
    "/flashbulb.v1.StorageService/Upload",
    "/flashbulb.v1.RealtimeService/Connect",
)
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.rpartition("/")[2])


class Waiting(
    queue_pb2_grpc.QueueServiceServicer, storage_pb2_grpc.StorageServiceServicer, realtime_pb2_grpc.RealtimeServiceServicer
):  # fmt: skip
    """One RPC of each shape. A call for a request with the id `wait` ends when it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.inside = 0

    async def GetStatus(self, request, context):
        self.inside += 1
        try:
            if request.request_id == "wait":
                await self.let_go.wait()
            return queue_pb2.GetStatusResponse()
        finally:
            self.inside -= 1

    async def WatchStatus(self, request, context):
        yield queue_pb2.WatchStatusResponse(sequence=1)

    async def Upload(self, request_iterator, context):
        return storage_pb2.UploadResponse(file=storage_pb2.File(size_bytes=len([m async for m in request_iterator])))

    async def Connect(self, request_iterator, context):
        async for _ in request_iterator:
            yield realtime_pb2.ConnectResponse(sequence=1)


@asynccontextmanager
async def serving(servicer: Waiting | None = None, **limits: float) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with such limits. Its `address` is where others may call."""
    guard = CallInterceptor(Keys({"demo": digest("secret")}), **limits)
    server = grpc.aio.server(interceptors=[guard], options=[("grpc.max_receive_message_length", 16 * MIB)])
    servicer = servicer or Waiting()
    queue_pb2_grpc.add_QueueServiceServicer_to_server(servicer, server)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(servicer, server)
    realtime_pb2_grpc.add_RealtimeServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            channel.address = address
            yield channel
    finally:
        await server.stop(0)


def silent(channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.aio.Call:
    """A call that says who calls, and then nothing."""
    return channel.stream_stream(method)(metadata=metadata, timeout=LIMIT)


async def ended(call: grpc.aio.Call) -> grpc.StatusCode:
    """The status that a call ends with."""
    async with asyncio.timeout(LIMIT):
        return await call.code()


def status(channel: grpc.aio.Channel, request_id: str = "r1", metadata=KEY) -> grpc.aio.Call:
    return queue_pb2_grpc.QueueServiceStub(channel).GetStatus(
        queue_pb2.GetStatusRequest(request_id=request_id), metadata=metadata, timeout=LIMIT
    )


@each_method
@pytest.mark.parametrize("metadata", [(), WRONG], ids=["without a key", "with a wrong one"])
async def test_a_silent_caller_is_refused_at_once(method: str, metadata: tuple[tuple[str, str], ...]) -> None:
    async with serving() as channel:
        assert await ended(silent(channel, method, metadata)) is grpc.StatusCode.UNAUTHENTICATED


async def test_no_message_is_taken_where_no_more_callers_are_heard_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_READ_AT_ONCE", 0)
    async with serving() as channel, raw_call(channel.address) as raw:
        raw.open(METHODS[0])
        assert not await raw.send(prefix(16 * MIB - 1024) + bytes(16 * MIB - 1024))


async def test_callers_without_a_key_take_no_place() -> None:
    servicer = Waiting()
    async with serving(servicer, max_calls=1) as channel:
        waiting = [silent(channel, method) for method in METHODS for _ in range(50)]
        await status(channel)
        for call in waiting:
            assert await ended(call) is grpc.StatusCode.UNAUTHENTICATED


async def test_more_calls_than_there_are_places() -> None:
    servicer = Waiting()
    async with serving(servicer, max_calls=2) as channel:
        held = [status(channel, "wait") for _ in range(2)]
        await until(lambda: _is(servicer.inside == 2), LIMIT)
        for method in METHODS:
            refused = await refusal(_read(silent(channel, method, KEY)))
            assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
            assert (refused.metadata, refused.retry) == ({"limit": "2"}, 1.0)
        servicer.let_go.set()
        await asyncio.gather(*held)
        await status(channel)


async def test_a_place_is_free_again_however_a_call_ends() -> None:
    servicer = Waiting()
    async with serving(servicer, max_calls=1, first_message_seconds=0.1) as channel:
        call = status(channel, "wait")
        await until(lambda: _is(servicer.inside == 1), LIMIT)
        call.cancel()
        await until(lambda: _is(servicer.inside == 0), LIMIT)
        for method in METHODS:
            await refusal(_read(silent(channel, method, KEY)))
        stream = queue_pb2_grpc.QueueServiceStub(channel).WatchStatus(queue_pb2.WatchStatusRequest(), metadata=KEY)
        assert [message.sequence async for message in stream] == [1]
        await until(lambda: _served(channel), LIMIT)


@each_method
async def test_the_first_message_has_to_come_in_time(method: str) -> None:
    async with serving(first_message_seconds=0.1) as channel:
        refused = await refusal(_read(silent(channel, method, KEY)))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "0.1 s" in refused.message


async def test_later_messages_may_take_their_time() -> None:
    async with serving(first_message_seconds=0.1) as channel:
        call = silent(channel, METHODS[3], KEY)
        await call.write(b"")
        await call.read()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(call.code())
        await call.write(b"")
        assert realtime_pb2.ConnectResponse.FromString(await call.read()).sequence == 1


async def test_a_unary_call_without_a_message() -> None:
    async with serving() as channel:
        call = silent(channel, METHODS[0], KEY)
        await call.done_writing()
        refused = await refusal(_read(call))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")


@each_method
async def test_callers_that_leave_before_their_message_are_nothing_to_log(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(max_calls=100) as channel:
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                calls = [silent(channel, method, KEY) for _ in range(20)]
                await asyncio.gather(*(call.wait_for_connection() for call in calls))
                for call in calls:
                    call.cancel()
            await until(lambda: _served(channel), LIMIT)
        assert [record.getMessage() for record in caplog.records] == []


# Health, for which nobody needs a key.


def check(channel: grpc.aio.Channel, name: str = "", metadata=None) -> grpc.aio.Call:
    request = health_pb2.HealthCheckRequest(service=name)
    return health_pb2_grpc.HealthStub(channel).Check(request, metadata=metadata, timeout=LIMIT)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes have little time."""
    monkeypatch.setattr(admission, "_PROBE_SECONDS", 0.2)


async def test_silent_probes_hold_up_no_other() -> None:
    async with serving(max_calls=1) as channel:
        waiting = [silent(channel, method) for method in (CHECK, WATCH) for _ in range(50)]
        for _ in range(20):
            assert (await check(channel)).status == health_pb2.HealthCheckResponse.SERVING
        await status(channel)
        for call in waiting:
            call.cancel()


async def test_the_health_of_an_unknown_service() -> None:
    async with serving() as channel:
        for metadata in (None, KEY, WRONG):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(channel, "none", metadata)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", [CHECK, WATCH])
async def test_a_silent_probe_ends(method: str, impatient: None) -> None:
    async with serving() as channel:
        assert await ended(silent(channel, method)) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", [CHECK, WATCH])
async def test_a_probe_of_many_bytes_is_refused(method: str) -> None:
    async with serving() as channel:
        call = channel.unary_stream(method)(b"\x0a\x80\x10" + b"x" * 2048, timeout=LIMIT)
        assert await ended(call) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("more", [b"", prefix(0), prefix(MIB), prefix(MIB) + bytes(MIB)], ids=len)
async def test_a_watch_whose_caller_may_still_send_ends(more: bytes, impatient: None) -> None:
    async with serving() as channel, raw_call(channel.address) as raw:
        raw.open(WATCH)
        await raw.send(prefix(0) + more)
        async with asyncio.timeout(LIMIT):
            await raw.ended.wait()


async def test_watches_that_find_no_room_are_told_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WATCHES", 3)
    async with serving() as channel, AsyncExitStack() as stack:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watches = []
        for _ in range(3):
            watches.append(watch(health_pb2.HealthCheckRequest(), timeout=LIMIT))
            stack.callback(watches[-1].cancel)
            assert (await watches[-1].read()).status == health_pb2.HealthCheckResponse.SERVING
        refused = watch(health_pb2.HealthCheckRequest(), timeout=LIMIT)
        assert await ended(refused) is grpc.StatusCode.UNIMPLEMENTED
        with_key = watch(health_pb2.HealthCheckRequest(), metadata=KEY, timeout=LIMIT)
        stack.callback(with_key.cancel)
        assert (await with_key.read()).status == health_pb2.HealthCheckResponse.SERVING
        watches[0].cancel()

        async def watched() -> bool:
            again = watch(health_pb2.HealthCheckRequest(), timeout=LIMIT)
            stack.callback(again.cancel)
            try:
                return isinstance(await again.read(), health_pb2.HealthCheckResponse)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED
                return False

        await until(watched, LIMIT)


async def _served(channel: grpc.aio.Channel) -> bool:
    try:
        await status(channel)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False
    return True


async def _read(call: grpc.aio.Call) -> None:
    async for _ in call:
        pass


async def _is(condition: bool) -> bool:
    return condition
