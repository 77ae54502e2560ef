"""RealtimeService: the contract stands, the sessions are not built yet. Every call says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from flashbulb.v1 import realtime_pb2, realtime_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_ANSWER = "realtime sessions are not built yet; use GenerationService or QueueService"


class RealtimeServicer(realtime_pb2_grpc.RealtimeServiceServicer):
    """Answers UNIMPLEMENTED."""

    async def Connect(
        self, request_iterator: AsyncIterator[realtime_pb2.ConnectRequest], context: _Context
    ) -> AsyncIterator[realtime_pb2.ConnectResponse]:
        """Refuses."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _ANSWER)
        yield realtime_pb2.ConnectResponse()

    async def CreateToken(
        self, request: realtime_pb2.CreateTokenRequest, context: _Context
    ) -> realtime_pb2.CreateTokenResponse:
        """Refuses."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _ANSWER)
        raise AssertionError("abort raises")
