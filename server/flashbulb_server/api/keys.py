"""Who may call. A key is `id:secret`; only the SHA-256 of a secret is held.

Secrets are long random texts, so one hash is enough: there is nothing to guess that a slow hash would protect. A file of keys is followed
while it is used: a new key is good, and one that was taken out is not, within seconds. A file that cannot be read changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from flashbulb_server.config import ApiSettings
from flashbulb_server.errors import KeyMissing, KeyUnknown

FOLLOW_SECONDS = 1.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # ids are part of subjects and object keys
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOBODY = hashlib.sha256(b"").hexdigest()
_log = logging.getLogger(__name__)


class Keys:
    """The keys that may call: id to SHA-256 of the secret, in hex. ValueError for an id or a digest of another form.

    `file`: more of them, which those of `digests` go over, as they stood when it had the version `version`.
    """

    def __init__(
        self,
        digests: Mapping[str, str],
        file: Path | None = None,
        held: Mapping[str, str] | None = None,
        version: object = None,
    ) -> None:
        self._own = dict(digests)
        self._file = file
        self._version = version
        self._digests = check({**(held or {}), **digests})

    @classmethod
    def load(cls, settings: ApiSettings) -> Keys:
        """The keys of `settings.keys` and of `settings.keys_file`. ValueError names the variable and what is wrong."""
        file = settings.keys_file
        version = _version(file)
        own, held = keys_of(settings.keys.get_secret_value()), read_file(file) if file else {}
        try:
            return cls(own, file, held, version)
        except ValueError as err:
            raise ValueError(f"FLASHBULB_API__KEYS: {err}") from err

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._digests

    def mark(self, key_id: str) -> str:
        """What tells this key from one that had its id before, fit to be shown; empty for an id that no key has."""
        known = self._digests.get(key_id)
        return digest(known)[:16] if known else ""

    async def follow(self, ended: Callable[[frozenset[str]], None]) -> None:
        """Takes the keys from the file anew whenever it changes, until it is cancelled. `ended`: told of ids whose key is gone or another."""
        while self._file is not None:
            await asyncio.sleep(FOLLOW_SECONDS)
            version = await asyncio.to_thread(_version, self._file)
            if version != self._version:
                self._version = version
                gone = await self._renew(self._file)
                if gone:
                    ended(gone)

    async def _renew(self, file: Path) -> frozenset[str]:
        """Ids whose key is gone or another one."""
        try:
            if self._version is None:
                raise FileNotFoundError(f"{file} is gone")
            held = await asyncio.to_thread(read_file, file)
        except (OSError, ValueError) as err:
            _log.error("the file of keys cannot be read: the keys stay as they were", extra={"problem": str(err)})
            return frozenset()
        before, self._digests = self._digests, {**held, **self._own}
        gone = frozenset(key_id for key_id, known in before.items() if self._digests.get(key_id) != known)
        _log.info("the keys have changed", extra={"keys": len(self._digests), "ended": sorted(gone)})
        return gone

    def authenticate(self, authorization: str | bytes | None) -> str:
        """Id of the key in an `authorization` value, `Key <id>:<secret>`. Raises KeyMissing or KeyUnknown."""
        text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization or ""
        scheme, _, credentials = text.partition(" ")
        key_id, colon, secret = credentials.strip().partition(":")
        if scheme.lower() != "key" or not colon or not secret:
            raise KeyMissing
        known = self._digests.get(key_id)
        if not hmac.compare_digest(digest(secret), known or _NOBODY) or known is None:
            raise KeyUnknown
        return key_id


def check(digests: Mapping[str, str]) -> dict[str, str]:
    """The same. ValueError for an id or a digest of another form."""
    bad = [key_id for key_id in digests if not _ID.fullmatch(key_id)]
    if bad:
        raise ValueError(f"ids of keys are 1 to 64 of A-Z a-z 0-9 _ -, not {', '.join(map(repr, bad))}")
    bad = [key_id for key_id, text in digests.items() if not (isinstance(text, str) and _DIGEST.fullmatch(text))]
    if bad:
        raise ValueError(f"a key is held as its SHA-256, 64 of 0-9 a-f; not so: {', '.join(bad)}")
    return dict(digests)


def keys_of(text: str) -> dict[str, str]:
    """Digests of keys that are written `id:secret`, separated by commas. ValueError for one that is not."""
    digests: dict[str, str] = {}
    for entry in filter(None, (e.strip() for e in text.split(","))):
        key_id, colon, secret = entry.partition(":")
        if not colon or not secret:
            raise ValueError("FLASHBULB_API__KEYS holds an entry that is not id:secret")
        digests[key_id] = digest(secret)
    return digests


def read_file(path: Path) -> dict[str, str]:
    """Digests of a file of keys; none of one that is not there. ValueError names the variable and what is wrong."""
    try:
        held = json.loads(path.read_text())
        if not isinstance(held, dict):
            raise ValueError("not a JSON object of id to SHA-256")
        return check(held)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise ValueError(f"FLASHBULB_API__KEYS_FILE: {path}: {err}") from err


def digest(secret: str) -> str:
    """SHA-256 of a secret in hex, as a keys file holds it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _version(file: Path | None) -> object:
    """Differs after every change of the file; None where there is none."""
    try:
        found = file.stat() if file is not None else None
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_ino, found.st_size)
