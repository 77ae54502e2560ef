"""The page as people use it: type, queue, drop, lose the server, without a mouse, on a phone."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

import pytest
from google.protobuf import json_format
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from flashbulb.v1 import generation_pb2
from tests.playground.conftest import Watcher
from tests.service import KEY, RunningService

PROMPTS = (
    "a red apple",
    "a blue car",
    "a green tree",
    "a yellow banana",
    "a cat",
    "a house",
    "a strawberry",
    "a rocket",
)


def picture_changes(page: Page, act: object) -> float:
    """Seconds from an act of the user to another picture on the page."""
    before = page.get_attribute("#picture", "src") or ""
    started = time.monotonic()
    act()  # type: ignore[operator]
    page.wait_for_function(
        "before => document.querySelector('#picture').src !== before && document.querySelector('#picture').complete",
        arg=before,
    )
    return time.monotonic() - started


def shows(page: Page, width: int, height: int) -> None:
    """Waits for a picture of that size."""
    page.wait_for_function(
        "([w, h]) => { const p = document.querySelector('#picture'); return p.naturalWidth === w && p.naturalHeight === h; }",
        arg=[width, height],
    )


def shown_picture(page: Page) -> Image.Image:
    """The picture on the stage."""
    source = page.get_attribute("#picture", "src")
    assert source is not None and source.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")


def red_apple_bytes() -> bytes:
    """A PNG to start from: a red disc on white."""
    picture = Image.new("RGB", (96, 96), "white")
    for x in range(96):
        for y in range(96):
            if (x - 48) ** 2 + (y - 48) ** 2 < 34**2:
                picture.putpixel((x, y), (200, 20, 30))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_typing_draws_in_time(live: Page) -> None:
    """A picture follows within 1.5 s at the median, and it is of what was typed."""
    live.fill("#seed", "7")
    taken = [picture_changes(live, lambda p=prompt: live.fill("#prompt", p)) for prompt in PROMPTS]
    assert statistics.median(taken) < 1.5
    picture_changes(live, lambda: live.fill("#prompt", "a red apple"))
    picture = shown_picture(live)
    assert picture.size == (512, 512)
    red, green, blue = picture.resize((1, 1), box=(192, 192, 320, 320)).getpixel((0, 0))
    assert red > green + 40 and red > blue + 40
    assert "seed 7" in live.inner_text("#facts")


def test_every_control_draws_anew(live: Page) -> None:
    """Size, steps, guidance and seed change the picture that is asked for."""
    picture_changes(live, lambda: live.fill("#prompt", "a red apple"))
    live.select_option("#size", "256")
    shows(live, 256, 256)
    picture_changes(live, lambda: live.click("#roll"))
    picture_changes(live, lambda: live.fill("#steps", "2"))
    live.select_option("#size", "landscape_16_9")
    shows(live, 1024, 576)
    frame = live.locator("#frame").bounding_box()
    assert frame is not None and abs(frame["width"] / frame["height"] - 16 / 9) < 0.05
    live.select_option("#size", "custom")
    live.fill("#width", "320")
    live.fill("#height", "160")
    shows(live, 320, 160)


def test_a_size_stays_where_the_next_model_does_not_offer_it(page: Page, origin: str, watched: Watcher) -> None:
    """It is not lost: the page shows it as a custom one, and the server says what is too large."""

    def with_a_smaller_model(route: Route) -> None:
        catalog = route.fetch().json()
        for endpoint in catalog["endpoints"]:
            endpoint["models"].append({**endpoint["models"][0], "name": "smaller", "max_image_pixels": 256 * 256})
        route.fulfill(json=catalog)

    page.route("**/playground/catalog.json", with_a_smaller_model)
    page.goto(f"{origin}/#key={KEY}")
    for chosen, width, height in (("landscape_16_9", "1024", "576"), ("512", "512", "512")):
        page.select_option("#model", index=0)
        page.select_option("#size", chosen)
        page.select_option("#model", "smaller")
        expect(page.locator("#size")).to_have_value("custom")
        expect(page.locator("#width")).to_have_value(width)
        expect(page.locator("#height")).to_have_value(height)
        expect(page.locator("#custom-size")).to_be_visible()
    page.select_option("#size", "128")
    page.select_option("#model", index=0)
    expect(page.locator("#size")).to_have_value("128")


def test_the_stand_in_is_noted(live: Page) -> None:
    expect(live.locator("#stand-in")).to_have_text(
        "flashbulb/tiny also answers for stabilityai/stable-diffusion-xl-base-1.0 and runwayml/stable-diffusion-v1-5, "
        "which are not installed here, as a stand-in. Results say which model drew."
    )


def test_without_a_stand_in_nothing_is_noted(page: Page, origin: str, watched: Watcher) -> None:
    def with_its_own_models(route: Route) -> None:
        catalog = route.fetch().json()
        for endpoint in catalog["endpoints"]:
            endpoint["models"] = [{**model, "stands_in_for": []} for model in endpoint["models"]]
        route.fulfill(json=catalog)

    page.route("**/playground/catalog.json", with_its_own_models)
    page.goto(f"{origin}/#key={KEY}")
    page.wait_for_selector("#status[data-state=open]")
    expect(page.locator("#stand-in")).to_be_hidden()


def test_bad_values_are_told_and_mended(live: Page) -> None:
    """The server's words about a bad field are shown; the session goes on."""
    picture_changes(live, lambda: live.fill("#prompt", "a red apple"))
    live.select_option("#size", "custom")
    live.fill("#width", "99999")
    expect(live.locator("#problem")).to_contain_text("width")
    live.fill("#width", "256")
    live.fill("#height", "256")
    expect(live.locator("#problem")).to_be_hidden()
    picture_changes(live, lambda: live.fill("#prompt", "a blue car"))


