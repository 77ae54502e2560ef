"""The channel: its options, its metadata, its calls. Turns every gRPC error into one of ours; knows nothing of what is called."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import cached_property
from importlib.metadata import version
from typing import TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from flashbulb._config import Settings
from flashbulb._conversation import Conversation
from flashbulb._credentials import Credentials
from flashbulb._errors import ConfigurationError, FlashbulbError, Unavailable, from_call
from flashbulb._retry import pause, retry
from flashbulb.v1 import generation_pb2_grpc, model_pb2_grpc, queue_pb2_grpc, realtime_pb2_grpc, storage_pb2_grpc

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

OPTIONS: Mapping[str, int] = {
    # Eight pictures of a megapixel as PNG fit; gRPC's 4 MiB do not hold one large PNG with its answer.
    "grpc.max_receive_message_length": 64 * 1024 * 1024,
    # The server decides what it takes.
    "grpc.max_send_message_length": -1,
    # A peer that is gone without a word is noticed within 40 s.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # Also in the middle of a long call in which nobody says anything; the server allows a ping every 10 s.
    "grpc.http2.max_pings_without_data": 0,
    # Calls that no server has seen are sent again, as when a connection ends just then. Which others may be, only this package knows: no
    # policy of a name server is taken.
    "grpc.enable_retries": 1,
    "grpc.service_config_disable_resolution": 1,
    # A server that restarts is found again soon; gRPC would wait up to two minutes.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
}


class Transport:
    """A channel that opens at the first call, in the event loop of that call. `timeout` in seconds holds for calls that name none."""

    def __init__(self, settings: Settings, timeout: float, credentials: Credentials | None = None) -> None:
        self.settings = settings
        self.timeout = timeout
        self.credentials = credentials or Credentials(settings.key, None, None)
        self._closed = False

    async def close(self) -> None:
        """Closes the channel and ends its calls. Idempotent."""
        self._closed = True
        if "_made" in vars(self):
            await self._made.close()

    @cached_property
    def queue(self) -> queue_pb2_grpc.QueueServiceAsyncStub:
        """Stub of QueueService."""
        return queue_pb2_grpc.QueueServiceStub(self._channel)

    @cached_property
    def generation(self) -> generation_pb2_grpc.GenerationServiceAsyncStub:
        """Stub of GenerationService."""
        return generation_pb2_grpc.GenerationServiceStub(self._channel)

    @cached_property
    def storage(self) -> storage_pb2_grpc.StorageServiceAsyncStub:
        """Stub of StorageService."""
        return storage_pb2_grpc.StorageServiceStub(self._channel)

    @cached_property
    def models(self) -> model_pb2_grpc.ModelServiceAsyncStub:
        """Stub of ModelService."""
        return model_pb2_grpc.ModelServiceStub(self._channel)

    @cached_property
    def realtime(self) -> realtime_pb2_grpc.RealtimeServiceAsyncStub:
        """Stub of RealtimeService."""
        return realtime_pb2_grpc.RealtimeServiceStub(self._channel)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        """The answer of a call that may run twice, within `timeout` seconds over all attempts."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)

        async def attempt() -> Response:
            metadata = await self._metadata()
            left = max(0.0, deadline - time.monotonic())
            return await self._answer(method(request, timeout=left, metadata=metadata))

        return await retry(attempt, repeatable=True, deadline=deadline)

    async def call_once(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None,
    ) -> Response:
        """The answer of a call that must not run twice, within `timeout` seconds over all attempts; None: as long as it takes.

        It is sent over a channel that stands. If that breaks, it is not sent again: nobody knows how far the server came.
        """
        start = time.monotonic()
        end = None if timeout is None else start + timeout

        async def attempt() -> Response:
            await self.connect(end)
            metadata = await self._metadata()
            left = None if end is None else max(0.0, end - time.monotonic())
            return await self._answer(method(request, timeout=left, metadata=metadata))

        return await retry(attempt, repeatable=False, deadline=end or start + self.timeout)

    async def send(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[Request, Response],
        messages: Callable[[], AsyncIterator[Request]],
    ) -> Response:
        """The answer to a stream of messages that may be sent twice; `messages` makes it anew for every attempt.

        An attempt may last as long as its bytes take.
        """

        async def attempt() -> Response:
            return await self._answer(method(messages(), metadata=await self._metadata()))

        return await retry(attempt, repeatable=True, deadline=time.monotonic() + self.timeout)

    async def receive(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        silence: float | None = None,
    ) -> AsyncGenerator[Response]:
        """The messages of one stream, never resumed here. It counts as broken when nothing comes for `silence` seconds."""
        call = method(request, timeout=timeout, metadata=await self._metadata())
        try:
            while True:
                async with asyncio.timeout(silence):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                yield cast("Response", message)
        except grpc.aio.AioRpcError as error:
            raise self._named(error) from error
        except TimeoutError as error:
            raise Unavailable(f"nothing heard from {self.settings.target} for {silence:g} s") from error
        finally:
            call.cancel()

    async def receive_once(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None,
    ) -> AsyncGenerator[Response]:
        """The messages of one stream that must not run twice; opened again only before the first message, as `call_once`."""
        start = time.monotonic()
        end = None if timeout is None else start + timeout
        for failed in itertools.count():
            await self.connect(end)
            left = None if end is None else max(0.0, end - time.monotonic())
            begun = False
            try:
                async with aclosing(self.receive(method, request, timeout=left)) as messages:
                    async for message in messages:
                        begun = True
                        yield message
                return
            except FlashbulbError as error:
                delay = None if begun else pause(error, failed, repeatable=False)
                if delay is None or time.monotonic() + delay >= (end or start + self.timeout):
                    raise
            await asyncio.sleep(delay)

    async def converse(
        self, method: grpc.aio.StreamStreamMultiCallable[Request, Response]
    ) -> Conversation[Request, Response]:
        """A stream in both directions, which the caller cancels."""
        return Conversation(method(metadata=await self._metadata()), self._named)

    async def connect(self, deadline: float | None = None) -> None:
        """Waits until the channel stands: until `deadline` (a `time.monotonic()`), at most for the transport's timeout.

        Raises:
            Unavailable: it does not.
        """
        self._open()
        limit = time.monotonic() + self.timeout
        try:
            async with asyncio.timeout(min(limit, deadline or limit) - time.monotonic()):
                await self._channel.channel_ready()
        except TimeoutError as error:
            raise Unavailable(f"{self.settings.target} cannot be reached") from error
        except grpc.aio.UsageError as error:
            raise RuntimeError("the client is closed") from error

    async def _answer(self, call: Awaitable[Response]) -> Response:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._named(error) from error

    def _named(self, error: grpc.aio.AioRpcError) -> FlashbulbError:
        """The error; where it is not the server that speaks, the message says which server does not."""
        ours = from_call(error)
        if isinstance(ours, Unavailable) and not ours.reason:
            return Unavailable(
                f"no answer from {self.settings.target}: {ours.message}", code=ours.code, retry_after=ours.retry_after
            )
        return ours

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call. RuntimeError after close."""
        self._open()
        header = await self.credentials.header()
        self._open()  # closed while a token was got
        return () if header is None else (("authorization", header),)

    def _open(self) -> None:
        """RuntimeError after close."""
        if self._closed:
            raise RuntimeError("the client is closed")

    @property
    def _channel(self) -> grpc.aio.Channel:
        self._open()  # gRPC takes a stub of a closed channel for a live one, and corrupts memory
        return self._made

    @cached_property
    def _made(self) -> grpc.aio.Channel:
        options = [*OPTIONS.items(), ("grpc.primary_user_agent", f"flashbulb-python/{version('flashbulb')}")]
        if not self.settings.secure:
            return grpc.aio.insecure_channel(self.settings.target, options)
        roots = None
        if self.settings.roots is not None:
            try:
                roots = self.settings.roots.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"cannot read the certificates to trust: {error}") from error
        return grpc.aio.secure_channel(self.settings.target, grpc.ssl_channel_credentials(roots), options)
