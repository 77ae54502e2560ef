"""The page in a real Chromium, against a real service."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.service import KEY, RunningService

FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here drives a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser of this machine. For one module: while it is open its event loop runs in this thread, where other tests need theirs."""
    path = os.environ.get("CHROMIUM_BIN") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium, or set CHROMIUM_BIN")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, which containers run tests as.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *FAKE_CAMERA])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose api may be killed: it comes back."""
    running = RunningService(tmp_path_factory.mktemp("page-service"))
    running.start()
    yield running
    assert running.stop() == 0


class Watcher:
    """What a page did behind the user's back. `expected`: parts of console errors that a test provokes."""

    def __init__(self, page: Page, origin: str) -> None:
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.expected: list[str] = []
        self._origin = origin
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self._origin, self._origin.replace("http", "ws"), "data:", "blob:")):
            self.foreign.append(request.url)

    def verify(self) -> None:
        """Fails if there was an error that the test did not expect, or a request to another origin."""
        assert [e for e in self.errors if not any(part in e for part in self.expected)] == []
        assert self.foreign == []


@pytest.fixture
def origin(page_service: RunningService) -> str:
    """Address of the page."""
    return f"http://{page_service.http_address}"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without memory, on a desktop."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 860}, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """An empty tab."""
    return context.new_page()


@pytest.fixture
def watched(page: Page, origin: str) -> Iterator[Watcher]:
    """Watches the tab to the end of the test."""
    watcher = Watcher(page, origin)
    yield watcher
    watcher.verify()


@pytest.fixture
def live(page: Page, origin: str, watched: Watcher) -> Page:
    """The page, opened with a key and connected."""
    page.goto(f"{origin}/#key={KEY}")
    page.wait_for_selector("#status[data-state=open]")
    return page
