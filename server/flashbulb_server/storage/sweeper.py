"""Deletes expired files, and uploads that were never ended, again and again. Several may run at once: deleting twice is harmless."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.storage.file_store import FileStore

UNFINISHED_SECONDS = 86_400.0
"""An upload in parts must end in this time."""
_BATCH = 1000  # what S3 lists and deletes in one call

_log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps every `every_seconds`. Pictures are kept for `keep_seconds`, uploads for as long as their keys say."""

    def __init__(
        self,
        files: FileStore,
        *,
        keep_seconds: float,
        every_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._files = files
        self._keep_seconds = keep_seconds
        self._every_seconds = every_seconds
        self._sleep = sleep

    async def run(self) -> NoReturn:
        """Until cancelled. A store that does not answer is tried again the next time."""
        while True:
            try:
                count = await self.sweep()
            except StoreUnavailable as err:
                _log.warning("could not sweep expired files", extra={"detail": err.message})
            else:
                _log.log(logging.INFO if count else logging.DEBUG, "expired files deleted", extra={"count": count})
            await self._sleep(self._every_seconds)

    async def sweep(self) -> int:
        """Deletes what has expired and says how many that were. Raises StoreUnavailable."""
        total = 0
        while True:
            keys = await self._files.expired(keep_seconds=self._keep_seconds, limit=_BATCH)
            gone = await self._files.delete_all(keys) if keys else 0
            total += gone
            if gone < _BATCH:  # all done, or some cannot be deleted now
                break
        await self._files.forget_unfinished(age=UNFINISHED_SECONDS)
        return total
