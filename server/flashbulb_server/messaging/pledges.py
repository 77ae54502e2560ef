"""What a worker holds of the queue, written down where the one that takes its place on the same host finds it.

A worker that is killed gives nothing back: without this, what it held would wait until its leases ran out. Whoever holds the folder's lock
is its worker; when the lock can be had, the last one is dead. Nothing here may cost a job: what cannot be written is not written.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import nats.errors
from nats.aio.client import Client

_GIVEN_BACK = b"-NAK"
_LOCK = ".lock"
_log = logging.getLogger(__name__)


class Pledges:
    """`folder`: None writes nothing down."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    @asynccontextmanager
    async def open(
        cls, nc: Client, folder: Path | None, *, lease_seconds: float, clock: Callable[[], float] = time.time
    ) -> AsyncIterator[Pledges]:
        """Gives back what a dead worker held, unless its lease has run out by now. `clock` gives unix seconds."""
        with ExitStack() as stack:
            own = None if folder is None else _taken(folder, stack)
            for path in [] if own is None else [path for path in own.iterdir() if path.name != _LOCK]:
                with suppress(OSError, ValueError, nats.errors.Error):
                    if clock() - path.stat().st_mtime < lease_seconds:
                        await nc.publish(path.read_text(), _GIVEN_BACK)
                        _log.info("a job is given back that a dead worker held")
                    path.unlink()
            yield cls(own)

    def of(self, sequence: int, subject: str) -> Pledge:
        """Writes down that the message at a sequence is held, which is settled by `subject`."""
        pledge = Pledge(None if self._folder is None else self._folder / str(sequence))
        pledge.write(subject)
        return pledge


def _taken(folder: Path, stack: ExitStack) -> Path | None:
    """The folder, which is locked until the stack is closed. None if that cannot be."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = stack.enter_context((folder / _LOCK).open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        _log.warning("leases are not written down", extra={"folder": str(folder), "problem": str(err)})
        return None
    return folder


class Pledge:
    """One lease."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, subject: str) -> None:
        """Begins, and goes on from now, for as long as a lease lasts."""
        if self._path is not None:
            with suppress(OSError):
                self._path.write_text(subject)

    def drop(self) -> None:
        """Ends."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