def test_a_job_is_watched_to_its_end(live: Page) -> None:
    """Jobs show their place, their steps and their picture; one that waits can be cancelled."""
    picture_changes(live, lambda: live.fill("#prompt", "a green tree"))
    live.fill("#steps", "32")
    for _ in range(12):
        live.click("#enqueue")
        expect(live.locator("#enqueue")).to_be_enabled(timeout=20_000)
    live.locator(".job", has_text="ahead").first.wait_for()
    live.locator(".job progress[value]:not([value='0'])").first.wait_for()
    live.locator(".job[data-state=running] img").first.wait_for()
    live.locator(".job").first.get_by_role("button", name="Cancel").click()
    expect(live.locator(".job[data-state=over]")).to_have_count(1, timeout=30_000)
    expect(live.locator(".job[data-state=done]")).to_have_count(11, timeout=90_000)
    job = live.locator(".job[data-state=done]").last
    assert (job.locator("img").get_attribute("src") or "").startswith("data:image/jpeg;base64,")
    job.get_by_role("button", name="Show").click()
    expect(live.locator("#facts")).to_contain_text("from the queue")


def test_jobs_outlive_a_reload(live: Page) -> None:
    """A reloaded page follows the jobs of its tab."""
    live.fill("#prompt", "a house")
    live.click("#enqueue")
    live.locator(".job").wait_for()
    live.reload()
    expect(live.locator(".job[data-state=done]")).to_have_count(1)


def test_a_dropped_picture_is_drawn_over(live: Page) -> None:
    """Dropping a file turns to image-to-image; removing it turns back."""
    picture_changes(live, lambda: live.fill("#prompt", "a red apple"))
    transfer = live.evaluate_handle(
        """bytes => { const t = new DataTransfer(); t.items.add(new File([new Uint8Array(bytes)], 'disc.png', {type: 'image/png'})); return t; }""",
        list(red_apple_bytes()),
    )
    picture_changes(live, lambda: live.dispatch_event("#frame", "drop", {"dataTransfer": transfer}))
    assert live.is_visible("#source-image") and live.is_visible("#strength")
    picture_changes(live, lambda: live.fill("#strength", "0.3"))
    red, green, blue = shown_picture(live).resize((1, 1), box=(192, 192, 320, 320)).getpixel((0, 0))
    assert red > green + 40 and red > blue + 40
    live.click("#copy-code")
    expect(live.locator("#code")).to_contain_text("fast-lcm-diffusion/image-to-image")
    live.keyboard.press("Escape")
    picture_changes(live, lambda: live.click("#clear-source"))
    assert not live.is_visible("#strength")


