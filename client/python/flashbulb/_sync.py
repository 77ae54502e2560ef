"""The client for callers without an event loop. Every method runs that of AsyncClient in a thread of its own; no logic is here."""

from __future__ import annotations

import functools
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from flashbulb._client import AsyncClient, OnUpdate
from flashbulb._credentials import TokenProvider
from flashbulb._handle import AsyncHandle, Handle
from flashbulb._loop import LoopThread, Relay
from flashbulb._results import Event, Result
from flashbulb._session import AsyncSession
from flashbulb._sync_session import Session

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def _call(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    """A coroutine method of AsyncClient, called."""

    @functools.wraps(method)
    def run(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._thread.call(lambda: method(self._client, *args, **kwargs))

    return cast("Callable[Concatenate[Client, P], R]", run)


def _iterate(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T]],
) -> Callable[Concatenate[Client, P], Generator[T]]:
    """A generator method of AsyncClient, iterated."""

    @functools.wraps(method)
    def run(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        return self._thread.iterate(lambda: method(self._client, *args, **kwargs))

    return cast("Callable[Concatenate[Client, P], Generator[T]]", run)


def _submit(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, AsyncHandle]],
) -> Callable[Concatenate[Client, P], Handle]:
    """`AsyncClient.submit`, with a handle of this client."""

    @functools.wraps(method)
    def run(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Handle:
        handle = self._thread.call(lambda: method(self._client, *args, **kwargs))
        return Handle(self, handle.submitted, handle.deduplicated)

    return cast("Callable[Concatenate[Client, P], Handle]", run)


def _subscribe(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[Client, P], Result]:
    """`AsyncClient.subscribe`, with `on_update` called in the caller's thread, which may be slow and may raise."""

    @functools.wraps(method)
    def run(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        on_update = cast("OnUpdate | None", kwargs.pop("on_update", None))
        if on_update is None:
            return self._thread.call(lambda: method(self._client, *args, **kwargs))

        def start(relay: Relay[Event]) -> Coroutine[Any, Any, Result]:
            return method(self._client, *args, **{**kwargs, "on_update": relay})  # type: ignore[arg-type]  # it was one

        return self._thread.relay(start, on_update)

    return cast("Callable[Concatenate[Client, P], Result]", run)


def _open(
    method: Callable[Concatenate[AsyncClient, P], AsyncSession],
) -> Callable[Concatenate[Client, P], Session]:
    """`AsyncClient.realtime`, with a session of this client."""

    @functools.wraps(method)
    def run(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Session:
        return Session(self, self._thread, method(self._client, *args, **kwargs))

    return cast("Callable[Concatenate[Client, P], Session]", run)


class Client:
    """A client of one server. Safe to share between threads; `with` closes it. Arguments: those of AsyncClient.

    A caller that is interrupted (Ctrl-C) while `subscribe` waits cancels the request; one that leaves an iteration closes the stream.

    >>> with Client(key="demo:secret") as client:
    ...     client.generate(prompt="a red apple", step=4)
    Traceback (most recent call last):
    flashbulb._errors.UnknownField: step: no such field; did you mean prompt?
    """

    def __init__(
        self,
        key: str | None = None,
        host: str | None = None,
        tls: bool | str | Path | None = None,
        timeout: float = 60.0,
        *,
        token: str | None = None,
        token_provider: TokenProvider | None = None,
    ) -> None:
        self._client = AsyncClient(key, host, tls, timeout, token=token, token_provider=token_provider)
        self._thread = LoopThread(self._client.close)
        # Also at exit: a thread in the middle of gRPC must not outlive the interpreter.
        weakref.finalize(self, self._thread.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the thread. Idempotent; later calls raise RuntimeError."""
        self._thread.close()

    subscribe = _subscribe(AsyncClient.subscribe)
    submit = _submit(AsyncClient.submit)
    status = _call(AsyncClient.status)
    watch = _iterate(AsyncClient.watch)
    result = _call(AsyncClient.result)
    cancel = _call(AsyncClient.cancel)
    redeliver_webhook = _call(AsyncClient.redeliver_webhook)
    list = _iterate(AsyncClient.list)
    generate = _call(AsyncClient.generate)
    generate_stream = _iterate(AsyncClient.generate_stream)
    realtime = _open(AsyncClient.realtime)
    create_token = _call(AsyncClient.create_token)
    upload = _call(AsyncClient.upload)
    delete_file = _call(AsyncClient.delete_file)
    models = _call(AsyncClient.models)
    endpoints = _call(AsyncClient.endpoints)
