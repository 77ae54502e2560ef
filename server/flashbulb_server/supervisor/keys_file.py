"""The file of callers' keys, as an operator changes it: id to SHA-256 of the secret. api.keys says what it means."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from flashbulb_server.api.keys import digest, read_file
from flashbulb_server.errors import Misconfigured
from flashbulb_server.supervisor.private_file import write_private


class KeysFile:
    """One file of keys; it need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def read(self) -> dict[str, str]:
        """The keys. Raises Misconfigured for a file that holds something else."""
        try:
            return read_file(self.path)
        except ValueError as err:
            raise Misconfigured(str(err)) from err

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, str]]:
        """The keys, to be changed by one program at a time; written when the context is left without an error. Raises Misconfigured."""
        try:
            with _locked(self.path.parent):
                held = self.read()
                yield held
                target = self.path.resolve()  # a link stays one
                write_private(target, json.dumps(held, indent=2), like=target if target.exists() else None)
        except OSError as err:
            raise Misconfigured(f"{self.path} cannot be changed: {err.strerror}") from err

    def make_first(self, key_id: str) -> str | None:
        """A new key `id:secret` in a new file, None if there is a file already."""
        if self.path.exists():
            return None
        secret = new_secret()
        with self.changing() as held:
            held[key_id] = digest(secret)
        return f"{key_id}:{secret}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def new_secret() -> str:
    """A secret that nobody guesses."""
    return secrets.token_urlsafe(24)
