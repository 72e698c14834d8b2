"""The page agrees with the analyses, is accessible, and works for any runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.format import TYPESET
from sparse_tasks.evaluators.analyses.analysis import Analysis
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.compare import compare
from sparse_tasks.evaluators.report.page import make_report
from sparse_tasks.evaluators.results import read_outcomes, read_result
from tests.evaluators.example_runs import made_run
from tests.evaluators.report.reading import parsed
from tests.evaluators.report.sweeps import DENSE, Report, worse

Refused = Callable[..., Any]
SECTIONS = ["summary", "sparsity", "tasks", "cost", "certified", "depth", "unparsed", "laws", "worst", "settings"]
HOSTILE = "<script>alert(1)</script>\"'&\x00\x1b[31m\u202egnp\u2066" + "x" * 100_000


def compared(sweep: Path, run: str) -> Any:
    sha256 = read_result(sweep / run).dataset_sha256
    rows = [read_outcomes(sweep / name) for name in ("dense", run)]
    return compare(*rows, dataset_a=sha256, dataset_b=sha256)


def test_the_summary_comes_first_and_the_settings_last(page: str) -> None:
    found = [one.attributes["id"] for one in parsed(page).all("section")]
    assert found == SECTIONS


def test_the_means_are_those_of_results_and_their_differences_those_of_compare(page: str, sweep: Path) -> None:
    rows = parsed(page).table("Mean over tasks of every run, by length")
    assert len(rows) == 5 * 2
    for run in ("quest-0.9", "block_sparse-0.5"):
        method, asked = run.split("-")
        result = read_result(sweep / run)
        for average, mean in zip(compared(sweep, run).averages, result.averages, strict=True):
            length = f"{average.length // 1024}k"
            row = next(row for row in rows if (row[0], row[1], row[3]) == (method, asked, length))
            assert row[5:7] == [TYPESET.number(mean.mean), TYPESET.interval(mean.low, mean.high)]
            assert row[7] == TYPESET.signed(average.difference)
            assert row[8] == TYPESET.interval(average.interval.low, average.interval.high, sign=True)
            assert row[4] == str(average.n) == "20"


def test_each_task_has_its_score_and_its_difference(page: str, sweep: Path) -> None:
    rows = parsed(page).table("Scores at 2k")
    for expected in compared(sweep, "quest-0.9").rows:
        if expected.length == 2048:
            row = next(row for row in rows if row[:3] == [expected.task, "quest", "0.9"])
            assert row[3:7] == ["0.000", "0.890", "10", TYPESET.number(expected.mean_b)]
            interval = TYPESET.interval(expected.interval.low, expected.interval.high, sign=True)
            assert row[8:] == [TYPESET.signed(expected.difference), interval]


def test_the_verdict_counts_intervals_on_either_side_of_zero(page: str, sweep: Path) -> None:
    differences = [
        one for method in ("quest", "block_sparse") for asked in ("0.5", "0.9")
        for one in compared(sweep, f"{method}-{asked}").averages
    ]  # fmt: skip
    lost = sum(one.interval.high < 0 for one in differences)
    assert 0 < lost < len(differences) == 8
    text = parsed(page).section("summary").text
    assert (
        f"Of 8 comparisons with dense attention (a method at a sparsity and a length, mean over tasks), {lost}" in text
    )
    worst = min(differences, key=lambda one: one.difference)
    interval = TYPESET.interval(worst.interval.low, worst.interval.high, sign=True)
    assert f"{TYPESET.signed(worst.difference)} ({interval})" in text


def test_the_heat_map_marks_significant_differences(page: str, sweep: Path) -> None:
    root = parsed(page)
    rows = root.table("Difference to dense by method and task, at 1k alone")
    found = {(row[0], row[1]): row[2:] for row in rows}
    expected = {one.task: one for one in compared(sweep, "quest-0.9").rows if one.length == 1024}
    one = expected["story_multihop"]
    numbers = [float(text.replace("−", "-")) for text in re.findall(r"[+−]?\d\.\d\d", found["quest", "0.9"][0])]
    assert numbers == pytest.approx([one.difference, one.interval.low, one.interval.high], abs=0.00501)
    cells = [cell for cell in root.all("td") if "h" in (cell.attributes.get("class") or "").split()]
    bold = [cell for cell in cells if cell.all("span")[0].attributes.get("class") == "sure"]
    assert 0 < len(bold) < len(cells)
    for cell in cells:
        low, high = (float(text.replace("−", "-")) for text in re.findall(r"[+−]?\d\.\d\d", cell.all("small")[0].text))
        assert (cell in bold) == (low * high > 0) or 0 in (low, high)


def test_certified_sparsities_are_those_of_the_analysis(report: Report, sweep: Path) -> None:
    analysis = Analysis(read_runs([sweep]), 0.5)
    table = analysis.certified
    rows = parsed(report(sweep, tolerance=0.5)).table("Certified sparsity, over all tasks and lengths")
    expected = table[table["scope"] == "all"]
    assert len(rows) == len(expected) == 2
    assert expected["certified"].notna().any()
    for row, (_, one) in zip(rows, expected.iterrows(), strict=True):
        assert row[1] == one["attention"]
        assert row[2] == ("–" if one["certified"] != one["certified"] else f"{one['certified']:.3g}")
        assert row[4] == TYPESET.number(one["loss"])


def test_the_cost_table_has_every_run_of_the_frontier_with_its_share(report: Report, sweep: Path, page: str) -> None:
    pareto = Analysis(read_runs([sweep])).pareto
    of_it = pareto[pareto["phase"] == "decode"]
    rows = parsed(page).table("Numbers: Score against cost of decode")
    assert len(rows) == len(of_it)
    assert sorted(row[-1] for row in rows) == sorted(TYPESET.share(share) for share in of_it["frontier_share"])
    assert sum(row[-2] != "–" for row in rows) == of_it["on_frontier"].sum()
    assert "Score against cost of prefill" in page


def test_depth_is_shown_for_tasks_with_evidence_in_one_place(sweep: Path, page: str) -> None:
    rows = parsed(page).table("Numbers: Score by depth of the evidence, at sparsity 0.9")
    assert {row[0] for row in rows} == {"story_multihop", "ruler_vt"}
    dense = [row for row in rows if row[:2] == ["ruler_vt", "dense"]]
    assert [row[2] for row in dense] == ["0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1"]
    assert [row[3] for row in dense] == ["4"] * 5
    scores = [DENSE["ruler_vt", length][index] for length in (1024, 2048) for index in (0, 5)]
    assert dense[0][4] == TYPESET.number(sum(scores) / 4)


def test_distance_is_shown_for_tasks_with_evidence_in_several_places(tmp_path: Path, report: Report, page: str) -> None:
    at, near, far = ("story_multihop", 1024), [1.0, 0.5], [0.0, 0.25]
    scores = [near[0], far[0], near[1], far[1]]
    made_run(tmp_path / "dense", {at: [1.0] * 4, ("ruler_cwe", 1024): [1.0] * 4}, distances=(0.3, 0.9))
    made_run(tmp_path / "quest", {at: scores}, attention="quest", sparsity=0.5, distances=(0.3, 0.9))
    rows = parsed(report(tmp_path)).table("Numbers: Score by distance between evidence, at sparsity 0.5")
    assert [row[:5] for row in rows if row[1] == "quest 0.5"] == [
        ["story_multihop", "quest 0.5", "0.2 to 0.4", "2", TYPESET.number(sum(near) / 2)],
        ["story_multihop", "quest 0.5", "0.8 to 1", "2", TYPESET.number(sum(far) / 2)],
    ]
    assert "Distance between evidence" not in page  # one place, so no distance


def test_questions_of_a_sample_are_drawn_in_their_order(tmp_path: Path, report: Report, page: str) -> None:
    at, turns = ("turns_story", 1024), [[1.0, 0.5, 0.0], [1.0, 1.0, 0.0]]
    made_run(tmp_path / "dense", {at: [[1.0] * 3] * 2})
    made_run(tmp_path / "snapkv", {at: turns}, attention="snapkv", sparsity=0.5)
    root = parsed(report(tmp_path))
    rows = root.table("Numbers: Score by question at 1k, at sparsity 0.5")
    means = [sum(of_one) / 2 for of_one in zip(*turns, strict=True)]
    assert [row[2:5] for row in rows if row[1] == "snapkv 0.5"] == [
        [str(number), "2", TYPESET.number(mean)] for number, mean in enumerate(means, 1)
    ]
    assert len([one for one in root.section("turns").all("svg") if one.attributes.get("role") == "img"]) == 1
    assert "Score by question" not in page


def test_accuracy_by_step_is_the_share_of_answers_without_a_mistake_so_far(tmp_path: Path, report: Report) -> None:
    at = ("reason_ledger", 4096)
    scores = {
        "dense": [1.0, 1.0, 0.5, 1.0],
        "0.5": [1.0, 15 / 16, 0.3, 0.75],
        "0.7": [0.5] * 4,
        "0.9": [0.1, 0, 0, 0.2],
    }
    made_run(tmp_path / "dense", {at: scores["dense"]}, metric="prefix_fraction")
    for target in ("0.5", "0.7", "0.9"):
        made_run(
            tmp_path / f"quest-{target}",
            {at: scores[target]},
            attention="quest",
            sparsity=float(target),
            metric="prefix_fraction",
        )
    root = parsed(report(tmp_path))
    for target in ("0.5", "0.9"):  # the lowest sparsity and the highest
        rows = root.table(f"Numbers: Accuracy by step, at sparsity {target}")
        for label, values in (("dense", scores["dense"]), (f"quest {target}", scores[target])):
            right = [TYPESET.number(sum(value >= place / 10 - 1e-9 for value in values) / 4) for place in range(1, 11)]
            assert [row[4] for row in rows if row[1] == label] == right
        assert [row[2] for row in rows[:10]] == [f"{place}0%" for place in range(1, 11)]
    assert len([one for one in root.section("steps").all("svg") if one.attributes.get("role") == "img"]) == 2
    table = root.table("Tokens written, and the cost of a sample whose answer is fully correct")
    solved = {(row[3], row[4]): row[5] for row in table}
    assert solved == {("dense", "0"): "75%", ("quest", "0.5"): "25%", ("quest", "0.7"): "0%", ("quest", "0.9"): "0%"}


def test_other_metrics_have_no_accuracy_by_step(page: str) -> None:
    assert "Accuracy by step" not in page


def test_unparsed_and_truncated_outputs_are_counted_with_intervals(page: str) -> None:
    section = parsed(page).section("unparsed")
    assert "Of 200 outputs 8 (4.0%) held no answer" in section.text
    assert "8 (4.0%) were cut off" in section.text
    rows = section.table("Unparsed and truncated shares by run and length")
    row = next(row for row in rows if row[:3] == ["quest", "0.9", "1k"])
    assert row[3:5] == ["20", "10.0%"]
    assert row[6] == "10.0%"


def test_settings_have_no_paths(sweep: Path, page: str, tmp_path: Path) -> None:
    text = parsed(page).section("settings").text
    for said in ("acme/small", "a" * 64, "vllm 0.32.0", "torch=2.13.0", "3.11.9", "seed=42", "hidden_size=4096"):
        assert said in text, said
    assert str(sweep) not in page
    assert str(tmp_path.parent) not in page


def test_paths_and_addresses_are_not_shown(tmp_path: Path, report: Report) -> None:
    folder = made_run(tmp_path / "dense", DENSE, model="/home/jane/models/tiny")
    settings = json.loads((folder / "run.json").read_text())
    settings["engine"]["arguments"] = {"lora": "/home/jane/lora", "base_url": "http://jane:8000/v1"}
    settings["engine"]["details"] = {"base_url": "http://jane:8000/v1"}
    settings["command_line"] = ["evaluate", "/home/jane/data"]
    settings["dataset"]["name"] = "/home/jane/data"
    (folder / "run.json").write_text(json.dumps(settings))
    page = report(folder)
    assert "jane" not in page
    assert "tiny" in page
    assert "lora=…/lora" in page


def test_it_is_self_contained(page: str) -> None:
    root = parsed(page)
    foreign = {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    assert not foreign & {one.name for one in root.every()}
    for one in root.every():
        for name, value in one.attributes.items():
            assert not name.startswith("on"), (one.name, name)
            if name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
                assert (value or "").startswith("#"), (one.name, name, value)
    assert "url(http" not in page
    assert "@import" not in page


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    elements = parsed(page).every()
    ids = Counter(one.attributes["id"] for one in elements if "id" in one.attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    for one in elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert all(each in ids for each in (one.attributes.get(name) or "").split())
        if (link := one.attributes.get("href")) is not None:
            assert link[1:] in ids, link
        for reference in re.findall(r"url\(#([^)]+)\)", " ".join(filter(None, one.attributes.values()))):
            assert reference in ids


def test_tables_have_captions_and_cells_their_headings(page: str) -> None:
    tables = parsed(page).all("table")
    assert len(tables) > 10
    captions = [one.all("caption")[0].text for one in tables]
    assert len(captions) == len(set(captions))
    for table in tables:
        assert all(cell.attributes["scope"] in ("col", "row") for cell in table.all("th"))
        width = len(table.all("thead")[0].all("th"))
        assert all(len(row.all("th")) + len(row.all("td")) == width for row in table.all("tbody")[0].all("tr"))


def test_each_drawing_says_its_numbers_and_has_them_in_a_table(page: str) -> None:
    for figure in parsed(page).all("figure"):
        assert figure.all("details")[0].all("table")
        drawn = [one for one in figure.all("svg") if one.attributes.get("role") == "img"]
        assert drawn
        for one in drawn:
            assert one.all("title")[0].text
            assert re.search(r"\d", one.all("desc")[0].text)
    hidden = [one for one in parsed(page).all("svg") if one.attributes.get("role") != "img"]
    assert all(one.attributes.get("aria-hidden") == "true" for one in hidden)


def test_untrusted_names_and_texts_are_escaped(tmp_path: Path, report: Report) -> None:
    for name, attention in (("dense", "dense"), ("<img src=x onerror=alert(1)>", "quest")):
        made_run(
            tmp_path / name,
            DENSE if attention == "dense" else worse(1.0, 2),
            attention=attention,
            sparsity=0.5,
            arguments={HOSTILE[:200]: HOSTILE} if attention == "quest" else None,
            model=f"acme/{HOSTILE}",
            text=HOSTILE,
        )
    page = report(tmp_path, title=HOSTILE)
    root = parsed(page)
    assert "script" not in {one.name for one in root.every()}
    assert "<script" not in page
    assert "<img" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", page)
    assert len(page) < 2_000_000
    words = [one.text for one in root.section("worst").all("div") if "words" in (one.attributes.get("class") or "")]
    assert any("<script>alert(1)</script>" in text and "more characters" in text for text in words)
    assert max(map(len, words)) < 2_200


@pytest.mark.parametrize("attention", ["dense", "quest"])
def test_a_single_run_gives_a_page_that_says_what_is_missing(tmp_path: Path, report: Report, attention: str) -> None:
    made_run(tmp_path / "only", DENSE, attention=attention, sparsity=None if attention == "dense" else 0.5)
    root = parsed(report(tmp_path))
    assert "A dense and a sparse run of the same model" in root.section("summary").text
    assert "Samples with the lowest scores" in root.section("worst").text
    assert len(root.table("Mean over tasks of every run, by length")) == 2


# Runs without sections on methods, as arguments of ``made_run``.
WITHOUT_A_PAIR: dict[str, list[dict[str, Any]]] = {
    "dense": [{"attention": "dense"}],
    "dense of two models": [{"attention": "dense"}, {"attention": "dense", "model": "acme/large"}],
    "unknown": [{"attention": "unknown", "measured": {}}],
    "unknown of two models": [
        {"attention": "unknown", "measured": {}},
        {"attention": "unknown", "measured": {}, "model": "acme/large"},
    ],
    "sparse": [{"attention": "quest", "sparsity": 0.5}],
    "dense and sparse of two models": [
        {"attention": "dense"},
        {"attention": "quest", "sparsity": 0.5, "model": "acme/large"},
    ],
}


@pytest.mark.parametrize("kind", WITHOUT_A_PAIR)
@pytest.mark.parametrize(("shape", "right"), [("known", True), ("unknown", False)])
def test_sections_that_do_not_apply_are_omitted(
    kind: str, shape: str, right: bool, tmp_path: Path, report: Report
) -> None:
    for number, options in enumerate(WITHOUT_A_PAIR[kind]):
        scores = {key: [1.0] * len(values) for key, values in DENSE.items()} if right else DENSE
        made_run(tmp_path / f"run-{number}", scores, **options, **({} if shape == "known" else {"shape": None}))
    root = parsed(report(tmp_path))
    sections = {section.attributes["id"]: section for section in root.all("section")}
    assert {"tasks", "certified", "laws"}.isdisjoint(sections)
    assert {"summary", "sparsity", "unparsed", "settings"} <= set(sections)
    links = [str(link.attributes["href"]) for link in root.all("nav")[0].all("a")]
    assert links == [f"#{name}" for name in sections]
    # Each section has more than sentences about what is missing.
    assert all(section.all("table") or section.all("article") for section in sections.values())
    assert root.text.count("A dense and a sparse run of the same model") == 1
    assert ("Score against sparsity" in root.text) == ("quest" in str(WITHOUT_A_PAIR[kind]))
    for table in root.all("table"):
        _, *rows = ([cell.text.strip() for cell in row.all("th") + row.all("td")] for row in table.all("tr"))
        caption = table.all("caption")[0].text
        if caption.startswith(("Mean over tasks", "Scores at")):
            assert rows
            assert not [column for column in zip(*rows, strict=True) if set(column) == {"–"}], caption


def test_runs_without_known_attention_give_a_page(tmp_path: Path, report: Report) -> None:
    made_run(tmp_path / "dense", DENSE, shape=None)
    made_run(tmp_path / "quest", worse(0.5, 2), attention="quest", arguments={"tokens": 8}, measured={}, shape=None)
    root = parsed(report(tmp_path))
    assert "nothing is drawn: no sparse run has a target sparsity" in root.section("sparsity").text
    assert not root.section("cost").all("figure")
    assert "quest (tokens=8)" in root.section("summary").text


def test_what_was_not_measured_is_drawn_at_its_target_and_called_nominal(tmp_path: Path, report: Report) -> None:
    made_run(tmp_path / "dense", DENSE)
    made_run(tmp_path / "quest", worse(0.5, 2), attention="quest", sparsity=0.9, measured={})
    section = parsed(report(tmp_path)).section("sparsity")
    assert "nothing was measured of quest 0.9; the figure has it at its target, which is nominal" in section.text
    assert section.all("figure")


def test_answers_of_unknown_attention_are_not_drawn_and_the_page_says_why(tmp_path: Path, report: Report) -> None:
    made_run(tmp_path / "dense", DENSE)
    made_run(tmp_path / "other", worse(0.5, 2), attention="unknown", measured={})
    section = parsed(report(tmp_path)).section("sparsity")
    assert section.text.count("No curve is drawn: answers made elsewhere have unknown attention; evaluate a file") == 1
    assert not section.all("figure")


def test_one_sample_and_scores_that_are_all_the_same_give_a_page(tmp_path: Path, report: Report) -> None:
    scores = {("ruler_vt", 1024): [1.0]}
    made_run(tmp_path / "dense", scores)
    made_run(tmp_path / "quest", scores, attention="quest", sparsity=0.5)
    root = parsed(report(tmp_path))
    assert "1 sample each" in root.section("summary").text
    assert "No sample lost anything." in root.section("worst").text


def test_nothing_is_drawn_or_concluded_from_a_task_that_the_model_cannot_do(tmp_path: Path, report: Report) -> None:
    hopeless = {("ruler_cwe", 1024): [0.0] * 9 + [0.5], ("ruler_cwe", 2048): [0.0] * 10, ("ruler_vt", 4096): [0.0] * 10}
    made_run(tmp_path / "dense", DENSE | hopeless)
    for method in ("quest", "snapkv"):
        made_run(tmp_path / method, worse(0.5, 2) | hopeless, attention=method, sparsity=0.5)
    root = parsed(report(tmp_path))
    said = "unable: ruler_cwe (1k, 2k), ruler_vt (4k)."
    for section in ("summary", "sparsity", "tasks"):
        assert said in root.section(section).text
    assert "Of 4 comparisons" in root.section("summary").text  # two methods at two of three lengths
    figures = [figure.text for figure in root.all("figure")]
    assert figures
    assert not any("4k" in root.section("sparsity").all("figure")[at].all("figcaption")[0].text for at in (0, 1))
    assert [panel.text for panel in root.section("sparsity").all("figure")[0].all("p")] == [
        "story_multihop",
        "ruler_vt",
    ]
    assert "ruler_cwe" not in root.section("laws").text + root.section("certified").text + root.section("depth").text
    assert not any("ruler_cwe" in title.text for title in root.section("worst").all("h3"))
    # The numbers themselves are no secret.
    rows = [row for row in root.table("Scores at 1k") if row[0] == "ruler_cwe"]
    assert [(row[6], row[8]) for row in rows] == [("0.050", "unable")] * 3
    mean = next(row for row in root.table("Mean over tasks of every run, by length") if row[0] == "dense")
    assert mean[4:6] == ["20", "0.850"]  # of ruler_vt and story_multihop


def test_repeats_of_the_dense_run_show_serving_variance(tmp_path: Path) -> None:
    ones = {("ruler_vt", length): [1.0] * 50 for length in (1024, 2048)}
    flipped = {key: [1.0 - (i % 10 == 0) for i in range(50)] for key in ones}
    runs = [made_run(tmp_path / "dense", ones)]
    runs.append(made_run(tmp_path / "quest", flipped, attention="quest", sparsity=0.5))
    lost = {key: [0.0] * 50 for key in ones}
    runs.append(made_run(tmp_path / "snapkv", lost, attention="snapkv", sparsity=0.5))
    again = made_run(tmp_path / "again", flipped)
    root = parsed(make_report(Analysis(read_runs(runs, [again]))).decode())
    text = root.section("summary").text
    assert "Batches, engine and machine alone make differences of means of up to 0." in text
    assert "no sign of a loss or gain: quest 0.5 at 1k and quest 0.5 at 2k." in text
    rows = root.table("Mean over tasks of every run, by length")
    assert all(0.1 < float(row[-1]) < 0.3 for row in rows)
    assert "Batches, engine" not in parsed(make_report(Analysis(read_runs(runs))).decode()).section("summary").text
    with pytest.raises(UsageError, match="is not a repeat of a dense run"):
        read_runs(runs[:2], [runs[2]])
    with pytest.raises(UsageError, match="named twice"):
        read_runs(runs, [runs[0]])
    part = made_run(tmp_path / "part", {key: scores[:40] for key, scores in ones.items()})
    with pytest.raises(UsageError, match="9 more are not in a repeat"):
        make_report(Analysis(read_runs(runs, [part])))


def test_a_model_that_can_do_nothing_gets_advice_and_no_conclusions(tmp_path: Path, report: Report) -> None:
    zeros = {key: [0.0] * 10 for key in DENSE}
    made_run(tmp_path / "dense", zeros)
    made_run(tmp_path / "quest", zeros, attention="quest", sparsity=0.5)
    root = parsed(report(tmp_path))
    assert "nothing can be concluded" in root.section("summary").text
    assert "--preset small" in root.section("summary").text
    assert [one.attributes["id"] for one in root.all("section")] == ["summary", "sparsity", "unparsed", "settings"]
    assert not root.all("figure")
    # Next to a model that can, it is named, and does not affect the other's results.
    for run in ("dense", "quest"):
        attention = "dense" if run == "dense" else run
        sparsity = None if run == "dense" else 0.5
        made_run(tmp_path / f"large-{run}", DENSE, model="acme/large", attention=attention, sparsity=sparsity)
    root = parsed(report(tmp_path))
    assert "acme/small: Dense attention scores below 0.1 on every task" in root.section("summary").text
    assert "Of 2 comparisons" in root.section("summary").text
    assert "acme/small" not in root.section("cost").all("figure")[0].text


def test_models_are_distinguished_and_many_methods_are_not_drawn_into_one_panel(tmp_path: Path, report: Report) -> None:
    scores = {("ruler_vt", 1024): [1.0, 0.5, 1.0], ("ruler_vt", 2048): [1.0, 0.5, 0.0]}
    for model in ("acme/small", "acme/large"):
        made_run(tmp_path / f"{model[5:]}-dense", scores, model=model)
        for number in range(12):
            folder = tmp_path / f"{model[5:]}-{number:02d}"
            made_run(folder, scores, model=model, attention=f"method_{number:02d}", sparsity=0.5)
    root = parsed(report(tmp_path))
    section = root.section("sparsity")
    assert "method_08, method_09, method_10 and method_11 are not drawn" in section.text
    assert len(root.table("Scores at 1k of acme/large")) == 13
    assert root.all("h1")[0].text == "What sparse attention costs"


def test_a_page_stops_drawing_before_it_grows_too_large(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dict.fromkeys(("sparsity", "cost", "depth", "distance", "steps", "turns", "length"), 2)
    monkeypatch.setattr("sparse_tasks.evaluators.report.context.MOST_PANELS", few)
    made_run(tmp_path / "dense", DENSE)
    made_run(tmp_path / "quest", worse(0.5, 2), attention="quest", sparsity=0.5)
    root = parsed(report(tmp_path))
    drawn = [one for one in root.section("sparsity").all("svg") if one.attributes.get("role") == "img"]
    assert len(drawn) == 2
    assert "to keep the page small" in root.text
    assert len(root.table("Scores at 2k")) == 4


def test_data_of_other_runs_is_refused(sweep: Path, report: Report, refused: Refused, data: Path) -> None:
    with refused(UsageError, "data", str(data), "is not the data set of these runs"):
        report(sweep, data=str(data))
    with refused(UsageError, "data", "nowhere"):
        report(sweep, data="./nowhere")


def test_a_damaged_prediction_that_would_be_shown_is_named(tmp_path: Path, report: Report, refused: Refused) -> None:
    folder = made_run(tmp_path / "dense", {("ruler_vt", 1024): [0.0, 1.0]})
    path = folder / "predictions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"text": ', b'"text" ', 1))
    with refused(DataError, str(path), "line 1"):
        report(folder)
