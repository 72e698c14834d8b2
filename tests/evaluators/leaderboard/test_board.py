"""The board: its pages are right, let nothing of a submission through, and never lose a file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import DataError, OutputError, UsageError
from sparse_tasks.evaluators.costs import index_flops, prefill_flops
from sparse_tasks.evaluators.exports.parts import json_bytes
from sparse_tasks.evaluators.leaderboard import board
from sparse_tasks.evaluators.leaderboard.board import MARKER, build
from sparse_tasks.evaluators.leaderboard.pages import shown, slug
from sparse_tasks.evaluators.leaderboard.standings import verdict
from sparse_tasks.evaluators.records import ComparedAverage, DifferenceInterval
from tests.evaluators.conftest import Refused
from tests.evaluators.example_runs import LLAMA_8B
from tests.evaluators.leaderboard.boards import TASKS, accepted, submitted
from tests.evaluators.leaderboard.handed_in import changed, put

SPARSE: Any = {"attention": "quest", "sparsity": 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Accepted submissions; read-only."""
    return accepted(tmp_path_factory.mktemp("accepted"))


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board of them; read-only."""
    built = build(folder, tmp_path_factory.mktemp("board") / "site")
    assert (built.submissions, built.runs) == (5, 10)
    assert built.bytes == (built.site / "index.html").stat().st_size
    return built.site


class Page(HTMLParser):
    """Tags with their attributes, and for each table its rows as texts of cells."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._in_cell = False
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("tr", "table"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    def rows(self, table: int = 0) -> list[list[str]]:
        """The body of a table, spaces made one."""
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[table][1:]]


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_data_set_has_a_table_of_its_own(site: Path) -> None:
    page = Page(site / "index.html")
    assert [len(rows) - 1 for rows in page.tables] == [8, 2]
    assert page.text.count("made aaaaaaaaaaaa") == 1
    assert page.text.count("made eeeeeeeeeeee") == 1
    assert "20 samples a task and length of 2 tasks: ruler_vt, story_filtering." in page.text
    assert page.tables[0][0][6:] == ["16k", "16k vs dense", "64k", "64k vs dense"]
    assert [cell.strip() for cell in page.tables[1][0][6:]] == ["4k", "4k vs dense"]


def test_rows_say_model_method_sparsity_score_and_interval(site: Path) -> None:
    rows = Page(site / "index.html").rows()
    quest = next(row for row in rows if row[0] == "Alpha" and row[2] == "quest")
    assert quest[1:6] == ["acme/small", "quest", "0.9", "0", "0.900"]
    result = json.loads((site / "board.json").read_bytes())["tables"][0]
    of_it = next(row for row in result["rows"] if row["submission"] == "Alpha" and row["attention"] == "quest")
    score = of_it["scores"][0]
    assert quest[6] == f"{score['mean']:.3f} #1–5 of 6 {score['low']:.3f}–{score['high']:.3f}"
    assert score["rank"] == {"first": 1, "last": 5, "of": 6}
    assert score["mean"] == 0.75
    assert score["low"] < 0.75 < score["high"]


def test_verdicts_are_words_by_the_paired_interval(site: Path) -> None:
    rows = Page(site / "index.html").rows()
    said = {(row[0], row[2]): row[7].split(" ")[:2] for row in rows}
    assert said["Alpha", "quest"] == ["≈", "tie"]
    assert said["Alpha", "vertical_slash"] == ["▼", "worse"]
    assert said["Alpha", "dense"] == ["dense"]
    assert said["Delta", "quest (tokens=512)"] == ["no", "dense"]
    worse = next(row for row in rows if row[7].startswith("▼"))
    assert re.fullmatch(r"▼ worse −0\.450 −0\.\d{3} to −0\.\d{3}", worse[7])


def test_models_stand_together_the_best_first(site: Path) -> None:
    rows = Page(site / "index.html").rows()
    models = [row[1] for row in rows]
    assert models == sorted(models)
    of_small = [float(row[8].split()[0]) for row in rows if row[1] == "acme/small"]
    assert of_small == sorted(of_small, reverse=True)


