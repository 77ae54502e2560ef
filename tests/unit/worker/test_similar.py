"""How much two pictures differ: the measure that the contract states."""

from __future__ import annotations

import numpy as np
import pytest

from flashbulb_server.worker.similar import SIDE, difference, thumbnail


def grey(level: int, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    return np.full((*size, 3), level, dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (31, 200), (64, 64), (96, 64), (1000, 7)])
def test_a_thumbnail_is_32_by_32_bytes_whatever_the_size(size: tuple[int, int]) -> None:
    assert thumbnail(grey(77, size)) == bytes([77]) * SIDE * SIDE


@pytest.mark.parametrize(("colour", "luma"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)])
def test_luma_is_that_of_bt_601(colour: tuple[int, int, int], luma: int) -> None:
    assert set(thumbnail(np.tile(np.uint8(colour), (40, 40, 1)))) == {luma}


@pytest.mark.parametrize(("one", "other", "expected"), [(0, 0, 0.0), (0, 255, 1.0), (255, 0, 1.0), (100, 151, 0.2)])
def test_the_difference_is_the_mean_of_the_absolute_ones(one: int, other: int, expected: float) -> None:
    assert difference(thumbnail(grey(one)), thumbnail(grey(other))) == pytest.approx(expected)


def test_a_change_counts_by_its_area() -> None:
    changed = grey(0, (64, 64))
    changed[:16, :16] = 255  # a sixteenth
    assert difference(thumbnail(grey(0, (64, 64))), thumbnail(changed)) == pytest.approx(1 / 16)


def test_noise_of_a_camera_hardly_counts_and_a_moving_thing_does() -> None:
    chance = np.random.default_rng(0)
    scene = chance.integers(40, 200, (512, 512, 3)).astype(np.int16)
    noisy = [(scene + chance.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(2)]
    moved = noisy[1].copy()
    moved[100:250, 100:250] = 230
    assert difference(thumbnail(noisy[0]), thumbnail(noisy[1])) < 0.003
    assert difference(thumbnail(noisy[0]), thumbnail(moved)) > 0.02


def test_what_is_no_thumbnail_differs() -> None:
    assert difference(thumbnail(grey(0)), b"123") == 1.0