def test_what_is_no_picture_is_told(live: Page) -> None:
    """A dropped text is refused in words."""
    transfer = live.evaluate_handle(
        "() => { const t = new DataTransfer(); t.items.add(new File(['hello'], 'a.txt', {type: 'text/plain'})); return t; }"
    )
    live.dispatch_event("#frame", "drop", {"dataTransfer": transfer})
    expect(live.locator("#problem")).to_contain_text("a.txt is no picture")


def test_the_webcam_is_followed(live: Page) -> None:
    """With the webcam on, pictures keep changing by themselves; off, it is let go."""
    live.fill("#prompt", "a red apple")
    live.click("#webcam")
    expect(live.locator("#webcam")).to_have_attribute("aria-pressed", "true")
    for _ in range(3):
        picture_changes(live, lambda: None)
    live.click("#webcam")
    expect(live.locator("#webcam-view")).to_be_hidden()
    assert live.evaluate("document.querySelector('#webcam-view').srcObject") is None


def test_a_lost_server_comes_back(live: Page, page_service: RunningService, watched: Watcher) -> None:
    """The page says that the server is away, and goes on by itself when it is back; a job is followed on."""
    watched.expected += [
        "ERR_CONNECTION",
        "WebSocket connection",
        "Failed to load resource",
        "ERR_INCOMPLETE",
        "ERR_EMPTY",
    ]
    picture_changes(live, lambda: live.fill("#prompt", "a red apple"))
    live.fill("#steps", "32")
    live.click("#enqueue")
    live.locator(".job").wait_for()
    page_service.kill_child("api")
    live.wait_for_selector("#status[data-state=lost]")
    live.wait_for_selector("#status[data-state=open]", timeout=40_000)
    picture_changes(live, lambda: live.fill("#prompt", "a blue car"))
    expect(live.locator(".job[data-state=done]")).to_have_count(1, timeout=40_000)


