"""Runs that know the question before the text and runs that are never mixed in a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.analyses.analysis import Analysis
from sparse_tasks.evaluators.analyses.table import Runs, read_runs
from sparse_tasks.evaluators.report.page import make_report
from sparse_tasks.evaluators.results import compare_runs
from tests.cli.program import run
from tests.evaluators.example_runs import made_run
from tests.evaluators.report.reading import parsed

SCORES = {("ruler_vt", length): [1.0] * 15 + [0.0] * 5 for length in (1024, 2048)}
LOST = {key: [1.0] * 5 + [0.0] * 15 for key in SCORES}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """The same model and method over two data sets: an eviction method keeps its answer where it sees the question."""
    made = []
    for aware, sparse, data in ((True, SCORES, "a"), (False, LOST, "b")):
        kind = "aware" if aware else "agnostic"
        options = {"dataset_sha256": data * 64, "query_aware": aware}
        made.append(made_run(tmp_path / f"{kind}-dense", SCORES, **options))
        for method in ("snapkv", "tova"):
            folder = tmp_path / f"{kind}-{method}"
            made.append(made_run(folder, sparse, attention=method, sparsity=0.9, measured={"decode": 0.9}, **options))
    return made


@pytest.fixture
def runs(folders: list[Path]) -> Runs:
    return read_runs(folders)


def test_no_row_takes_both_together(runs: Runs) -> None:
    analysis = Analysis(runs)
    assert runs.prompts == ["query-aware", "question after"]
    for name in ("cost", "pareto", "iso_cost", "certified", "lengths", "tradeoffs"):
        table = getattr(analysis, name)
        assert set(table["prompts"]) == set(runs.prompts), name
    lengths = analysis.lengths.set_index(["prompts", "attention", "length"])
    assert lengths.loc[("query-aware", "snapkv", 1024), "sparse"] == 0.75
    assert lengths.loc[("question after", "snapkv", 1024), "sparse"] == 0.25
    assert set(lengths["n"]) == {20}
    # Each kind has its own frontier: the agnostic runs are not beaten by the others.
    points = analysis.pareto
    assert set(points[points["on_frontier"]]["prompts"]) == set(runs.prompts)
    assert set(analysis.tradeoffs["rank"]) == {1.5}
    assert analysis.scaling.coefficients.empty
    assert "query-aware and question after runs follow no common law" in analysis.scaling.notes[0]


def test_tables_have_a_column_where_it_differs(folders: list[Path], runs: Runs) -> None:
    reported = run("analyze", *folders, "--only", "lengths").out
    assert reported.splitlines()[1].startswith("prompts")
    assert sum(line.startswith("question after") for line in reported.splitlines()) == 4
    assert "query-aware" not in run("analyze", *folders[:3], "--only", "lengths").out
    root = parsed(make_report(Analysis(runs)).decode())
    rows = root.table("Mean over tasks of every run, by length")
    assert {row[0] for row in rows} == {"acme/small, query-aware", "acme/small, question after"}
    ranks = root.table("Ranks of methods by task")
    assert {row[1] for row in ranks} == set(runs.prompts)
    panels = [panel.text for panel in root.section("cost").all("figure")[0].all("p")]
    assert panels == ["1k, query-aware", "1k, question after", "2k, query-aware", "2k, question after"]


def test_two_runs_of_different_kinds_are_not_compared(folders: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"is question after and .*aware-dense is query-aware"):
        compare_runs(folders[0], folders[3])
    reported = run("compare", folders[3], folders[4]).out.splitlines()
    assert reported[0].endswith("attention dense, question after)")
