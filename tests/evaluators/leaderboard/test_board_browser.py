"""The board in a browser: filters, sorting, narrow screens, readers of screens, and no scripts at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sparse_tasks.evaluators.leaderboard.board import build
from tests.browser import browser, needs_chromium, opened, violations, wrongly_cut
from tests.evaluators.leaderboard.boards import accepted

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["browser"]
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    return build(accepted(folder / "accepted"), folder / "site").site


@pytest.fixture(scope="module")
def index(site: Path) -> str:
    return (site / "index.html").as_uri()


@pytest.fixture
def page(index: str) -> Iterator[Page]:
    with opened(index) as page:
        yield page


def names(page: Page, table: int = 0) -> list[str]:
    return page.locator("table").nth(table).locator("tbody tr:visible > th").all_text_contents()


def methods(page: Page, table: int = 0) -> list[str]:
    return page.locator("table").nth(table).locator("tbody tr:visible > td:nth-child(3)").all_text_contents()


def scores(page: Page, column: int) -> list[float]:
    found = page.locator("table").nth(0).locator(f"tbody tr:visible > td:nth-child({column}) b").all_text_contents()
    return [float(text) for text in found]


def shown(page: Page, text: str) -> None:
    """Wait until the live region says so."""
    page.locator("[role=status]").filter(has_text=text).wait_for()


def head(page: Page, column: int, table: int = 0) -> tuple[str, str | None]:
    """The text of a column's head, and how it says that it is sorted."""
    found = page.locator("table").nth(table).locator(f"thead th:nth-child({column})")
    return str(found.text_content()), found.get_attribute("aria-sort")


def test_words_filter_by_submission_model_and_method(page: Page) -> None:
    page.get_by_label("Submission, model or method").fill("QUEST alpha")
    shown(page, "1 of 10 runs shown")
    assert names(page) == ["Alpha"]
    assert methods(page) == ["quest"]
    assert not page.locator("section").nth(1).is_visible()  # a table without a row


def test_choices_filter_and_clear_brings_all_back(page: Page) -> None:
    page.get_by_label("Model", exact=True).select_option("acme/large")
    shown(page, "2 of 10 runs shown")
    assert set(names(page)) == {"Beta <i>& co</i>"}
    page.get_by_label("Method", exact=True).select_option("quest")
    shown(page, "1 of 10 runs shown")
    page.get_by_role("button", name="Clear").click()
    shown(page, "10 of 10 runs shown")
    assert page.get_by_label("Model", exact=True).input_value() == ""


@pytest.mark.parametrize(
    ("phase", "count", "found"),
    [
        ("sparse prefill", 2, {"vertical_slash"}),
        ("sparse decoding", 4, {"quest", "quest (tokens=512)"}),
        ("dense", 4, {"dense"}),
    ],
)
def test_phases_filter_by_measured_sparsity(page: Page, phase: str, count: int, found: set[str]) -> None:
    page.get_by_label("Phase").select_option(phase)
    shown(page, f"{count} of 10 runs shown")
    assert set(methods(page)) == found


def test_a_length_shows_its_columns_alone(page: Page) -> None:
    chosen = page.get_by_label("Length")
    assert chosen.locator("option").all_text_contents() == ["any", "4k", "16k", "64k"]
    chosen.select_option("64k")
    shown(page, "8 of 10 runs shown")
    heads = page.locator("table").nth(0).locator("thead th:visible").all_text_contents()
    assert heads == ["Submission", "Model", "Method", "Target", "Prefill", "Decode", "64k", "64k vs dense"]
    assert page.locator("table").nth(0).locator("tbody tr").first.locator(":scope > :visible").count() == 8


def test_a_column_sorts_both_ways_and_says_so(page: Page) -> None:
    button = page.locator("table").nth(0).get_by_role("button", name="16k", exact=True)
    assert head(page, 7)[1] is None
    button.click()
    assert head(page, 7) == ("16k", "descending")
    assert scores(page, 7) == sorted(scores(page, 7), reverse=True)
    button.focus()
    page.keyboard.press("Enter")
    assert head(page, 7)[1] == "ascending"
    assert scores(page, 7) == sorted(scores(page, 7))
    page.locator("table").nth(0).get_by_role("button", name="Method").click()
    assert head(page, 7)[1] is None
    assert head(page, 3)[1] == "ascending"
    assert methods(page) == sorted(methods(page))
    assert head(page, 7, table=1)[1] is None  # the other table stays as it is


def test_differences_sort_as_numbers_and_missing_ones_come_last(page: Page) -> None:
    button = page.locator("table").nth(0).get_by_role("button", name="64k vs dense")
    for turn in ("down", "up"):
        button.click()
        texts = page.locator("table").nth(0).locator("tbody tr > td:nth-child(10)").all_text_contents()
        found = [float(text.split()[2].replace("−", "-")) for text in texts if "dense" not in text]
        assert found == sorted(found, reverse=turn == "down")
        assert len(found) == 4
        assert not [text for text in texts[:4] if "dense" in text]


