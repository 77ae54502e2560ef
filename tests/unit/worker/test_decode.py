"""Files to pixels: upright, with the colours that a viewer shows, and never more of them than allowed."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from flashbulb_server.core.framing import Frame
from flashbulb_server.core.sources import BadSource
from flashbulb_server.worker.decode import colours, levels, read


def whole(width: int, height: int) -> Frame:
    return Frame((width, height), (width, height), (0, 0, width, height))


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quarters(width=40, height=20) -> Image.Image:
    """Red, green over blue, white."""
    image = Image.new("RGB", (width, height), "red")
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), fill="lime")
    draw.rectangle((0, height // 2, width // 2 - 1, height), fill="blue")
    draw.rectangle((width // 2, height // 2, width, height), fill="white")
    return image


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """Top left, top right, bottom left, bottom right, a little inside."""
    return [tuple(int(v) for v in pixels[y, x]) for y in (3, -4) for x in (3, -4)]


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
def test_known_formats(kind, options):
    found = colours(read(file_of(quarters(), kind, **options)), whole(40, 20))
    assert found.shape == (20, 40, 3) and found.dtype == np.uint8
    for seen, meant in zip(corners(found), [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], strict=True):
        assert np.abs(np.subtract(seen, meant)).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_held_any_way_gives_an_upright_picture(orientation):
    turns = [None, 0, 3, 1, 5, 2, 6, 4]  # the opposite of what a viewer does: how the sensor saw it
    stored = quarters() if turns[orientation - 1] is None else quarters().transpose(turns[orientation - 1])
    if orientation in (6, 8):  # a quarter turn is undone by the other one
        stored = quarters().transpose(Image.Transpose.ROTATE_90 if orientation == 6 else Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read(file_of(stored, exif=exif))
    assert image.size == (40, 20)
    assert corners(colours(image, whole(40, 20))) == corners(np.asarray(quarters()))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("notes", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_notes_beside_a_good_picture(notes):
    assert read(file_of(quarters(), "JPEG", exif=notes)).size == (40, 20)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 0x80FF, dtype=np.uint16)), (128, 128, 128)),
        (Image.new("RGB", (8, 8), (1, 2, 3)).quantize(4), (1, 2, 3)),
    ],
    ids=["clear", "half clear", "clear grey", "grey", "black and white", "16 bits", "palette"],
)
def test_modes(image, colour):
    assert corners(colours(read(file_of(image)), whole(8, 8))) == [colour] * 4


def test_four_inks():
    found = colours(read(file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")), whole(8, 8))
    assert np.abs(np.subtract(found[0, 0], (255, 0, 0))).max() <= 8


def test_a_picture_at_the_drawn_size_is_not_touched():
    noise = np.random.default_rng(1).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(colours(read(file_of(Image.fromarray(noise))), whole(40, 20)), noise)


def test_only_the_used_part_is_taken():
    part = Frame((10, 10), (10, 10), (20, 10, 40, 20))
    assert (colours(quarters(), part)[1:-1, 1:-1] >= 254).all()


def test_a_mask_of_another_size_covers_the_same_part():
    mask = Image.new("L", (400, 100))
    ImageDraw.Draw(mask).rectangle((200, 0, 400, 100), fill=255)
    found = levels(mask, whole(40, 20), (40, 20))
    assert found.shape == (20, 40)
    assert (found[:, :18] <= 1).all() and (found[:, 22:] >= 254).all()
    right = levels(mask, Frame((20, 20), (20, 20), (20, 0, 40, 20)), (40, 20))
    assert (right[:, 2:] >= 254).all()


def test_what_is_clear_in_a_mask_is_kept():
    assert (levels(Image.new("RGBA", (8, 8), (255, 255, 255, 0)), whole(8, 8), (8, 8)) == 0).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size", [(7072, 7072), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1), (50_000_001, 1)]
)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(size):
    with pytest.raises(BadSource, match="50 megapixels"):
        read(bomb(*size))


def test_a_jpeg_that_is_drawn_over_and_over_is_refused():
    data = file_of(quarters(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert read(data[:-2] + 20 * data[last:-2] + data[-2:]).size == (40, 20)
    with pytest.raises(BadSource, match="more than 100 scans"):
        read(data[:-2] + 200 * data[last:-2] + data[-2:])


def broken(kind: str) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return file_of(Image.fromarray(noise), kind)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        broken("PNG")[:2000],
        broken("JPEG")[:1500],
        broken("WEBP")[:1500],
        broken("PNG")[:3000] + b"\0" * 50 + broken("PNG")[3050:],
        broken("GIF"),
        broken("BMP"),
        broken("TIFF"),
        bomb(0, 4),
        bomb(3000, 3000),
    ],
    ids=[
        "empty",
        "text",
        "svg",
        "pdf",
        "png cut",
        "jpeg cut",
        "webp cut",
        "png damaged",
        "gif",
        "bmp",
        "tiff",
        "nothing",
        "short",
    ],
)
def test_what_is_no_whole_picture(data):
    with pytest.raises(BadSource, match=r"is no whole picture of a known format \(JPEG, PNG, WEBP\)"):
        read(data)


@settings(max_examples=150, deadline=None, database=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 2000), st.binary(min_size=1, max_size=30))
def test_damage_is_an_error_or_a_picture_and_nothing_else(kind, place, damage):
    data = bytearray(broken(kind))
    data[place : place + len(damage)] = damage
    try:
        image = read(bytes(data))
    except BadSource:
        return
    assert colours(image, whole(*image.size)).shape == (*image.size[::-1], 3)
