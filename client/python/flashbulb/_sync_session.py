"""A realtime session for callers without an event loop. Every method runs that of AsyncSession in the client's thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Self

from flashbulb._frames import Frame
from flashbulb._inbox import Item
from flashbulb._inputs import Input
from flashbulb._loop import LoopThread
from flashbulb._session import AsyncSession


class Session:
    """A realtime session. `with` opens and closes it, once; iterating it yields what comes. Safe to share between threads.

    That is a Frame for every picture; with `previews`, the newest Previewed; with `notices`, a Dropped for every frame that was not drawn.
    The iteration ends when the session is closed, here or by the server because no frame came for long, and raises what else ends it.
    """

    def __init__(self, client: object, thread: LoopThread, session: AsyncSession) -> None:
        self._client = client  # whose thread ends with it
        self._thread = thread
        self._session = session
        self._held = thread.iterate(self._hold)

    @property
    def session_id(self) -> str:
        """The server's id of the session."""
        return self._session.session_id

    @property
    def idle_timeout(self) -> float:
        """Seconds without a frame after which the server closes the session."""
        return self._session.idle_timeout

    @property
    def resolved_defaults(self) -> Input | None:
        """The defaults with every value resolved; None for an endpoint that this version of the package does not know."""
        return self._session.resolved_defaults

    def __enter__(self) -> Self:
        for _ in self._held:
            return self
        raise RuntimeError("a session can be opened once")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        self._held.close()

    def close(self) -> None:
        """Ends the session, also while another thread iterates it. See `AsyncSession.close`."""
        self._thread.call(self._session.close)

    def send(self, **changes: object) -> int:
        """Asks for a picture with these fields changed. See `AsyncSession.send`."""
        return self._thread.call(lambda: self._session.send(**changes))

    def latest(self) -> Frame:
        """The newest picture that is here, or the next one if none is. See `AsyncSession.latest`."""
        return self._thread.call(self._session.latest)

    def frames(self) -> Generator[Frame]:
        """The pictures alone. See `AsyncSession.frames`."""
        return self._thread.iterate(self._session.frames)

    def __iter__(self) -> Generator[Item]:
        return self._thread.iterate(self._session.__aiter__)

    async def _hold(self) -> AsyncGenerator[None]:
        # In one coroutine from beginning to end, for its tasks belong to that.
        async with self._session:
            yield None