def test_a_view_is_kept_in_the_address(page: Page, index: str) -> None:
    page.get_by_label("Method", exact=True).select_option("quest")
    page.locator("table").nth(0).get_by_role("button", name="Target").click()
    page.wait_for_url(re.compile("#method=quest&sort1=-4$"))
    shown(page, "3 of 10 runs shown")
    before = names(page)
    page.reload()
    shown(page, "3 of 10 runs shown")
    assert page.get_by_label("Method", exact=True).input_value() == "quest"
    assert head(page, 4)[1] == "descending"
    assert names(page) == before


def test_an_address_that_makes_no_sense_does_no_harm(page: Page, index: str) -> None:
    for view in ("sort1=99", "sort1=x&model=none", "length=%3Cb%3E", "q=%F0%9F", "phase=__proto__", "=", "&"):
        page.goto(f"{index}#{view}")
        page.reload()
        page.get_by_label("Submission, model or method").fill("alpha")
        shown(page, "3 of 10 runs shown")
        page.get_by_label("Submission, model or method").fill("")
        shown(page, "10 of 10 runs shown")


def test_reads_whole_without_scripts(index: str) -> None:
    with opened(index, scripts=False) as page:
        assert len(names(page)) == 8
        assert not page.locator("form").is_visible()
        assert page.locator("thead button").count() == 0
        page.locator("tbody a", has_text="Alpha").first.click()
        assert page.locator("h1").text_content() == "Alpha"
        assert page.locator("svg[role=img]").count() == 6


def pages(site: Path) -> dict[str, str]:
    return {
        "index": (site / "index.html").as_uri(),
        "submission": next((site / "submissions").glob("alpha-*.html")).as_uri(),
    }


def test_only_tables_scroll_sideways(site: Path) -> None:
    wider = []
    with opened("about:blank") as page:
        for name, address in pages(site).items():
            page.goto(address)
            for width in (320, 700, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    wider.append((name, width))
    assert not wider


@pytest.mark.parametrize(
    ("name", "width"),
    [
        *(("index", 360), ("submission", 1280)),
        *(
            pytest.param(name, width, marks=pytest.mark.nightly)
            for name, width in (("index", 1280), ("submission", 360))
        ),
    ],
)
def test_axe_finds_nothing(site: Path, name: str, width: int) -> None:
    with opened(pages(site)[name], width) as page:
        assert violations(page) == []
        page.emulate_media(color_scheme="dark")
        assert violations(page) == []


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("scripts", [True, False])
def test_what_scrolls_sideways_looks_cut_until_its_end(site: Path, width: int, scripts: bool) -> None:
    for address in pages(site).values():
        with opened(address, width, scripts=scripts) as page:
            assert [wrongly_cut(page, at) for at in (0, 0.2, 1)] == [[], [], []]


def test_a_rank_says_among_how_many_and_is_not_broken(index: str) -> None:
    for width in (360, 1280):
        with opened(index, width) as page:
            ranks = page.locator("span.rank")
            assert ranks.count() > 10
            assert all(re.fullmatch(r"#\d+(–\d+)? of \d+", text) for text in ranks.all_text_contents())
            assert ranks.evaluate_all("ranks => Math.max(...ranks.map(one => one.getClientRects().length))") == 1


def test_narrow_screens_show_rows_as_cards_with_names_of_columns(index: str) -> None:
    with opened(index, 360) as page:
        row = page.locator("tbody tr").nth(3)
        labels = row.locator("td").evaluate_all("cells => cells.map(c => getComputedStyle(c, '::before').content)")
        names = ["Model", "Method", "Target", "Prefill", "Decode", "16k", "vs dense", "64k", "vs dense"]
        assert labels == [f'"{name}"' for name in names]
        assert row.bounding_box()["width"] <= 360  # type: ignore[index]
        page.locator("table").nth(0).get_by_role("button", name="64k", exact=True).click()
        assert head(page, 9)[1] == "descending"
        page.get_by_label("Length").select_option("16k")
        shown(page, "8 of 10 runs shown")
        assert row.locator("td:visible").count() == 7


def test_a_table_can_be_reached_and_scrolled_with_the_keyboard(site: Path) -> None:
    with opened(pages(site)["submission"], 360) as page:
        region = page.get_by_role("region").nth(1)
        region.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)
        assert page.evaluate("document.activeElement.scrollLeft") > 0
        assert region.get_attribute("aria-labelledby") == "run-1"


def test_scripts_of_strangers_do_not_run_even_if_they_got_in(page: Page) -> None:
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None


def test_target_sparsity_filters(page: Page) -> None:
    chosen = page.get_by_label("Target sparsity")
    assert chosen.locator("option").all_text_contents() == ["any", "0", "0.5", "0.9", "0.95"]
    chosen.select_option("0.95")
    shown(page, "2 of 10 runs shown")
    assert set(methods(page)) == {"vertical_slash"}


def test_printed_pages_have_no_controls(page: Page) -> None:
    page.emulate_media(media="print")
    assert not page.locator("form").is_visible()
    assert page.locator("tbody tr").first.is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"
