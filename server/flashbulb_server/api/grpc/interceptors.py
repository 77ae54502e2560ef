"""What surrounds every call: who calls, and how errors leave. One interceptor serves all four shapes of RPC.

Who calls is a context variable of the call; `caller()` and `grant()` read it. grpc.health.v1 is open, so that probes need no key. Tokens
open Connect only.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from flashbulb_server.api.keys import Keys
from flashbulb_server.api.tokens import Grant, Tokens
from flashbulb_server.errors import (
    FieldViolation,
    FlashbulbError,
    Forbidden,
    InvalidRequest,
    TokenForbids,
    Unauthenticated,
)
from flashbulb_server.wire.status import fault_status, to_status

_OPEN_SERVICES = ("/grpc.health.v1.Health/",)
_HEAR_OUT_SECONDS = 0.5
_log = logging.getLogger(__name__)
_TOKEN_METHODS = ("/flashbulb.v1.RealtimeService/Connect",)
_grant: ContextVar[Grant] = ContextVar("grant")


def caller() -> str:
    """Id of the key that makes the current call. LookupError outside of an authenticated call."""
    return _grant.get().owner


def grant() -> Grant:
    """What the current call may do. LookupError outside of an authenticated call."""
    return _grant.get()


class _Undecodable:
    """Stands for a request whose bytes are no valid protobuf."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Authenticates the caller and turns errors into rich status."""

    def __init__(self, keys: Keys, tokens: Tokens | None = None) -> None:
        self._keys = keys
        self._tokens = tokens
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The wrapped handler of the called method, made at its first call."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _admit(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Grant:
        authorization = dict(context.invocation_metadata() or ()).get("authorization")
        text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization or ""
        scheme, _, token = text.partition(" ")
        if self._tokens is None or scheme.lower() != "bearer":
            return Grant(self._keys.authenticate(text))
        found = self._tokens.read(token.strip())
        if method not in _TOKEN_METHODS:
            raise TokenForbids(method, _TOKEN_METHODS)
        return found

    def _wrap(self, handler: grpc.RpcMethodHandler[Any, Any], name: str) -> grpc.RpcMethodHandler[Any, Any]:
        # `request`: any message, or the stream of them
        def enter(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: ANN401
            if not name.startswith(_OPEN_SERVICES):
                _grant.set(self._admit(name, context))
            return _decoded_stream(request) if handler.request_streaming else _decoded(request)

        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: ANN401
            method: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
            try:
                response = method(enter(request, context), context)
                return await response if inspect.isawaitable(response) else response  # channelz is not async
            except Exception as error:  # noqa: BLE001  # the edge: every error gets a status
                await _hear_out(request, error)
                await _abort(context, error)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:  # noqa: ANN401
            method: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
            try:
                responses = method(enter(request, context), context)
                if inspect.isawaitable(responses):  # health's Watch writes its answers itself
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        yield response
            except Exception as error:  # noqa: BLE001  # the edge: every error gets a status
                await _hear_out(request, error)
                await _abort(context, error)

        shape: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[(bool(handler.request_streaming), bool(handler.response_streaming))]
        wrapped: grpc.RpcMethodHandler[Any, Any] = shape(
            stream if handler.response_streaming else unary,
            request_deserializer=_tolerant(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return wrapped


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Without this, grpc answers a truncated message with INTERNAL, as if the server were at fault."""

    def convert(data: bytes) -> Any:  # noqa: ANN401
        try:
            return deserialize(data) if deserialize else data
        except DecodeError:
            return _Undecodable()

    return convert


def _decoded(request: Any) -> Any:  # noqa: ANN401
    if isinstance(request, _Undecodable):
        raise InvalidRequest([FieldViolation("", "the message is not valid protobuf")])
    return request


async def _decoded_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _decoded(request)


async def _hear_out(request: Any, error: Exception) -> None:  # noqa: ANN401  # a message, or the stream of them
    """Reads the first message of a stream that is refused before any was: a client that is still writing it when the status comes
    reports a failure of its own instead (grpc/grpc#36066).
    """
    if isinstance(error, Unauthenticated | Forbidden) and hasattr(request, "__anext__"):
        with suppress(TimeoutError, StopAsyncIteration, grpc.RpcError):
            async with asyncio.timeout(_HEAR_OUT_SECONDS):
                await anext(request)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, FlashbulbError):
        status = to_status(error)
    else:
        _log.error("unexpected error", exc_info=error)
        status = fault_status()
    await context.abort_with_status(rpc_status.to_status(status))
    raise asyncio.CancelledError  # abort raises; this tells the type checker