def test_runs_of_fewer_samples_or_tasks_are_not_ranked_with_others(tmp_path: Path) -> None:
    submitted(tmp_path / "in" / "a.json", "All", [SPARSE])
    submitted(tmp_path / "in" / "b.json", "One task", [SPARSE], tasks=("ruler_vt",))
    build(tmp_path / "in", tmp_path / "site")
    tables = json.loads((tmp_path / "site" / "board.json").read_bytes())["tables"]
    assert sorted(table["tasks"] for table in tables) == [["ruler_vt"], ["ruler_vt", "story_filtering"]]
    assert {row["scores"][0]["rank"]["of"] for table in tables for row in table["rows"]} == {2}


def test_what_a_model_cannot_do_is_in_no_score_difference_or_rank(tmp_path: Path) -> None:
    worse = {**SPARSE, "loses": 10}
    submitted(tmp_path / "in" / "a.json", "Half", [worse], hopeless=["story_filtering"])
    submitted(tmp_path / "in" / "b.json", "None", [worse], model="acme/tiny", hopeless=TASKS)
    build(tmp_path / "in", tmp_path / "site")
    rows = Page(tmp_path / "site" / "index.html").rows()
    half, none = ([row for row in rows if row[0] == name] for name in ("Half", "None"))
    assert [row[6].split(" ", 1)[0] for row in half] == ["0.750", "0.250"]
    assert all(row[6].endswith("without story_filtering: unable") for row in half)
    assert half[1][7].startswith("▼ worse −0.500")
    assert [row[6:8] for row in none] == [["0 0–0.114", "unable"]] * 2
    data = json.loads((tmp_path / "site" / "board.json").read_bytes())["tables"][0]["rows"]
    scores = {(row["submission"], row["attention"]): row["scores"][0] for row in data}
    assert scores["Half", "quest"]["unable"] == ["story_filtering"]
    assert (scores["Half", "quest"]["n"], scores["Half", "quest"]["rank"]["first"]) == (20, 2)
    assert (scores["None", "quest"]["rank"], scores["None", "quest"]["against_dense"]) == (None, None)
    page = Page(page_of(tmp_path / "site", "half"))
    assert [row[0] for row in page.rows(2)][1:4] == ["ruler_vt", "story_filtering unable", "mean of tasks"]
    assert [row[4:6] for row in page.rows(2)][2] == ["unable", "–"]
    assert "▼ worse −0.500" in page.rows(2)[3][4]


def test_a_model_that_can_in_one_dense_run_can_in_all(tmp_path: Path) -> None:
    submitted(tmp_path / "in" / "a.json", "Able", [SPARSE])
    submitted(tmp_path / "in" / "b.json", "Broken", [SPARSE], right=0)
    build(tmp_path / "in", tmp_path / "site")
    (table,) = json.loads((tmp_path / "site" / "board.json").read_bytes())["tables"]
    assert {score["rank"]["of"] for row in table["rows"] for score in row["scores"]} == {4}
    assert not any(score["unable"] for row in table["rows"] for score in row["scores"])


def test_means_outside_of_their_intervals_end_in_one_line(tmp_path: Path) -> None:
    path = submitted(tmp_path / "in" / "a.json", "Odd", [SPARSE], hopeless=["story_filtering"])
    edit = put(1.0, "runs", 0, "result", "configs", 0, "low")
    path.write_bytes(changed(path.read_bytes(), edit))
    with pytest.raises(DataError, match="leaderboard check"):
        build(tmp_path / "in", tmp_path / "site")


def test_a_missing_length_is_a_dash(tmp_path: Path) -> None:
    submitted(tmp_path / "in" / "a.json", "Both", [SPARSE])
    submitted(tmp_path / "in" / "b.json", "Short", [SPARSE], lengths=(16384,))
    build(tmp_path / "in", tmp_path / "site")
    rows = Page(tmp_path / "site" / "index.html").rows()
    assert [row[8:] for row in rows if row[0] == "Short"] == [["–", "–"], ["–", "–"]]
    assert all(row[8] != "–" for row in rows if row[0] == "Both")


def test_a_board_without_submissions_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert build(tmp_path / "in", tmp_path / "site").runs == 0
    page = Page(tmp_path / "site" / "index.html")
    assert "No submission has been accepted yet." in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "tie"), (0.0, 0.2, "tie")]
)
def test_a_difference_is_a_tie_if_its_interval_contains_zero(low: float, high: float, word: str) -> None:
    interval = DifferenceInterval(low=low, high=high, method="mover")
    assert verdict(ComparedAverage(length=1, tasks=1, n=1, mean_a=0, mean_b=0, difference=0, interval=interval)) == word


