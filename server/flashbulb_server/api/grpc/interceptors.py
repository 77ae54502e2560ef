"""What surrounds every call: who calls, and how errors leave. One interceptor serves all four shapes of RPC.

Who calls is a context variable of the call, which `admission` sets before anything is read; `caller()` and `grant()` read it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from flashbulb_server.api.grpc.admission import MAX_PROBE_BYTES, Admission, Context, Handler, caller, grant, is_open
from flashbulb_server.api.grpc.incoming import reader
from flashbulb_server.api.keys import Keys
from flashbulb_server.api.tokens import Tokens
from flashbulb_server.errors import FlashbulbError
from flashbulb_server.wire.status import fault_status, to_status

__all__ = ["CallInterceptor", "caller", "grant"]

_log = logging.getLogger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Authenticates the caller and turns errors into rich status.

    `max_calls`: of callers with a key, at once. `first_message_seconds`: in which the first message of a call must be here.
    """

    def __init__(
        self, keys: Keys, tokens: Tokens | None = None, *, max_calls: int = 2000, first_message_seconds: float = 60.0
    ) -> None:
        self._admission = Admission(keys, tokens, max_calls=max_calls, first_seconds=first_message_seconds)
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The wrapped handler of the called method, made at its first call."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Handler, name: str) -> Handler:
        """The handler as one that takes a stream, whatever the method takes: grpc then reads nothing before it runs."""
        admitted = self._admission.admitted
        method: Any = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary

        async def unary(_: object, context: Context) -> Any:  # noqa: ANN401
            try:
                async with admitted(name, handler, context) as given:
                    response = method(given, context)
                    return await response if inspect.isawaitable(response) else response  # channelz is not async
            except Exception as error:  # noqa: BLE001  # the edge: every error gets a status
                await _abort(context, error)

        async def stream(_: object, context: Context) -> AsyncIterator[Any]:
            try:
                async with admitted(name, handler, context) as given:
                    responses = method(given, context)
                    if inspect.isawaitable(responses):  # health's Watch writes its answers itself
                        await responses
                        return
                    async with aclosing(responses):
                        async for response in responses:
                            yield response
            except Exception as error:  # noqa: BLE001  # the edge: every error gets a status
                await _abort(context, error)

        shape: Any = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            shape = grpc.stream_stream_rpc_method_handler
        wrapped: Handler = shape(
            stream if handler.response_streaming else unary,
            request_deserializer=reader(
                handler.request_deserializer, max_bytes=MAX_PROBE_BYTES if is_open(name) else None
            ),
            response_serializer=handler.response_serializer,
        )
        return wrapped


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, FlashbulbError):
        status = to_status(error)
    else:
        _log.error("unexpected error", exc_info=error)
        status = fault_status()
    await context.abort_with_status(rpc_status.to_status(status))
    raise asyncio.CancelledError  # abort raises; this tells the type checker
