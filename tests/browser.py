"""Headless Chromium for tests of pages; they skip where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["CHROMIUM", "needs_chromium", "opened", "violations"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@contextmanager
def opened(address: str, width: int = 1280, *, scripts: bool = True, **context: Any) -> Iterator[Page]:
    """A page in a browser window of a width in pixels; requests to other hosts and errors of scripts fail the test.

    Args:
        address: ``file://`` or ``http://localhost``.
        width: Of the window.
        scripts: Whether JavaScript runs.
        context: More of playwright's ``new_context``, such as ``forced_colors``.
    """
    from playwright.sync_api import sync_playwright

    went_wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=scripts, **context
        ).new_page()
        page.on("pageerror", lambda error: went_wrong.append(f"script: {error}"))
        page.on("request", lambda request: None if _here(request.url) else went_wrong.append(f"asks {request.url}"))
        page.goto(address)
        yield page
        browser.close()
    assert not went_wrong, went_wrong


def _here(url: str) -> bool:
    return url.startswith(("file://", "data:", "blob:", "about:", "http://localhost", "http://127.0.0.1"))


def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page, a line each: the rule, how bad, and the first place."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}" for one in found]
