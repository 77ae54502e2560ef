"""What came and was not taken yet. Pictures are never thrown away: whoever brings them waits for room. Old notices are."""

from __future__ import annotations

import asyncio
from collections import deque

from flashbulb._errors import FlashbulbError
from flashbulb._frames import Dropped, Frame
from flashbulb._results import Previewed

MAX_FRAMES = 4
MAX_NOTICES = 256

Item = Frame | Dropped | Previewed


class Inbox:
    """A bounded queue of one session."""

    def __init__(self) -> None:
        self._items: deque[tuple[Item, int]] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: FlashbulbError | None = None

    @property
    def frames(self) -> int:
        """Pictures that wait."""
        return sum(isinstance(item, Frame) for item, _ in self._items)

    async def room(self) -> None:
        """Waits until a picture has room."""
        while self.frames >= MAX_FRAMES:
            await self._change()

    def put(self, item: Item, number: int = 0) -> None:
        """Adds an item. Of previews only the newest stays, of notices the newest MAX_NOTICES. `number` is for the acknowledgement."""
        if isinstance(item, Previewed):
            self._items = deque(entry for entry in self._items if not isinstance(entry[0], Previewed))
        elif isinstance(item, Dropped) and len(self._items) >= MAX_NOTICES:
            oldest = next((entry for entry in self._items if isinstance(entry[0], Dropped)), None)
            if oldest is not None:
                self._items.remove(oldest)
        self._items.append((item, number))
        self._changed.set()

    async def get(self) -> tuple[Item, int] | None:
        """The next item; None when the session is over. Cancelling it loses nothing.

        Raises:
            FlashbulbError: what ended the session.
        """
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            await self._change()
        item = self._items.popleft()
        self._changed.set()
        return item

    def end(self, error: FlashbulbError | None) -> None:
        """Nothing comes any more; what is here can still be taken."""
        self._ended = True
        self._error = error
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
