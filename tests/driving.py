"""The service as one key drives it in tests: submit, watch, result, cancel, list; what a refusal says; pictures to compare."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from PIL import Image

from flashbulb.v1 import generation_pb2, input_pb2, queue_pb2
from tests.service import RunningService, Stubs, apple, auth

State = queue_pb2.GenerationRequest.State
TERMINAL = (State.STATE_SUCCEEDED, State.STATE_FAILED, State.STATE_CANCELLED, State.STATE_EXPIRED)
SECONDS = 20  # longest any one call may take
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls of one key. Every call has a deadline, so a hanging server is a failed test."""

    call: Stubs
    key: str

    async def submit(
        self, given: input_pb2.GenerationInput | None = None, **fields: object
    ) -> queue_pb2.GenerationRequest:
        """The new request; a quick apple by default."""
        return (await self.submitted(given, **fields)).request

    async def submitted(
        self, given: input_pb2.GenerationInput | None = None, **fields: object
    ) -> queue_pb2.SubmitResponse:
        """The whole answer of Submit."""
        request = queue_pb2.SubmitRequest(input=given or apple(), **fields)
        return await self.call.queue.Submit(request, metadata=auth(self.key), timeout=SECONDS)

    def watching(
        self, request_id: str, **fields: object
    ) -> grpc.aio.UnaryStreamCall[queue_pb2.WatchStatusRequest, queue_pb2.WatchStatusResponse]:
        """An open watch."""
        request = queue_pb2.WatchStatusRequest(request_id=request_id, **fields)
        return self.call.queue.WatchStatus(request, metadata=auth(self.key), timeout=SECONDS)

    async def watch(self, request_id: str, **fields: object) -> list[queue_pb2.WatchStatusResponse]:
        """Everything that a watch sends."""
        return [event async for event in self.watching(request_id, **fields)]

    async def until_step(self, request_id: str, step: int) -> int:
        """Waits until so many steps are done; gives the sequence of that event."""
        stream = self.watching(request_id)
        async for event in stream:
            if event.WhichOneof("event") == "progress" and event.progress.step >= step:
                stream.cancel()
                return event.sequence
        raise AssertionError(f"{request_id} ended before step {step}")

    async def ended(self, request_id: str) -> queue_pb2.GenerationRequest:
        """The request in its terminal state."""
        last = (await self.watch(request_id))[-1].request
        assert last.state in TERMINAL, last
        return last

    async def status(self, request_id: str, *, include_logs: bool = False) -> queue_pb2.GenerationRequest:
        """The request now."""
        request = queue_pb2.GetStatusRequest(request_id=request_id, include_logs=include_logs)
        return (await self.call.queue.GetStatus(request, metadata=auth(self.key), timeout=SECONDS)).request

    async def result(self, request_id: str) -> queue_pb2.GetResultResponse:
        """The outcome."""
        request = queue_pb2.GetResultRequest(request_id=request_id)
        return await self.call.queue.GetResult(request, metadata=auth(self.key), timeout=SECONDS)

    async def output(self, request_id: str) -> generation_pb2.GenerationOutput:
        """The pictures of a request, once it has succeeded."""
        ended = await self.ended(request_id)
        assert ended.state == State.STATE_SUCCEEDED, ended
        return (await self.result(request_id)).output

    async def cancel(self, request_id: str) -> queue_pb2.CancelResponse:
        """The receipt."""
        request = queue_pb2.CancelRequest(request_id=request_id)
        return await self.call.queue.Cancel(request, metadata=auth(self.key), timeout=SECONDS)

    async def page(self, **fields: object) -> queue_pb2.ListResponse:
        """A page of the key's requests."""
        return await self.call.queue.List(queue_pb2.ListRequest(**fields), metadata=auth(self.key), timeout=SECONDS)

    async def listed(self) -> list[str]:
        """Ids of the key's requests, newest first, at most 200."""
        return [request.request_id for request in (await self.page(page_size=200)).requests]

    async def generate(
        self, given: input_pb2.GenerationInput | None = None, *, timeout: float = SECONDS, **fields: object
    ) -> generation_pb2.GenerationOutput:
        """Pictures without the queue."""
        request = generation_pb2.GenerateRequest(input=given or apple(), **fields)
        answer = await self.call.generation.Generate(request, metadata=auth(self.key), timeout=timeout)
        return answer.output

    def streaming(
        self, given: input_pb2.GenerationInput | None = None, **fields: object
    ) -> grpc.aio.UnaryStreamCall[generation_pb2.GenerateStreamRequest, generation_pb2.GenerateStreamResponse]:
        """An open stream of a generation."""
        request = generation_pb2.GenerateStreamRequest(input=given or apple(), **fields)
        return self.call.generation.GenerateStream(request, metadata=auth(self.key), timeout=SECONDS)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error says. `retry` in seconds, None without RetryInfo; `fields` are those of BadRequest."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    descriptions: dict[str, str]
    retry: float | None


async def refusal(call: Awaitable[object] | AsyncIterable[object]) -> Refusal:
    """The error that a call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if isinstance(call, AsyncIterable):
            async for _ in call:
                pass
        else:
            await call
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    return read_status(caught.value.code(), status)


def read_status(code: grpc.StatusCode, status: status_pb2.Status) -> Refusal:
    """A rich status taken apart."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry = delay.seconds + delay.nanos / 1e9
    assert info.domain == "flashbulb"
    fields = [violation.field for violation in bad.field_violations]
    descriptions = {violation.field: violation.description for violation in bad.field_violations}
    return Refusal(code, status.message, info.reason, dict(info.metadata), fields, descriptions, retry)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = SECONDS) -> None:
    """Asks again and again until it holds. TimeoutError if it does not."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def back(service: RunningService, name: str, old_pid: int, seconds: float = 60) -> None:
    """Waits until a child that was killed has been started again, and answers."""

    async def is_back() -> bool:
        return service.child_is_back(name, old_pid)

    await until(is_back, seconds)


@contextmanager
def stopped(service: RunningService, name: str = "worker") -> Iterator[None]:
    """A child that does not run meanwhile, but is not dead."""
    pid = service.kill_child(name, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pixels(content: bytes) -> np.ndarray:
    """The picture in a file, (height, width, 3), 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int16)


def distance(first: bytes, second: bytes) -> int:
    """The largest difference between two pictures, in levels of 255."""
    return int(np.abs(pixels(first) - pixels(second)).max())
