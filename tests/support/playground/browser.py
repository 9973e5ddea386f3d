"""Debian's Chromium, and a page of it that notes what must not happen."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

ARGUMENTS = (
    "--no-sandbox",  # tests run as root
    # Whatever a page asks of another host comes to nothing.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 390, "height": 844}

PATIENCE_MS = 120_000


def chromium() -> str:
    """The Chromium that the tools step found or installed."""
    found = Path(sys.prefix) / "tools" / "bin" / "chromium"
    path = str(found) if found.exists() else shutil.which("chromium")
    assert path is not None, "no chromium: run `make .venv/tools/.ready`"
    return path


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser without a window. Its driver is Playwright's, the browser is Debian's."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=[*ARGUMENTS])
        yield started
        started.close()


class Watch:
    """What a context has asked, and what its pages have complained about."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self._origin = origin
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _heard(self, message: Any) -> None:
        # A status that is not 2xx is a line in the console; tests of refusals look at the page.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def check(self, tolerated: str | None = None) -> None:
        """Raise AssertionError if a request went to another host, or a page had an error: an
        exception, or something that the Content-Security-Policy did not allow. Errors with the text
        `tolerated` are what the test is about."""
        inside = (f"{self._origin}/", "data:", "blob:")
        assert [url for url in self.asked if not url.startswith(inside)] == []
        assert [one for one in self.complaints if not tolerated or tolerated not in one] == []


@contextmanager
def context(
    started: Browser, origin: str, tolerated: str | None = None, **options: Any
) -> Iterator[Page]:
    """A page of its own, at no address yet. At the end it is checked as `Watch` does."""
    merged: dict[str, Any] = {"viewport": WIDE, "base_url": origin, **options}
    made = started.new_context(**merged)
    # A real model answers, on cores that others may be using.
    made.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    watch = Watch(made, origin)
    try:
        yield made.new_page()
        watch.check(tolerated)
    finally:
        made.close()
