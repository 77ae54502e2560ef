"""Who may call, and how many calls there may be at once. Decided on the head of a call alone, before anything else of it is read.

1. Only calls with a key, or a token, take places of `api.max_calls`. Tokens open Connect only.
2. grpc.health.v1 is open, so that probes need no key. A message may be as large as any until it is here, so few of callers without a key
   are read at once, and nothing may follow them. Nobody is held up by that: a check that finds no room is answered as if it named no
   service, and to a watch UNIMPLEMENTED says that this client is to do without (gRFC A17): any other error would take the server for dead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc

from flashbulb_server.api.grpc.incoming import Incoming
from flashbulb_server.api.keys import Keys
from flashbulb_server.api.tokens import Grant, Tokens
from flashbulb_server.errors import FlashbulbError, TokenForbids, TooManyCalls, Unauthenticated

MAX_WATCHES = 256
MAX_PROBE_BYTES = 1024  # names of services are shorter

_OPEN_SERVICES = ("/grpc.health.v1.Health/",)
_PROBE_SECONDS = 5.0
_READ_AT_ONCE = 4
_NO_WATCH = "no more is watched for callers without a key"
_TOKEN_METHODS = ("/flashbulb.v1.RealtimeService/Connect",)
_grant: ContextVar[Grant] = ContextVar("grant")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # which cannot be subscripted at run time
Context = grpc.aio.ServicerContext[Any, Any]


def caller() -> str:
    """Id of the key that makes the current call. LookupError outside of an authenticated call."""
    return _grant.get().owner


def grant() -> Grant:
    """What the current call may do. LookupError outside of an authenticated call."""
    return _grant.get()


def is_open(method: str) -> bool:
    """Whether a method may be called without a key."""
    return method.startswith(_OPEN_SERVICES)


class Places:
    """Room for so many at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return self._taken >= self._limit

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place while the context is open. Raises TooManyCalls."""
        if self.full:
            raise TooManyCalls(self._limit)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Admission:
    """Lets calls in. `first_seconds`: in which the first message of a call must be here."""

    def __init__(self, keys: Keys, tokens: Tokens | None, *, max_calls: int, first_seconds: float) -> None:
        self._keys = keys
        self._tokens = tokens
        self._first_seconds = first_seconds
        self._calls = Places(max_calls)
        self._watches = Places(MAX_WATCHES)
        self._reading = Places(_READ_AT_ONCE)

    @asynccontextmanager
    async def admitted(self, method: str, handler: Handler, context: Context) -> AsyncIterator[Any]:
        """What a caller sends who may call: the message, or the stream of them. The context is open as long as the call.

        Raises Unauthenticated, Forbidden, TooManyCalls, InvalidRequest.
        """
        incoming = Incoming(context, first_seconds=self._first_seconds)
        with ExitStack() as held:
            try:
                found = self._identify(method, context)
                if found is not None:
                    held.enter_context(self._calls.one())
                    _grant.set(found)
            except FlashbulbError:
                await self._hear_out(incoming)
                raise
            if handler.request_streaming:
                yield incoming.all()
            elif found is not None:
                yield await incoming.one()
            else:
                yield await self._probe(handler, context, held)

    def _identify(self, method: str, context: Context) -> Grant | None:
        """Who calls. None: somebody without a key, who may call this method."""
        authorization = dict(context.invocation_metadata() or ()).get("authorization")
        try:
            return self._authenticate(method, authorization)
        except Unauthenticated:
            if is_open(method):
                return None
            raise

    def _authenticate(self, method: str, authorization: str | bytes | None) -> Grant:
        text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization or ""
        scheme, _, token = text.partition(" ")
        if self._tokens is None or scheme.lower() != "bearer":
            return Grant(self._keys.authenticate(text))
        found = self._tokens.read(token.strip())
        if method not in _TOKEN_METHODS:
            raise TokenForbids(method, _TOKEN_METHODS)
        return found

    async def _hear_out(self, incoming: Incoming) -> None:
        if not self._reading.full:
            with self._reading.one():
                await incoming.hear_out()

    async def _probe(self, handler: Handler, context: Context, held: ExitStack) -> Any:  # noqa: ANN401  # of an open method
        watch = bool(handler.response_streaming)
        if self._reading.full or (watch and self._watches.full):
            if watch or handler.request_deserializer is None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_WATCH)
            return handler.request_deserializer(b"")
        if watch:
            held.enter_context(self._watches.one())
        with self._reading.one():
            return await Incoming(context, first_seconds=_PROBE_SECONDS).only()
