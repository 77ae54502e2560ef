"""What is typed in a terminal in raw mode: bytes become a line of text. No I/O.

Backspace, Ctrl-W (a word) and Ctrl-U (all) delete; Enter is counted; Ctrl-C and Ctrl-D end. Other control and escape sequences are ignored.

>>> line = Line()
>>> line.feed(b"a red pear\\x17apple")
>>> line.text
'a red apple'
"""

from __future__ import annotations

import codecs
import re

MAX_CHARACTERS = 4096
"""Longest prompt that a server takes."""

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.|[^\[O])")
_BEGUN = re.compile(r"\x1b(\[[0-?]*[ -/]*|O)?$")


class Line:
    """The line so far. `entered` counts Enter; `ended` says that no more is to be read."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.entered = 0
        self.ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""  # an escape sequence that is not complete

    def feed(self, data: bytes) -> None:
        """Takes what was read; nothing means the end."""
        if not data:
            self.ended = True
        keys = _ESCAPE.sub("", self._begun + self._decoder.decode(data))
        begun = _BEGUN.search(keys)
        self._begun = begun[0] if begun else ""
        for key in keys[: begun.start()] if begun else keys:
            self._press(key)

    def _press(self, key: str) -> None:
        if key in "\x03\x04":
            self.ended = True
        elif key in "\r\n":
            self.entered += 1
        elif key in "\x7f\x08":
            self.text = self.text[:-1]
        elif key == "\x15":
            self.text = ""
        elif key == "\x17":
            self.text = re.sub(r"\S*\s*$", "", self.text)
        elif key.isprintable() and len(self.text) < MAX_CHARACTERS:
            self.text += key
