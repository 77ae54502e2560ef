"""The reference at /docs in a real browser: a call that is tried there shows its pictures as they are."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.playground.conftest import Watcher
from tests.service import KEY

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(("size", "ratio"), [("landscape_16_9", 16 / 9), ("portrait_16_9", 9 / 16)])
@pytest.mark.parametrize("width", [1280, 400], ids=["desktop", "telephone"])
def test_pictures_keep_their_proportions(
    page: Page, origin: str, watched: Watcher, size: str, ratio: float, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{origin}/docs")
    page.select_option("#endpoint", "fal-ai/fast-lcm-diffusion")
    page.fill("#key", KEY)
    page.select_option("[name=image_size]", size)
    page.fill("[name=num_inference_steps]", "1")
    page.click("#run")
    page.wait_for_function("() => [...document.images].some((image) => image.complete && image.naturalWidth)")
    shown, natural = page.evaluate(
        "() => { const [i] = document.images; return [i.width / i.height, i.naturalWidth / i.naturalHeight] }"
    )
    assert natural == pytest.approx(ratio, rel=0.02)
    assert shown == pytest.approx(natural, rel=0.02)
