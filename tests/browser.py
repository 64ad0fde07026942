"""A real browser that visits the pages and minds what goes wrong on the way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

#: axe-core, which is loaded into the page beside the pages' own policy.
_AXE = Path(__file__).parent / "vendor" / "axe.min.js"
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
_WIDE, _NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Visitor:
    """Opens pages of one service; every page is held to what `page` and `looks_well` say."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        # Without motion: a colour on its way from light to dark has no contrast to speak of.
        self.context: BrowserContext = browser.new_context(
            base_url=url, viewport=_WIDE, reduced_motion="reduce"
        )

    @contextmanager
    def page(self, path: str) -> Iterator[Page]:
        """A page for as long as the block; no console error, no request off the host meanwhile."""
        page, wrong = self.context.new_page(), []
        host = urlsplit(self.url).netloc

        def sent(request: Any) -> None:
            if urlsplit(request.url).netloc != host:
                wrong.append(f"a request to {request.url}")

        def said(message: Any) -> None:
            # A refused form is answered by a page with its status, which the browser logs as well.
            refused = "Failed to load resource" in message.text
            if message.type in {"error", "warning"} and not refused:
                wrong.append(f"{message.type}: {message.text}")

        page.on("request", sent)
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path)
        yield page
        page.close()
        assert not wrong, wrong

    def looks_well(self, page: Page, name: str) -> None:
        """Light, dark and narrow: axe finds nothing serious, and nothing is wider than the screen.

        With PAGES_SHOTS set, screenshots go to that folder.
        """
        for look in ("light", "dark", "narrow"):
            page.emulate_media(color_scheme="dark" if look == "dark" else "light")
            page.set_viewport_size(_NARROW if look == "narrow" else _WIDE)  # type: ignore[arg-type]
            page.evaluate(_AXE.read_text())
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            grave = [
                (v["id"], v["help"], [node["target"] for node in v["nodes"]][:3])
                for v in found["violations"]
                if v["impact"] in {"serious", "critical"}
            ]
            assert not grave, f"{name}, {look}: {grave}"
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{name}, {look}: {over} pixels too wide"
            shots = os.environ.get("PAGES_SHOTS")
            if shots:
                page.screenshot(path=f"{shots}/{name}-{look}.png", full_page=True)
        page.set_viewport_size(_WIDE)  # type: ignore[arg-type]
        page.emulate_media(color_scheme="light")


@contextmanager
def visitor(url: str) -> Iterator[Visitor]:
    """A browser of the machine's own (Debian's chromium), for as long as the block."""
    path = shutil.which("chromium")
    if path is None:
        assert not os.environ.get("CI"), "chromium is missing, which .ci/run installs"
        pytest.skip("there is no chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield Visitor(browser, url)
        browser.close()
