"""A folder of things that took long to make, each under a key of all that it was made of. For several processes at once.

1. An entry is written beside, and put in its place by renaming: it is there whole or not at all.
2. It lists its files with their fingerprints. One that is not as it lists is thrown away, to be made again.
3. A folder that cannot be read or written is nobody's fault: then nothing is found there, and nothing kept.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

logger = logging.getLogger(__name__)

READ_WHOLE = 2**26
"""Bytes up to which a file's whole content tells it from others; of larger ones BLOCKS do: gigabytes would take longer than they save."""

BLOCKS = 256
BLOCK_BYTES = 2**16

MOST_ENTRIES = 8
"""Beyond them the longest unused go, unless they were used within RECENT_SECONDS: another process may have begun with one."""

RECENT_SECONDS = 3600.0
UNUSED_SECONDS = 30 * 86_400.0
"""After which an entry goes in any case."""

_LIST = "files.json"


class Cache:
    """`folder` is made when something is kept, for the owner only; None keeps nothing. `clock` gives unix seconds."""

    def __init__(self, folder: Path | None, *more: Path, clock: Callable[[], float] = time.time) -> None:
        self._folders = (*(() if folder is None else (folder,)), *more)
        self._clock = clock

    def or_in(self, folder: Path) -> Cache:
        """The same, but for another folder that is used where the first is of no use."""
        return Cache(None, *self._folders, folder, clock=self._clock)

    @property
    def works(self) -> bool:
        """Whether there is a folder."""
        return bool(self._folders)

    def find(self, key: str) -> Path | None:
        """The folder of an entry, which is whole."""
        return next((entry for folder in self._folders if (entry := self._whole(folder / key))), None)

    def _whole(self, entry: Path) -> Path | None:
        if not entry.exists():
            return None
        try:
            listed = json.loads((entry / _LIST).read_text())
            if {name: fingerprint(entry / name) for name in listed} != listed:
                raise ValueError("its files are not those that were kept")
        except (OSError, ValueError, AttributeError, TypeError) as err:
            self._throw_away(entry, err)
            return None
        with suppress(OSError):  # it may be read only
            os.utime(entry, (self._clock(),) * 2)
        return entry

    def keep(self, key: str, write: Callable[[Path], None]) -> None:
        """Adds an entry: the files that `write` makes in a folder. What is there already stays."""
        for folder in self._folders:
            try:
                return self._add(folder, key, write)
            except Exception as err:  # noqa: BLE001  # a full disk is told by each library in its own way, and none is worth a worker
                logger.warning("compiled networks cannot be kept", extra={"folder": str(folder), "problem": str(err)})

    def _add(self, folder: Path, key: str, write: Callable[[Path], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tidy(folder)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder, ignore_cleanup_errors=True) as made:
            path = Path(made) / key
            path.mkdir()
            write(path)
            (path / _LIST).write_text(json.dumps({file.name: fingerprint(file) for file in path.iterdir()}))
            _put(path, folder / key)

    def discard(self, key: str, reason: Exception) -> None:
        """Throws an entry away that is of no use. Those who read it go on reading."""
        for folder in self._folders:
            if (folder / key).exists():
                self._throw_away(folder / key, reason)

    def _throw_away(self, entry: Path, reason: Exception) -> None:
        logger.warning("compiled networks are thrown away", extra={"entry": str(entry), "problem": str(reason)[:300]})
        shutil.rmtree(entry, ignore_errors=True)

    def _tidy(self, folder: Path) -> None:
        """Throws away what nobody has used for long, and what was left half written."""
        used: list[tuple[float, Path]] = []
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # another process tidies as well
                used.append((self._clock() - path.stat().st_mtime, path))
        entries = sorted(item for item in used if not item[1].name.startswith("."))
        gone = [item for item in entries[MOST_ENTRIES - 1 :] if item[0] > RECENT_SECONDS]
        gone += [item for item in entries if item[0] > UNUSED_SECONDS]
        gone += [item for item in used if item[1].name.startswith(".") and item[0] > RECENT_SECONDS]
        for _, path in gone:
            shutil.rmtree(path, ignore_errors=True)


def _put(made: Path, place: Path) -> None:
    try:
        made.rename(place)
    except OSError:
        if not place.exists():  # else another process was faster
            raise


def fingerprint(path: Path) -> str:
    """What tells a file from any other that it could be taken for: its size and content, of a large one the content of many places.

    Raises OSError.
    """
    size = path.stat().st_size
    digest = sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= READ_WHOLE:
            while block := file.read(2**20):
                digest.update(block)
        else:
            for index in range(BLOCKS):
                file.seek((size - BLOCK_BYTES) * index // (BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def key_of(parts: object) -> str:
    """The key of something that was made of `parts`, which must be JSON."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]
