"""Files of pictures: exactly the asked size, the whole thing visible, its background carried on."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flashbulb_server.worker.encode import encode, fit, preview


def disc(background=(255, 255, 255), size=128):
    """A red disc in the middle of a square."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    picture = np.full((size, size, 3), background, dtype=np.uint8)
    picture[x**2 + y**2 < (size * 0.4) ** 2] = (255, 0, 0)
    return picture


def opened(content):
    image = Image.open(BytesIO(content))
    image.load()
    return image


@pytest.mark.parametrize("format_", ["jpeg", "png"])
@pytest.mark.parametrize(
    "size", [(128, 128), (1024, 1024), (1024, 576), (576, 1024), (300, 7), (1, 1), (1, 500), (127, 129)]
)
def test_the_file_has_the_asked_size(format_, size):
    image = opened(encode(disc(), width=size[0], height=size[1], format=format_))
    assert image.size == size
    assert image.format == format_.upper()
    assert image.mode == "RGB"


def test_png_at_the_drawn_size_loses_nothing():
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(opened(encode(picture, width=96, height=64, format="png"))), picture)


def test_jpeg_is_close():
    picture = disc()
    back = np.asarray(opened(encode(picture, width=128, height=128, format="jpeg"))).astype(float)
    assert np.abs(back - picture).mean() < 2


@pytest.mark.parametrize("size", [(320, 180), (180, 320)])
@pytest.mark.parametrize("background", [(255, 255, 255), (250, 220, 80)])
def test_another_shape_shows_the_whole_thing_on_its_background(size, background):
    wide = np.asarray(fit(Image.fromarray(disc(background)), *size)).astype(int)
    red = (wide[..., 0] > 240) & (wide[..., 1] < 60) & (wide[..., 2] < 60)
    rows, columns = np.nonzero(red)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(height - width) <= 2, "it is not stretched"
    assert abs(width - 0.8 * min(size)) <= 3, "it is not cut"
    for corner in (wide[0, 0], wide[-1, -1], wide[0, -1], wide[-1, 0]):
        assert np.abs(corner - background).max() <= 2


def test_background_fades_without_a_seam():
    ramp = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[:, None, None], 128, axis=1).repeat(3, axis=2)
    wide = np.asarray(fit(Image.fromarray(ramp), 256, 128)).astype(int)
    assert np.abs(np.diff(wide, axis=1)).max() <= 3


def test_a_preview_is_a_small_jpeg():
    image = opened(preview(disc()[:32, :16]))
    assert image.format == "JPEG"
    assert image.size == (64, 128)


@pytest.mark.parametrize("size", [(1024, 577), (1023, 576), (300, 169)])
def test_a_picture_of_nearly_the_shape_is_stretched_by_less_than_a_pixel_of_its_own(size):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (72, 128, 3), dtype=np.uint8))
    np.testing.assert_array_equal(
        np.asarray(fit(picture, *size)), np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    )
