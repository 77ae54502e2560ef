"""Pictures to files: resampling to the asked size, JPEG and PNG. Runs in worker threads; what is small, and previews, on the device thread."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

from PIL import Image

from flashbulb_server.core.pipeline import Pixels

JPEG_QUALITY = 95
PNG_COMPRESS_LEVEL = 1
"""Level 1 takes half the time of the default, for files about a tenth larger."""

PREVIEW_SIDE = 128
PREVIEW_QUALITY = 70


def encode(picture: Pixels, *, width: int, height: int, format: Literal["jpeg", "png"]) -> bytes:  # the field's name
    """The file of a picture at exactly `width` x `height` pixels."""
    image = fit(Image.fromarray(picture), width, height)
    file = BytesIO()
    if format == "png":
        image.save(file, "PNG", compress_level=PNG_COMPRESS_LEVEL)
    else:
        image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def preview(picture: Pixels) -> bytes:
    """A small JPEG, its longer side 128 pixels."""
    image = Image.fromarray(picture)
    scale = PREVIEW_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    file = BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=PREVIEW_QUALITY)
    return file.getvalue()


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The whole image at exactly `width` x `height`: resampled to fit, its background carried on to the sides where the shape differs
    by more than a pixel of the image.

    Only pictures of a model that draws one square need it: cropping would cut the drawn thing, stretching would distort it. Models that
    draw at the asked size come here with that size.
    """
    if abs(image.width * height - image.height * width) <= max(width, height):
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
    scale = min(width / image.width, height / image.height)
    inner = (max(1, min(width, round(image.width * scale))), max(1, min(height, round(image.height * scale))))
    picture = image if inner == image.size else image.resize(inner, Image.Resampling.LANCZOS)
    if inner == (width, height):
        return picture
    if inner[1] < height:  # bars above and below: the same on the turned picture
        turned = _widen(picture.transpose(Image.Transpose.TRANSPOSE), height)
        return turned.transpose(Image.Transpose.TRANSPOSE)
    return _widen(picture, width)


def _widen(picture: Image.Image, width: int) -> Image.Image:
    """The picture in the middle of `width` pixels. Its outermost columns go on to both sides, and fade into their own mean colours."""
    canvas = Image.new("RGB", (width, picture.height))
    left = (width - picture.width) // 2
    for at, size, x in ((0, left, 0), (picture.width - 1, width - left - picture.width, left + picture.width)):
        near = picture.crop((at, 0, at + 1, picture.height))
        far = near.resize((1, 2), Image.Resampling.BOX).resize(near.size, Image.Resampling.BICUBIC)
        bar = Image.new("RGB", (2, picture.height))
        bar.paste(far, (0 if at == 0 else 1, 0))
        bar.paste(near, (1 if at == 0 else 0, 0))
        if size:
            canvas.paste(bar.resize((size, picture.height), Image.Resampling.BILINEAR), (x, 0))
    canvas.paste(picture, (left, 0))
    return canvas
