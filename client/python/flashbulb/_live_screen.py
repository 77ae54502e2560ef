"""The terminal of `flashbulb live`: raw mode and back, and one frame of the screen at a time. Knows no session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.cells import cell_len, set_cell_size

from flashbulb._live_graphics import render
from flashbulb._results import Image

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

_ENTER = b"\x1b[?1049h\x1b[2J"
_LEAVE = b"\x1b[0m\x1b[?25h\x1b[?1049l"
_HINT = "Ctrl-C ends"
_PROMPT = "> "
_USUAL = (80, 24)


def is_terminal() -> bool:
    """Whether keys can be read and pictures drawn: stdin and stdout are terminals."""
    return termios is not None and sys.stdin.isatty() and sys.stdout.isatty()


@contextmanager
def raw_terminal() -> Iterator[int]:
    """The terminal in raw mode with an empty screen; gives the descriptor to read keys from.

    Everything is put back at the end, if the terminal is there still.
    """
    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    raw = termios.tcgetattr(keys)
    raw[0] &= ~(termios.IXON | termios.ICRNL)
    raw[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    try:
        termios.tcsetattr(keys, termios.TCSADRAIN, raw)
        _write(_ENTER)
        yield keys
    finally:
        with suppress(OSError, termios.error):
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
            _write(_LEAVE)


class Screen:
    """The picture, a status line below it, and what is typed. `method` is how pictures are shown, see `_live_graphics.render`."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._size = (0, 0)
        self._shown: Image | None = None

    def draw(self, image: Image | None, status: str, text: str) -> None:
        """Draws what has changed and what there is room for. Blocks on the terminal. Raises OSError if that is gone."""
        columns, lines = _size()
        parts = []
        if (columns, lines) != self._size:
            self._size = (columns, lines)
            self._shown = None
            parts.append(b"\x1b[2J")
        if image is not None and image is not self._shown and lines > 3:
            self._shown = image
            parts += [b"\x1b[?25l\x1b[H", render(image, self._method, columns, lines - 3)]
        if lines > 1:
            parts.append(f"\x1b[0m\x1b[{lines - 1};1H\x1b[2m{_cut(status, columns)}\x1b[0m".encode())
        parts.append(f"\x1b[{lines};1H\x1b[K{_tail(_PROMPT, text, columns - 1)}\x1b[?25h".encode())
        _write(b"".join(parts))


def _size() -> tuple[int, int]:
    """Columns and lines; the usual ones of a terminal that does not know, which says 0."""
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return columns or _USUAL[0], lines or _USUAL[1]


def _cut(status: str, columns: int) -> str:
    room = columns - len(_HINT) - 2
    return set_cell_size(status, room) + "  " + _HINT if room > 0 else set_cell_size(status, columns)


def _tail(prompt: str, text: str, columns: int) -> str:
    """The prompt and the end of a text, in so many columns, of which there may be none."""
    room = max(0, columns - cell_len(prompt))
    text = text[max(0, len(text) - room) :]  # no character takes less than no column
    while cell_len(text) > room:
        text = text[1:]
    return set_cell_size(prompt, max(0, min(columns, cell_len(prompt)))) + text


def _write(data: bytes) -> None:
    """Past Python's buffer: what a terminal that is gone did not take would be written again at the end."""
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
