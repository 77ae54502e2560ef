"""A picture in a terminal: bytes to write where the cursor is. Knows the terminal's ways of showing pictures, and no session.

Sources: sw.kovidgoyal.net/kitty/graphics-protocol, iterm2.com/documentation-images.html, the DEC VT340 manual (sixel).
"""

from __future__ import annotations

import base64
import io
import re
import zlib
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from flashbulb._errors import ConfigurationError
from flashbulb._results import Image

if TYPE_CHECKING:
    import PIL.Image

CELL = (10, 20)
"""Pixels of a character cell, about."""
MAX_ROWS = 32
_SIXEL_COLORS = 64
_KITTY_CHUNK = 4096


def fit(image: Image, columns: int, rows: int) -> tuple[int, int]:
    """Columns and rows that a picture fills within the given ones; a cell is twice as high as wide.

    >>> fit(Image("", b"", "", 512, 512, 0, 0, 0, 0), 80, 20)
    (40, 20)
    """
    rows = max(1, min(rows, MAX_ROWS))
    scale = min(columns / image.width, 2 * rows / image.height) if image.width and image.height else 1.0
    return max(1, round(image.width * scale)), max(1, round(image.height * scale / 2))


def render(image: Image, method: str, columns: int, rows: int) -> bytes:
    """The picture in at most so many cells; nothing, where the terminal or an installation without Pillow cannot show it.

    `method` is `kitty`, `iterm2`, `sixel`, `blocks` or `none`. The cursor is left somewhere below or in the picture.
    """
    width, height = fit(image, columns, rows)
    if method == "iterm2":
        return _iterm2(image, width, height)
    try:
        if method == "kitty":
            return _kitty(image.pil(), width, height)
        if method == "sixel":
            return _sixel(image.pil(), width, height)
        if method == "blocks":
            return _blocks(image.pil(), width, height)
    except (ConfigurationError, OSError):  # no Pillow, or no picture
        return b""
    return b""


def _iterm2(image: Image, columns: int, rows: int) -> bytes:
    size = f"inline=1;size={len(image.content)};width={columns};height={rows};preserveAspectRatio=1"
    return b"\x1b]1337;File=" + size.encode() + b":" + base64.b64encode(image.content) + b"\a"


def _kitty(picture: PIL.Image.Image, columns: int, rows: int) -> bytes:
    picture = picture.convert("RGB")
    data = base64.b64encode(zlib.compress(picture.tobytes(), 1))
    chunks = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    # The same image id each time: the terminal forgets the one before. C=1: the cursor stays.
    head = f"a=T,f=24,o=z,s={picture.width},v={picture.height},i=1,p=1,c={columns},r={rows},C=1,q=2,".encode()
    parts = []
    for number, chunk in enumerate(chunks):
        more = b"m=1" if number < len(chunks) - 1 else b"m=0"
        parts.append(b"\x1b_G" + (b"" if number else head) + more + b";" + chunk + b"\x1b\\")
    return b"".join(parts)


def _sixel(picture: PIL.Image.Image, columns: int, rows: int) -> bytes:
    picture = picture.convert("RGB").resize((columns * CELL[0], rows * CELL[1])).quantize(_SIXEL_COLORS)
    width, height = picture.size
    palette = picture.getpalette() or []
    parts = [b'\x1bPq"1;1;%d;%d' % (width, height)]
    for color in range(len(palette) // 3):
        red, green, blue = (value * 100 // 255 for value in palette[3 * color : 3 * color + 3])
        parts.append(b"#%d;2;%d;%d;%d" % (color, red, green, blue))
    pixels = picture.tobytes()
    for top in range(0, height, 6):
        bands: dict[int, bytearray] = {}
        for bit in range(min(6, height - top)):
            start = (top + bit) * width
            for x, color in enumerate(pixels[start : start + width]):
                if color not in bands:
                    bands[color] = bytearray(b"?" * width)
                bands[color][x] += 1 << bit
        lines = (b"#%d" % color + _repeats(bytes(band)) for color, band in bands.items())
        parts.append(b"$".join(lines) + b"-")
    return b"".join(parts) + b"\x1b\\"


def _repeats(line: bytes) -> bytes:
    return re.sub(rb"(.)\1{3,}", lambda found: b"!%d" % len(found[0]) + found[1], line)


def _blocks(picture: PIL.Image.Image, columns: int, rows: int) -> bytes:
    """Two pixels a cell, as far as the terminal has colors."""
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, legacy_windows=False)
    if console.color_system is None or console.no_color:
        return b""
    pixels = picture.convert("RGB").resize((columns, 2 * rows)).tobytes()
    stride = 3 * columns
    segments = []
    for row in range(rows):
        upper = pixels[2 * row * stride : (2 * row + 1) * stride]
        lower = pixels[(2 * row + 1) * stride : (2 * row + 2) * stride]
        for x in range(0, stride, 3):
            style = Style(color=Color.from_rgb(*upper[x : x + 3]), bgcolor=Color.from_rgb(*lower[x : x + 3]))
            segments.append(Segment("\u2580", style))
        segments.append(Segment.line())
    with console.capture() as captured:
        console.print(Segments(segments), end="")
    return captured.get().rstrip("\n").encode()
