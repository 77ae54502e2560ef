"""RealtimeService: converts, calls the use-case, converts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from flashbulb.v1 import realtime_pb2, realtime_pb2_grpc
from flashbulb_server.api.grpc.convert_session import from_outgoing, to_incoming, to_opening
from flashbulb_server.api.grpc.interceptors import caller, grant
from flashbulb_server.api.grpc.trailing import tell_stand_in
from flashbulb_server.api.realtime import Realtime
from flashbulb_server.api.session_messages import Incoming, Opened, Outgoing, Picture
from flashbulb_server.api.tokens import Tokens
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.errors import FieldViolation, InvalidRequest
from flashbulb_server.wire.inputs import named_model
from flashbulb_server.wire.outputs import from_output
from flashbulb_server.wire.times import from_duration, to_timestamp

_Context = grpc.aio.ServicerContext[Any, Any]


class RealtimeServicer(realtime_pb2_grpc.RealtimeServiceServicer):
    """Realtime sessions over gRPC."""

    def __init__(self, realtime: Realtime, tokens: Tokens) -> None:
        self._realtime = realtime
        self._tokens = tokens

    async def Connect(
        self, request_iterator: AsyncIterator[realtime_pb2.ConnectRequest], context: _Context
    ) -> AsyncIterator[realtime_pb2.ConnectResponse]:
        """Opens a session."""
        first = await anext(request_iterator, None)
        if first is None:
            raise InvalidRequest([FieldViolation("open", "must be the first message of a session")])
        session = self._realtime.connect(grant(), to_opening(first), _incoming(request_iterator))
        sequence, told = 0, False
        async with aclosing(session) as messages:
            async for message in messages:
                sequence += 1
                if not told and (spec := _stood_in_for(message)) is not None:
                    tell_stand_in(context, spec)
                    told = True
                yield from_outgoing(message, sequence, time.time())

    async def CreateToken(
        self, request: realtime_pb2.CreateTokenRequest, context: _Context
    ) -> realtime_pb2.CreateTokenResponse:
        """Makes a short-lived token."""
        lifetime = from_duration(request.lifetime) if request.HasField("lifetime") else None
        token = self._tokens.create(caller(), list(request.allowed_endpoints), lifetime)
        return realtime_pb2.CreateTokenResponse(token=token.text, expire_time=to_timestamp(token.expire_time))


def _stood_in_for(message: Outgoing) -> GenerationSpec | None:
    """What a stand-in draws, if the message is of one."""
    match message:
        case Opened(defaults=GenerationSpec() as spec) if spec.asked_model:
            return spec
        case Picture(output=output) if named_model(output.resolved_input) not in ("", output.model_name):
            return from_output(output).spec
    return None


async def _incoming(messages: AsyncIterator[realtime_pb2.ConnectRequest]) -> AsyncIterator[Incoming]:
    async for message in messages:
        yield to_incoming(message)
