"""A picture for every change of mind, with a client made from the environment.

    from flashbulb import realtime

    with realtime.connect(image_size=(512, 512), seed=7) as session:
        session.send(prompt="a red apple")
        session.latest().images[0].save("apple.jpeg")

`async with` opens a session for coroutines. `Client.realtime` and `AsyncClient.realtime` do the same with a client of one's own.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType

from flashbulb._client import DEFAULT_ENDPOINT, AsyncClient
from flashbulb._inputs import Input
from flashbulb._session import AsyncSession
from flashbulb._shortcuts import default_client
from flashbulb._sync_session import Session

__all__ = ["Connection", "connect"]


class Connection:
    """A session to be opened: `with` gives a Session, `async with` an AsyncSession."""

    def __init__(self, endpoint: str | Input, options: dict[str, object]) -> None:
        self._endpoint = endpoint
        self._options = options
        self._stack = AsyncExitStack()

    def __enter__(self) -> Session:
        self._session = default_client().realtime(self._endpoint, **self._options)  # type: ignore[arg-type]  # checked there
        return self._session.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.__exit__(kind, error, traceback)

    async def __aenter__(self) -> AsyncSession:
        async with AsyncExitStack() as opening:
            client = await opening.enter_async_context(AsyncClient())
            session = client.realtime(self._endpoint, **self._options)  # type: ignore[arg-type]  # checked there
            await opening.enter_async_context(session)
            self._stack = opening.pop_all()
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)


def connect(
    endpoint: str | Input = DEFAULT_ENDPOINT,
    *,
    max_fps: float | None = None,
    policy: str = "newest",
    max_waiting: int = 16,
    previews: bool = False,
    notices: bool = False,
    throttle: float | None = None,
    max_in_flight: int = 1,
    similar_threshold: float | None = None,
    **defaults: object,
) -> Connection:
    """A session with FLASHBULB_KEY at FLASHBULB_HOST. The arguments and errors are those of `AsyncClient.realtime`."""
    options: dict[str, object] = {
        "max_fps": max_fps,
        "policy": policy,
        "max_waiting": max_waiting,
        "previews": previews,
        "notices": notices,
        "throttle": throttle,
        "max_in_flight": max_in_flight,
        "similar_threshold": similar_threshold,
    }
    return Connection(endpoint, defaults | options)
