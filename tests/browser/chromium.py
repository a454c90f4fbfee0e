"""A real Chromium for the tests, and what they ask of its pages."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.programs import lacking

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
SERIOUS = ("serious", "critical")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
WAIT_MS = 15_000
expect.set_options(timeout=WAIT_MS)


def require_chromium() -> str:
    """Its program; skips the test, or fails it where HUB_TEST_REQUIRE names chromium."""
    for name in PROGRAMS:
        if (program := shutil.which(name)) is not None:
            return program
    lacking("chromium", "there is no Chromium for the tests; get it by: apt-get install chromium")


def require_axe() -> str:
    """The script of axe-core, likewise."""
    if not AXE.exists():
        lacking("chromium", "axe-core is not there for the tests; get it by: npm ci --prefix tests/browser")
    return AXE.read_text()


@contextlib.contextmanager
def running_chromium() -> Iterator[Browser]:
    program = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGS))
        try:
            yield browser
        finally:
            browser.close()


class Faults:
    """What a page should never do: complain, break, or ask anybody but the hub."""

    def __init__(self, page: Page, url: str) -> None:
        self.seen: list[str] = []
        self._url = url
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.seen.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self._url, self._url.replace("http", "ws", 1), "data:", "blob:")):
            self.seen.append(f"asked {request.url}")


@contextlib.contextmanager
def new_page(
    browser: Browser, url: str, *, viewport: dict[str, int] | None = None, scheme: str = "light"
) -> Iterator[tuple[Page, Faults]]:
    """A window of its own, without cookies. `url` is the hub's."""
    options: Any = {"viewport": viewport or DESKTOP, "color_scheme": scheme, "base_url": url}
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    try:
        page = context.new_page()
        yield page, Faults(page, url)
    finally:
        context.close()


def serious_faults(page: Page, within: str = "") -> list[str]:
    """What axe-core finds that keeps somebody from using the page, or the part of it a selector names."""
    page.evaluate(require_axe())
    found = page.evaluate("within => axe.run(within || document, {resultTypes: ['violations']})", within)
    return [
        f"{it['id']}: {node['html'][:200]}, {node['failureSummary'][:300]}"
        for it in found["violations"]
        if it["impact"] in SERIOUS
        for node in it["nodes"]
    ]


def is_too_wide(page: Page) -> bool:
    """Whether the page has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


class Shots:
    """Pictures of pages, kept in HUB_TEST_SHOTS or the test's own folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.environ.get("HUB_TEST_SHOTS") or folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def take(self, page: Page, name: str) -> None:
        page.screenshot(path=self._folder / f"{name}.png", full_page=True)