def page_of(site: Path, start: str) -> Path:
    return next((site / "submissions").glob(f"{start}-*.html"))


def test_a_submission_has_a_linked_page(site: Path) -> None:
    links = {attrs["href"] for tag, attrs in Page(site / "index.html").tags if tag == "a" and "#run-" in attrs["href"]}
    assert len(links) == 10
    for link in links:
        path, _, anchor = (link or "").partition("#")
        assert f'id="{anchor}"' in (site / path).read_text(encoding="utf-8")
    assert {Path(str(link).partition("#")[0]).name for link in links} == {
        path.name for path in (site / "submissions").iterdir()
    }


def test_data_sets_that_are_described_need_no_name(honest: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_bytes(honest)
    build(tmp_path / "in", tmp_path / "site")
    [page] = (tmp_path / "site" / "submissions").glob("*.html")
    text = Page(page).text
    assert "sparse-tasks leaderboard check a.json" in text
    assert "--data" not in text


def test_it_has_contact_content_and_check_command(site: Path, folder: Path) -> None:
    page = Page(page_of(site, "alpha"))
    sha256 = hashlib.sha256((folder / "a.json").read_bytes()).hexdigest()
    assert sha256 in page.text
    assert page_of(site, "alpha").stem == f"alpha-{sha256[:8]}"
    assert ("a", {"href": "mailto:team@example.org"}) in page.tags
    assert "sparse-tasks leaderboard check a.json --data made" in page.text
    assert "0.32.0" in page.text  # the engine's version
    assert "2.13.0" in page.text  # torch's


def test_its_tables_hold_every_task_and_length(site: Path) -> None:
    page = Page(page_of(site, "alpha"))
    assert len(page.tables) == 4  # all runs, and one table each
    slash = page.rows(3)
    assert [row[0].partition(";")[0] for row in slash] == [
        *("16k: 16,384 tokens", "ruler_vt", "story_filtering", "mean of tasks"),
        *("64k: 65,536 tokens", "ruler_vt", "story_filtering", "mean of tasks"),
    ]
    assert slash[1][1] == "0.300"
    assert slash[1][3] == "0.750"
    assert slash[1][4].startswith("▼ worse −0.450 −")
    assert float(slash[1][5]) <= 0.05
    assert slash[1][6:] == ["20", "0%", "0%", "0.900", "0", "1.0 MiB"]


def test_it_has_theoretical_savings(site: Path) -> None:
    slash = Page(page_of(site, "alpha")).rows(3)
    for row, length in ((slash[0], 16384), (slash[4], 65536)):
        looking = index_flops(Attention.parse("vertical_slash", sparsity=0.95), LLAMA_8B, length)
        assert looking
        times = prefill_flops(LLAMA_8B, length) / (prefill_flops(LLAMA_8B, length, 0.1) + looking)
        assert row[0].endswith(f"; in theory {times:.2f}× in prefill, 1.00× in decoding")
    assert "in theory" not in " ".join(row[0] for row in Page(page_of(site, "alpha")).rows(1))


@pytest.mark.parametrize("size", [1, 2**40])
def test_an_impossible_shape_breaks_nothing(size: int, tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        for run in document["runs"]:
            for name in run["settings"]["model"]["shape"]:
                run["settings"]["model"]["shape"][name] = True if name == "tied_embeddings" else size

    hostile(tmp_path / "in" / "a.json", edit)
    assert build(tmp_path / "in", tmp_path / "site").runs == 2


def test_its_charts_are_drawn_and_described(site: Path) -> None:
    text = page_of(site, "alpha").read_text(encoding="utf-8")
    charts = re.findall(r'<svg viewBox="0 0 300 [^>]*role="img" aria-label="([^"]*)">(.*?)</svg>', text, re.DOTALL)
    assert [label for label, _ in charts] == 3 * [
        "Scores by task at 16k, in the table below",
        "Scores by task at 64k, in the table below",
    ]
    dots = [re.findall(r'<circle class="pt" cx="([\d.]+)"', chart) for _, chart in charts]
    assert all(len(row) == 3 for row in dots)
    assert {float(x) for x in dots[0]} == {250.5}  # 0.75 between 138 and 288
    assert charts[0][1].count('class="dn"') == 0
    assert charts[2][1].count('class="dn"') == 3


def hostile(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A submission after an edit, its form still right."""
    submitted(path, "Hostile", [SPARSE])
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_bytes(json_bytes(document))
    return path


def test_untrusted_text_is_escaped_everywhere(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"

    def edit(document: dict[str, Any]) -> None:
        document["name"] = document["contact"] = bad
        for run in document["runs"]:
            run["settings"]["model"]["name"] = run["result"]["model"]["name"] = bad
            run["settings"]["dataset"]["name"] = bad
            run["settings"]["engine"]["arguments"] = {bad: bad}
            run["settings"]["environment"]["platform"] = bad
            run["settings"]["attention"]["arguments"] = run["result"]["attention"]["arguments"] = {bad: bad}

    plain = submitted(tmp_path / "plain" / "a.json", "Plain", [SPARSE])
    hostile(tmp_path / "in" / "-<b>x.json", edit)
    build(plain.parent, tmp_path / "plain-site")
    build(tmp_path / "in", tmp_path / "site")
    for name in ("index.html", "submissions/*.html"):
        page = next((tmp_path / "site").glob(name))
        text = page.read_text(encoding="utf-8")
        assert "&lt;script&gt;alert(1)" in text
        plain_tags = {tag for tag, _ in Page(next((tmp_path / "plain-site").glob(name))).tags}
        assert {tag for tag, _ in Page(page).tags} <= plain_tags
        assert not [attrs for _, attrs in Page(page).tags if any(key.startswith("on") for key in attrs)]


@given(st.text())
def test_a_slug_is_safe_whatever_the_name(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(name))
    assert len(slug(name)) <= 40


@given(st.text(), st.integers(1, 50))
def test_shown_texts_have_no_hidden_characters(text: str, most: int) -> None:
    found = shown(text, most)
    assert len(found) <= most
    assert all(c.isprintable() or c in "\u200c\u200d" for c in found)
    assert found == text or not text.isprintable() or len(text) > most


def test_only_a_plain_address_becomes_a_link(tmp_path: Path) -> None:
    contacts = [
        "a@b.de?subject=x",
        "javascript:alert(1)",
        "a@b",
        "a b@c.de",
        "https://example.org",
        "<a@b.de>",
        "a@b.de,c",
    ]
    for number, contact in enumerate(contacts):
        hostile(tmp_path / "in" / f"{number}.json", lambda document, contact=contact: document.update(contact=contact))
    site = build(tmp_path / "in", tmp_path / "site").site
    pages = [Page(path) for path in (site / "submissions").iterdir()]
    assert not [attrs for page in pages for tag, attrs in page.tags if tag == "a" and ":" in (attrs["href"] or "")]
    assert all(any(contact in page.text for page in pages) for contact in contacts)


def test_pages_allow_their_own_script_and_style_only(site: Path) -> None:
    for path in [site / "index.html", *(site / "submissions").iterdir()]:
        text = path.read_text(encoding="utf-8")
        policy = next(
            str(attrs["content"]) for tag, attrs in Page(path).tags if tag == "meta" and "http-equiv" in attrs
        )
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        for kind in ("style", "script"):
            blocks = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
            hashes = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
            assert [f"'sha256-{one}'" for one in hashes] == re.findall(f"{kind}-src ([^;]*);", policy)
        assert not re.search(r' style="|\ssrc=|@import|url\(', text)
        assert "://" not in re.sub(r"mailto:|<title>.*?</title>", "", text)


def test_the_same_submissions_give_the_same_bytes(folder: Path, site: Path, tmp_path: Path) -> None:
    for name in ("e", "c", "a", "d", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.json").write_bytes((folder / f"{name}.json").read_bytes())
    build(tmp_path / "in", tmp_path / "other")
    assert all_files(tmp_path / "other") == all_files(site)


def test_an_older_board_is_replaced_as_a_whole(folder: Path, tmp_path: Path) -> None:
    submitted(tmp_path / "in" / "a.json", "Before", [SPARSE])
    build(tmp_path / "in", tmp_path / "site")
    assert page_of(tmp_path / "site", "before").exists()
    (tmp_path / "in" / "a.json").unlink()
    submitted(tmp_path / "in" / "b.json", "After", [SPARSE])
    build(tmp_path / "in", tmp_path / "site")
    assert [path.name.partition("-")[0] for path in (tmp_path / "site" / "submissions").iterdir()] == ["after"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "site"]


def test_a_folder_that_is_not_a_board_is_unchanged(folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.tex").write_text("all of it")
    with refused(UsageError, "output", tmp_path / "site", "name an empty or a new folder"):
        build(folder, tmp_path / "site")
    (tmp_path / "site" / MARKER).write_text("something else")
    with refused(UsageError, "output", "name an empty or a new folder"):
        build(folder, tmp_path / "site")
    assert (tmp_path / "site" / "thesis.tex").read_text() == "all of it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_files_added_by_a_maintainer_are_not_lost(folder: Path, tmp_path: Path, refused: Refused) -> None:
    build(folder, tmp_path / "site")
    (tmp_path / "site" / "submissions" / "notes.txt").write_text("mine")
    before = all_files(tmp_path / "site")
    with refused(UsageError, "output", "submissions/notes.txt", "move it away"):
        build(folder, tmp_path / "site")
    assert all_files(tmp_path / "site") == before


def test_an_empty_folder_is_taken_and_a_file_is_not(folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    assert build(folder, tmp_path / "empty").submissions == 5
    (tmp_path / "file").write_text("x")
    with refused(UsageError, "output", "name a folder"):
        build(folder, tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with refused(UsageError, "output", "name a folder"):
        build(folder, tmp_path / "link")


@pytest.mark.parametrize("content", [b"{", b"{}", b"\xff", b'{"format": NaN}'])
def test_a_bad_file_is_named_and_nothing_is_written(
    content: bytes, folder: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_bytes((folder / "a.json").read_bytes())
    build(tmp_path / "in", tmp_path / "site")
    before = all_files(tmp_path / "site")
    (tmp_path / "in" / "b\x1b[0m.json").write_bytes(content)
    with refused(DataError, "'b\\x1b[0m.json': "):
        build(tmp_path / "in", tmp_path / "site")
    with refused(DataError, "'b\\x1b[0m.json': "):
        build(tmp_path / "in", tmp_path / "new")
    assert all_files(tmp_path / "site") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "site"]


def test_links_are_not_followed(folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").symlink_to(folder / "a.json")
    with refused(DataError, "'a.json': ", "is a link"):
        build(tmp_path / "in", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_same_submission_twice_is_refused(folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.json", "copy.json"):
        (tmp_path / "in" / name).write_bytes((folder / "a.json").read_bytes())
    with refused(DataError, "'copy.json'", "is the same as 'a.json'"):
        build(tmp_path / "in", tmp_path / "site")


def test_pages_whose_digits_are_the_same_do_not_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_DIGITS", 0)
    for name in "abc":
        submitted(tmp_path / "in" / f"{name}.json", "Same name", [SPARSE], contact=name)
    build(tmp_path / "in", tmp_path / "site")
    assert len(list((tmp_path / "site" / "submissions").iterdir())) == 3


def test_a_site_that_cannot_be_moved_into_place_leaves_the_older_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    build(folder, tmp_path / "site")
    before = all_files(tmp_path / "site")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "site" and self.name != "old":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with refused(OutputError, "cannot write", "No space left"):
        build(folder, tmp_path / "site")
    assert all_files(tmp_path / "site") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_other_files_and_deeper_folders_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "in" / "deeper" / "b.json").write_text("{")
    (tmp_path / "in" / "README.md").write_text("{")
    (tmp_path / "in" / "a.json").write_bytes((folder / "a.json").read_bytes())
    assert build(tmp_path / "in", tmp_path / "site").submissions == 1


def test_a_task_is_a_tie_unless_the_adjusted_p_value_is_small(tmp_path: Path) -> None:
    submitted(tmp_path / "in" / "a.json", "Five less", [{**SPARSE, "loses": 5}])
    build(tmp_path / "in", tmp_path / "site")
    rows = Page(page_of(tmp_path / "site", "five-less")).rows(2)
    assert rows[1][4].startswith("≈ tie −0.250 −")
    assert rows[1][5] == "0.125"


def test_a_run_with_budgets_has_no_target_sparsity(site: Path) -> None:
    rows = Page(site / "index.html").rows()
    assert next(row for row in rows if row[0] == "Delta")[3] == "–"


def test_a_missing_folder_is_named(tmp_path: Path, refused: Refused) -> None:
    with refused(UsageError, "folder", tmp_path / "none", "No such file"):
        build(tmp_path / "none", tmp_path / "site")
