"""The page in headless Chromium: for eyes, keyboards and screen readers, on narrow screens and on paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import browser, needs_chromium, opened, violations, wrongly_cut
from tests.evaluators.example_runs import made_run
from tests.evaluators.report.sweeps import DENSE, Report, worse

__all__ = ["browser"]
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(360, "light"), (1280, "dark"), pytest.param(1280, "light", marks=pytest.mark.nightly)],
)
def test_axe_finds_nothing_and_the_page_does_not_scroll_sideways(address: str, width: int, scheme: str) -> None:
    with opened(address, width, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert violations(page) == []
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_what_scrolls_sideways_looks_cut_until_its_end(address: str, width: int) -> None:
    with opened(address, width) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert [wrongly_cut(page, at) for at in (0, 0.2, 1)] == [[], [], []]
        scrolls = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
        assert page.evaluate(scrolls) >= (3 if width == 360 else 0)


def test_the_page_is_read_without_scripts(address: str) -> None:
    with opened(address, scripts=False) as page:
        assert page.locator("h1").inner_text() == "What sparse attention costs acme/small"
        page.locator("summary").first.click()
        assert page.locator("details[open] table").first.is_visible()


@pytest.mark.nightly
def test_names_of_others_do_not_run_and_do_not_stretch_the_page(tmp_path: Path, report: Report) -> None:
    hostile = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">" + "W" * 5000
    made_run(tmp_path / "runs" / "dense", DENSE, model=hostile, text=hostile)
    made_run(tmp_path / "runs" / "quest", worse(1.0, 2), model=hostile, attention="quest", sparsity=0.5, text=hostile)
    path = tmp_path / "report.html"
    path.write_text(report(tmp_path / "runs", title=hostile), encoding="utf-8")
    with opened(path.as_uri(), 360) as page:
        assert page.title() != "taken"
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert violations(page) == []


def test_the_keyboard_reaches_what_scrolls_and_skips_to_the_report(address: str) -> None:
    with opened(address, 360) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
        page.keyboard.press("Enter")
        scrolls = "[...document.querySelectorAll('.scroll')].filter(one => one.checkVisibility())"
        wanted = page.evaluate(f"{scrolls}.length")
        assert wanted >= 3
        reached = set()
        for _ in range(80):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(f"{scrolls}.indexOf(document.activeElement)"))
        assert reached - {-1} == set(range(wanted))
        page.evaluate(f"{scrolls}.find(one => one.scrollWidth > one.clientWidth).focus()")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_on_paper_folded_tables_are_open_and_nothing_is_cut_at_the_side(address: str) -> None:
    with opened(address, 720) as page:
        page.emulate_media(media="print")
        hidden = "[...document.querySelectorAll('table')].filter(one => one.getBoundingClientRect().height < 20).length"
        assert page.evaluate(hidden) == 0
        wide = "filter(one => one.getBoundingClientRect().right > 721).map(one => one.textContent.slice(0, 60))"
        assert page.evaluate(f"[...document.querySelectorAll('table, svg, figure')].{wide}") == []
        printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 3


@pytest.mark.nightly
def test_forced_colours_leave_the_numbers_readable(address: str) -> None:
    with opened(address, forced_colors="active") as page:
        cell = page.locator("td.h").first
        assert cell.is_visible()
        assert cell.inner_text().strip()
