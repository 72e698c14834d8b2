"""Headless Chromium for tests of pages; they skip where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["CHROMIUM", "browser", "needs_chromium", "opened", "violations", "wrongly_cut"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_running: list[Browser] = []
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module", autouse=True)
def browser() -> Iterator[None]:
    """A browser for all tests of the module that imports this."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        _running.append(playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]))
        yield
        _running.pop().close()


@contextmanager
def opened(address: str, width: int = 1280, *, scripts: bool = True, **context: Any) -> Iterator[Page]:
    """A page in a browser window of a width in pixels; requests to other hosts and errors of scripts fail the test.

    Args:
        address: ``file://`` or ``http://localhost``.
        width: Of the window.
        scripts: Whether JavaScript runs.
        context: More of playwright's ``new_context``, such as ``forced_colors``.
    """
    went_wrong: list[str] = []
    with _running[-1].new_context(
        viewport={"width": width, "height": 900}, java_script_enabled=scripts, **context
    ) as window:
        page = window.new_page()
        page.on("pageerror", lambda error: went_wrong.append(f"script: {error}"))
        page.on("request", lambda request: None if _here(request.url) else went_wrong.append(f"asks {request.url}"))
        page.goto(address)
        yield page
    assert not went_wrong, went_wrong


def _here(url: str) -> bool:
    return url.startswith(("file://", "data:", "blob:", "about:", "http://localhost", "http://127.0.0.1"))


def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page, a line each: the rule, how bad, and the first place."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}" for one in found]


_CUT = """[...document.querySelectorAll('.scroll')].filter(one => one.checkVisibility()).map(one => {
    one.scrollLeft = at * one.scrollWidth;
    const cut = /([0-9.]+)px\\)$/.exec(getComputedStyle(one).maskImage);
    const more = one.scrollWidth - one.clientWidth - Math.ceil(one.scrollLeft);
    return [one.textContent.trim().slice(0, 40), more, cut ? Number(cut[1]) : -1];
})"""


def wrongly_cut(page: Page, at: float = 0.0) -> list[str]:
    """What scrolls sideways and does not fade at its right edge, or fades though nothing more is there.

    Args:
        page: The page.
        at: Where all of it is scrolled to, from 0 to 1.
    """
    page.evaluate(f"at => {_CUT}", at)
    page.wait_for_timeout(100)  # scroll-driven animations follow with the next frame
    found = page.evaluate(f"at => {_CUT}", at)
    assert found
    return [f"{name}: {more} px more, fades over {cut} px" for name, more, cut in found if (more > 0) != (cut > 0)]
