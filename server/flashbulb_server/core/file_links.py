"""Signed texts that need no store: links to files, and what a caller brings back in the course of an upload. Pure: no clock, no host.

1. A link to a file ends in `/files/<mark>/<key>`, and `?until=<unix seconds>` if it works no longer than that. The mark is a MAC of the
   rest, so it cannot be guessed, and whoever has the link may read.
2. The same file has the same link everywhere: on whatever host a link comes back, as the input of a drawing or to be read, it is known.
3. The first letter of a mark says who else may read: everybody, or nobody but the owner.
4. A sealed text carries values that its bearer cannot change, for one purpose.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from flashbulb_server.core.files import FileKey, parse_key

_MARK_BYTES = 16
_LINK = re.compile(r"/files/([afh][A-Za-z0-9_-]{22})/((?:in|out)/[A-Za-z0-9_./-]+)(?:[?#]|$)")
_UNTIL = re.compile(r"[?&]until=([0-9]{1,12})(?=[&#]|$)")


class Access(StrEnum):
    """Who may read a file by its link, besides its owner. To those who may not, a file that is hidden does not exist."""

    ALLOW = "allow"
    FORBID = "forbid"
    HIDE = "hide"


_LETTERS = {Access.ALLOW: "a", Access.FORBID: "f", Access.HIDE: "h"}
_ACCESS = {letter: access for access, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """What a link names. `until`: when it ends to work, unix seconds; 0 for a link that works as long as there is the file."""

    key: FileKey
    access: Access
    until: int = 0

    def readable_by(self, owner: str | None) -> bool:
        """Whether it is for this caller; None for one that is not known."""
        return self.access is Access.ALLOW or owner == self.key.owner


class FileLinks:
    """Makes and reads links and sealed texts. `secret`: the same wherever they are to be known."""

    def __init__(self, secret: str) -> None:
        self._secret = hmac.digest(secret.encode(), b"flashbulb: links to files", hashlib.sha256)

    def path(self, key: str, access: Access = Access.ALLOW, until: float = 0) -> str:
        """The end of a link. `until` is cut to whole seconds."""
        end = f"?until={int(until)}" if until else ""
        return f"files/{self._mark(key, access, int(until))}/{key}{end}"

    def named_by(self, url: str) -> LinkedFile | None:
        """The file that a link of ours names, on whatever host; None for any other URL, and for one that was tampered with."""
        match = _LINK.search(url)
        if match is None:
            return None
        until = _UNTIL.search(url, match.end(2))
        return self.check(match[1], match[2], until[1] if until else "0")

    def check(self, mark: str, key: str, until: str) -> LinkedFile | None:
        """The file, if the mark is that of the key and of the end."""
        access, parsed = _ACCESS.get(mark[:1]), parse_key(key)
        if access is None or parsed is None or not (until.isascii() and until.isdecimal() and len(until) <= 12):
            return None
        if not hmac.compare_digest(mark.encode(), self._mark(key, access, int(until)).encode()):
            return None
        return LinkedFile(parsed, access, int(until))

    def seal(self, purpose: str, values: Mapping[str, object]) -> str:
        """A text that brings `values` back, safe in any part of a URL."""
        body = _encode(json.dumps(values, separators=(",", ":")).encode())
        return f"{body}.{self._mac(purpose, body)}"

    def unseal(self, purpose: str, text: str) -> Mapping[str, object] | None:
        """The values of a sealed text, None if it was not made for this purpose with our secret."""
        body, _, mac = text.partition(".")
        if not hmac.compare_digest(mac.encode(errors="replace"), self._mac(purpose, body).encode()):
            return None
        try:
            values = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            return None
        return values if isinstance(values, dict) else None

    def _mark(self, key: str, access: Access, until: int) -> str:
        return _LETTERS[access] + self._mac(f"file {access} {until}", key)

    def _mac(self, purpose: str, text: str) -> str:
        message = f"{purpose}\n{text}".encode(errors="replace")
        return _encode(hmac.digest(self._secret, message, hashlib.sha256)[:_MARK_BYTES])


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
