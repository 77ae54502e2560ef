"""Who may call. A key is `id:secret`; only the SHA-256 of a secret is held.

Secrets are long random texts, so one hash is enough: there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping

from flashbulb_server.config import ApiSettings
from flashbulb_server.errors import KeyMissing, KeyUnknown

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # ids are part of subjects and object keys
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOBODY = hashlib.sha256(b"").hexdigest()


class Keys:
    """The keys that may call: id to SHA-256 of the secret, in hex. ValueError for an id or a digest of another form."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        bad = [key_id for key_id in digests if not _ID.fullmatch(key_id)]
        if bad:
            raise ValueError(f"ids of keys are 1 to 64 of A-Z a-z 0-9 _ -, not {', '.join(map(repr, bad))}")
        bad = [key_id for key_id, text in digests.items() if not (isinstance(text, str) and _DIGEST.fullmatch(text))]
        if bad:
            raise ValueError(f"a key is held as its SHA-256, 64 of 0-9 a-f; not so: {', '.join(bad)}")
        self._digests = dict(digests)

    @classmethod
    def load(cls, settings: ApiSettings) -> Keys:
        """The keys of `settings.keys` and of `settings.keys_file`. ValueError names what is wrong with them."""
        digests: dict[str, str] = {}
        if settings.keys_file is not None and settings.keys_file.exists():
            held = json.loads(settings.keys_file.read_text())
            if not isinstance(held, dict):
                raise ValueError(f"{settings.keys_file} is not a JSON object of id to SHA-256")
            digests.update(held)
        for entry in filter(None, (e.strip() for e in settings.keys.get_secret_value().split(","))):
            key_id, colon, secret = entry.partition(":")
            if not colon or not secret:
                raise ValueError("api.keys holds an entry that is not id:secret")
            digests[key_id] = digest(secret)
        return cls(digests)

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._digests

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


def digest(secret: str) -> str:
    """SHA-256 of a secret in hex, as a keys file holds it."""
    return hashlib.sha256(secret.encode()).hexdigest()
