"""Files to pixels: pictures that callers gave, which may be anything. Runs in worker threads, never on the device thread."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from flashbulb_server.core.framing import Frame
from flashbulb_server.core.pipeline import Levels, Pixels
from flashbulb_server.core.sources import BadSource

MAX_PIXELS = 50_000_000
MAX_SCANS = 100
"""Passes over the picture in a progressive JPEG; usual are ten. Each costs time for every pixel, and may be a few bytes long."""

FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture upright, by its EXIF orientation (CIPA DC-008, 4.6.5.1.6)."""


def read(data: bytes, *, most: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file, upright, in whatever mode it has; the first one of an animation. Raises BadSource.

    `most`: pixels that it may have, less than MAX_PIXELS where pictures before it have taken their part of them.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > most:  # before a pixel is unpacked
            allowed = f"at most {MAX_PIXELS // 1_000_000} megapixels are allowed"
            raise BadSource(f"is {width} x {height}, {allowed}{'' if most == MAX_PIXELS else ' all together'}")
        if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
            raise BadSource(f"has more than {MAX_SCANS} scans")
        image.load()
        return _upright(image)
    except BadSource:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise BadSource(f"is too large, at most {MAX_PIXELS // 1_000_000} megapixels are allowed") from err
    except Exception as err:  # decoders raise anything at all on bytes that were made up
        raise BadSource(f"is no whole picture of a known format ({', '.join(FORMATS)})") from err


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # broken notes beside a good picture
        turn = None
    return image if turn is None else image.transpose(turn)


def colours(image: Image.Image, frame: Frame) -> Pixels:
    """The used part of a picture, (H, W, 3), at the size that is drawn. What is transparent becomes white."""
    return np.asarray(_taken(_over(image, 255), frame.drawn, frame.box))


def whole(image: Image.Image) -> Pixels:
    """All of a picture, (H, W, 3), at its own size. What is transparent becomes white."""
    return np.asarray(_over(image, 255))


def levels(mask: Image.Image, frame: Frame, size: tuple[int, int]) -> Levels:
    """The used part of a mask, (H, W), at the size that is drawn. `size` is that of its picture. What is transparent becomes black."""
    across, down = mask.width / size[0], mask.height / size[1]
    left, top, right, bottom = frame.box
    box = (left * across, top * down, min(right * across, mask.width), min(bottom * down, mask.height))
    return np.asarray(_taken(_over(mask, 0).convert("L"), frame.drawn, box))


def _taken(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    if size == image.size and box == (0, 0, *size):
        return image
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def _over(image: Image.Image, ground: int) -> Image.Image:
    """The picture as RGB over a ground of one grey."""
    if image.mode.startswith("I"):  # 16 bits a level, which Pillow would cut off at 255
        deep = np.asarray(image).astype(np.int64)
        return Image.fromarray((deep.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        canvas = Image.new("RGBA", clear.size, (ground, ground, ground, 255))
        return Image.alpha_composite(canvas, clear).convert("RGB")
    return image.convert("RGB")