def test_without_a_mouse(live: Page) -> None:
    """The prompt has the focus at once; everything is reached by Tab, and dialogs close by Escape."""
    assert live.evaluate("document.activeElement.id") == "prompt"
    picture_changes(live, lambda: live.keyboard.type("a red apple"))
    seed = live.input_value("#seed")
    picture_changes(live, lambda: live.keyboard.press("Alt+r"))
    assert live.input_value("#seed") != seed
    live.keyboard.press("Control+Enter")
    expect(live.locator(".job[data-state=done]")).to_have_count(1)
    reached = []
    for _ in range(20):
        live.keyboard.press("Tab")
        reached.append(live.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "copy-code":
            break
    assert {"size", "steps", "guidance", "seed", "roll", "file", "webcam", "enqueue", "copy-code"} <= set(reached)
    outline = live.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    live.keyboard.press("Enter")
    expect(live.locator("#code-dialog")).to_be_visible()
    live.focus("#tab-python")
    live.keyboard.press("ArrowRight")
    expect(live.locator("#tab-typescript")).to_have_attribute("aria-selected", "true")
    live.keyboard.press("Escape")
    expect(live.locator("#code-dialog")).to_be_hidden()
    live.keyboard.press("/")
    assert live.evaluate("document.activeElement.id") == "prompt"


def test_history_brings_back(live: Page) -> None:
    """A picture that was paused on can be chosen again, with its prompt and seed."""
    live.fill("#seed", "11")
    picture_changes(live, lambda: live.fill("#prompt", "a red apple"))
    live.locator("#history button").wait_for()
    live.fill("#seed", "12")
    picture_changes(live, lambda: live.fill("#prompt", "a blue car"))
    live.get_by_role("button", name="Bring back: a red apple, seed 11").click()
    assert (live.input_value("#prompt"), live.input_value("#seed")) == ("a red apple", "11")


def test_a_key_is_asked_for(page: Page, origin: str, watched: Watcher) -> None:
    """Without a key the page asks; a wrong one is told; the right one opens. It is not left in the address."""
    watched.expected.append("401")
    page.goto(origin)
    expect(page.locator("#key-dialog")).to_be_visible()
    page.fill("#key", "tester:wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_be_visible()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#status[data-state=open]")
    assert KEY not in page.url
    assert page.evaluate("localStorage.length") == 0


def code_of(page: Page, language: str) -> str:
    """The text under a tab of the code dialog."""
    page.click("#copy-code")
    page.click(f"#tab-{language}")
    page.click("#code-copy")
    expect(page.locator("#code-copied")).to_have_text("Copied.")
    text: str = page.evaluate("navigator.clipboard.readText()")
    page.click("#code-close")
    return text


@pytest.fixture
def composed(live: Page) -> Page:
    """A picture with a quotation mark in its prompt."""
    live.fill("#seed", "7")
    live.select_option("#size", "128")
    picture_changes(live, lambda: live.fill("#prompt", 'a red apple, the painter\'s "best"'))
    return live


def test_copied_curl_runs(composed: Page) -> None:
    """The command draws the picture."""
    done = subprocess.run(
        ["bash", "-c", code_of(composed, "curl").replace("curl ", "curl -sS ", 1)],
        env={"PATH": os.environ["PATH"], "FLASHBULB_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["seed"] == 7 and answer["images"][0]["width"] == 128


def test_copied_python_runs(composed: Page, page_service: RunningService, tmp_path: object) -> None:
    """The program draws the picture and saves it."""
    environment = {"PATH": os.environ["PATH"], "FLASHBULB_KEY": KEY, "FLASHBULB_HOST": page_service.address}
    subprocess.run(
        [sys.executable, "-c", code_of(composed, "python")], env=environment, cwd=str(tmp_path), timeout=60, check=True
    )
    with Image.open(f"{tmp_path}/picture.jpeg") as picture:
        assert picture.size == (128, 128)


def test_copied_grpcurl_is_the_contract(composed: Page, page_service: RunningService) -> None:
    """The message is one of the contract, and the address is the server's."""
    words = shlex.split(code_of(composed, "grpcurl").replace("\\\n", " "))
    request = json_format.Parse(words[words.index("-d") + 1], generation_pb2.GenerateRequest())
    fields = request.input.fast_lcm_text_to_image
    assert (fields.seed, fields.image_size.dimensions.width) == (7, 128)
    assert fields.prompt == 'a red apple, the painter\'s "best"'
    assert words[-2:] == [page_service.address, "flashbulb.v1.GenerationService/Generate"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 860), (390, 844)], ids=["desktop", "phone"])
def test_accessible_everywhere(browser: Browser, origin: str, scheme: str, width: int, height: int) -> None:
    """axe finds nothing, on either kind of screen, in either theme, dialogs included; nothing overflows sideways."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    try:
        page.goto(f"{origin}/#key={KEY}")
        page.wait_for_selector("#status[data-state=open]")
        picture_changes(page, lambda: page.fill("#prompt", "a red apple"))
        page.click("#enqueue")
        page.locator(".job[data-state=done]").wait_for()
        page.locator("#history button").wait_for()
        found = [Axe().run(page)]
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.click("#copy-code")
        found.append(Axe().run(page))
        page.keyboard.press("Escape")
        page.click("#open-key")
        found.append(Axe().run(page))
        assert [violation["id"] for results in found for violation in results.response["violations"]] == []
    finally:
        context.close()


def test_theme_is_kept(live: Page) -> None:
    """The chosen theme outlives a reload."""
    live.click("#theme")
    chosen = live.evaluate("document.documentElement.dataset.theme")
    live.reload()
    live.wait_for_selector("#status[data-state=open]")
    assert live.evaluate("document.documentElement.dataset.theme") == chosen


def test_nothing_foreign_may_run(page: Page, origin: str) -> None:
    """The page's policy lets nothing in from elsewhere, and nobody frame it."""
    answer = page.goto(origin)
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
