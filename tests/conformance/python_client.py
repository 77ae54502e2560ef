"""fal-client 1.0.3 led to a gateway by its own module constants, sync and async behind one set of names.

A test that is written once runs against both: `await fal.subscribe(...)` is the async client's call, or the sync client's in a thread.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import fal_client
import fal_client.client as constants
import pytest

from tests.conformance.node import Seen
from tests.service import KEY

LEAVES_SOCKETS = (
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)
"""fal-client leaves the connections of its uploads to the collector of garbage."""


@contextmanager
def led_to(base: str) -> Iterator[None]:
    """The client reaches the gateway at `base` meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "RUN_URL_FORMAT", f"{base}/run/")
        patch.setattr(constants, "QUEUE_URL_FORMAT", f"{base}/queue/")
        patch.setattr(constants, "REALTIME_URL_FORMAT", f"{base}/run/".replace("http", "ws", 1))
        patch.setattr(constants, "REST_URL", f"{base}/rest")
        patch.setattr(constants, "CDN_URL", f"{base}/cdn")
        yield


@asynccontextmanager
async def client_of(kind: str, base: str, key: str = KEY) -> AsyncIterator[Client]:
    """A `sync` or `async` client of the gateway at `base`."""
    raw = fal_client.SyncClient(key=key) if kind == "sync" else fal_client.AsyncClient(key=key)
    with led_to(base):
        yield Client(raw)
    if isinstance(raw, fal_client.SyncClient):
        raw._client.close()  # it has no way of its own to be closed
    else:
        await (await raw._client).aclose()
    gc.collect()  # what uploads leave open, while this test's filter of warnings holds


@dataclass(frozen=True, slots=True)
class Client:
    """The calls of one kind of client."""

    raw: fal_client.SyncClient | fal_client.AsyncClient

    @property
    def is_async(self) -> bool:
        return isinstance(self.raw, fal_client.AsyncClient)

    @property
    def kind(self) -> str:
        return "async" if self.is_async else "sync"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._awaited(getattr(self.raw, name))

    async def of(self, handle: object, name: str, **given: object) -> Any:
        """A method of a request's handle."""
        return await self._awaited(getattr(handle, name))(**given)

    async def every(self, stream: Any) -> list[Any]:
        """All that an iterator of either kind gives."""
        if self.is_async:
            return [event async for event in stream]
        return await asyncio.to_thread(list, stream)

    @asynccontextmanager
    async def realtime(self, *given: Any, **named: Any) -> AsyncIterator[Realtime]:
        """An open session."""
        if self.is_async:
            async with self.raw.realtime(*given, **named) as connection:
                yield Realtime(connection.send, connection.recv)
            return
        session = self.raw.realtime(*given, **named)
        connection = await asyncio.to_thread(session.__enter__)
        try:
            yield Realtime(_threaded(connection.send), _threaded(connection.recv))
        finally:
            await asyncio.to_thread(session.__exit__, None, None, None)

    def _awaited(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return call if self.is_async else _threaded(call)


@dataclass(frozen=True, slots=True)
class Realtime:
    """A session of either kind."""

    send: Callable[..., Any]
    recv: Callable[..., Any]


def seen(
    image: dict[str, Any], given: dict[str, object] | None, looks: str | None = None, content: bytes | None = None
) -> Seen:
    """A picture of an answer, fetched if it is a link."""
    data = image["content"] if content is None and "content" in image else content or _fetched(image["url"])
    return Seen(data, image["width"], image["height"], image["content_type"], given, looks)


def _fetched(url: str) -> bytes:
    from urllib.request import urlopen

    with urlopen(url, timeout=20) as answer:  # takes data URIs, too
        return bytes(answer.read())


def _threaded(call: Callable[..., Any]) -> Callable[..., Any]:
    async def called(*given: Any, **named: Any) -> Any:
        return await asyncio.to_thread(call, *given, **named)

    return called
