"""Headless Chromium by Playwright: a page that reaches this machine only, and remembers every complaint.

Chromium is installed by the package manager where it is missing, as `stores` does for Redis. Knows no page of ours.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from integration.support.controls import Controls
from integration.support.packages import install

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever the browser wants for itself, no other host has an address.
    "--host-resolver-rules=MAP * ~NOTFOUND, " + ", ".join(f"EXCLUDE {host}" for host in LOOPBACK),
)
PATIENCE = 45_000
"""Milliseconds that a page may take for anything."""
expect.set_options(timeout=PATIENCE)


def installed() -> str:
    """The path of the browser; empty when it is not there."""
    return next(filter(None, map(shutil.which, PROGRAMS)), "")


def missing() -> str:
    """Why there is no browser here; empty when it is there, or could be installed."""
    return install(PACKAGE, lambda: bool(installed()))


def started() -> Iterator[Browser]:
    """For the fixture: a browser; without one the test is skipped, on CI it fails.

    A loop of Playwright's runs in this thread until the browser ends, so the fixture lasts for a module: no test of
    another module that calls `asyncio.run` may find it.
    """
    if why := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=installed(), args=list(OPTIONS), timeout=4 * PATIENCE
        )
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page (`tab.page` is Playwright's), with what went wrong on it."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.complaints: list[str] = []
        """Console errors and warnings, uncaught exceptions, failed requests, and answers of 400 and more."""
        self.outside: list[str] = []
        """What the page wanted from another host, and did not get."""
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure))
        page.on("response", lambda answer: self._answered(answer.status, answer.url))

    def open(self, path: str) -> Page:
        """Load a page of the base URL; returns when it is loaded."""
        self.page.goto(self.base + path)
        return self.page

    def text(self, selector: str = "body") -> str:
        """What a reader sees there, with every run of white space as one space."""
        return " ".join(self.page.locator(selector).first.inner_text().split())

    def screenshot(self, path: Path | str) -> None:
        self.page.screenshot(path=str(path), full_page=True)

    def assert_quiet(self) -> None:
        """Nothing failed since the last time, and nothing was wanted from outside."""
        complaints, self.complaints = self.complaints, []
        assert not complaints, f"{self.page.url}: {complaints}"
        assert not self.outside, f"{self.page.url} wants {self.outside}"

    def route(self, route: Route) -> None:
        url = route.request.url
        if url.startswith(("data:", "blob:")) or _host(url) in LOOPBACK:
            route.continue_()
            return
        self.outside.append(url)
        route.abort("blockedbyclient")

    def _said(self, kind: str, text: str) -> None:
        # Chromium repeats a failed request there, without its address; `_failed` and `_answered` have it.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(f"console: {text}")

    def _failed(self, url: str, why: str | None) -> None:
        # A request that the page itself gave up (it was left, or asks anew) is nobody's failure.
        if url not in self.outside and why != "net::ERR_ABORTED":
            self.complaints.append(f"failed: {url}: {why}")

    def _answered(self, status: int, url: str) -> None:
        if status >= 400:
            self.complaints.append(f"{status}: {url}")


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2].rsplit(":", 1)[0]


@contextmanager
def tab(
    browser: Browser,
    base: str,
    *,
    size: tuple[int, int] = (1280, 900),
    scheme: Literal["dark", "light"] = "light",
    controls: Controls | None = None,
    **options: Any,
) -> Iterator[Tab]:
    """A page of its own, without another's cookies. `controls` notes what it shows and what of it is used; `options`
    are those of Playwright's `new_context`.
    """
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", **options
    )
    context.set_default_timeout(PATIENCE)
    if controls is not None:
        controls.watch(context)
    try:
        made = Tab(context.new_page(), base)
        context.route("**/*", made.route)
        yield made
    finally:
        context.close()
