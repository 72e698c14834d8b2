"""Narrow terminals: from 40 columns on, tables are stacked where they do not fit, and no number or name is cut."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.cli.main import app
from sparse_tasks.cli.output import frameless, print_table
from sparse_tasks.cli.progress import Bar
from tests.cli.program import run
from tests.evaluators.made_runs import made_run

SCORES = {
    ("ruler_niah_multiquery", 1024): [1.0, 0.5, 1.0],
    ("ruler_niah_multivalue", 1024): [1.0, 0.0, 1.0],
}


def _words(text: str) -> set[str]:
    return set(re.sub(r"[─\s]+", " ", text).split())


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made_run(Path("runs/dense"), SCORES)
    made_run(Path("runs/quest"), SCORES, attention="quest", sparsity=0.5)
    return Path("runs")


@pytest.mark.parametrize("columns", ["40", "60", "80"])
@pytest.mark.parametrize("command", ["compare", "list", "attention list", "attention list --verbose"])
def test_a_narrow_terminal_shows_every_word_of_a_wide_one(
    command: str, columns: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*command.split(), *([runs / "dense", runs / "quest"] if command == "compare" else [])]
    monkeypatch.setenv("COLUMNS", "300")
    wide = run(*arguments)
    monkeypatch.setenv("COLUMNS", columns)
    narrow = run(*arguments)
    assert (wide.code, narrow.code) == (0, 0)
    assert "…" not in narrow.out
    # A stacked row begins with its name, which needs no heading.
    assert _words(wide.out) - {"parameter", "name", "task"} <= _words(narrow.out)


@given(
    columns=st.integers(40, 120),
    rows=st.lists(
        st.tuples(st.text("abc_", min_size=1, max_size=30), *[st.floats(0, 1e6).map(lambda x: f"{x:,.3f}")] * 6),
        min_size=1,
        max_size=3,
    ),
)
def test_no_table_cuts_a_number_or_a_name(columns: int, rows: list[tuple[str, ...]]) -> None:
    table = frameless("task", ("length", "n", "score", "95% interval", "unparsed", "cut off"))
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        print_table(table, width=columns)
    assert {cell for row in rows for cell in row} <= _words(out.getvalue())
    assert max(map(len, out.getvalue().splitlines())) <= columns


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_bar_has_percentage_and_time_left_first(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    bar = Bar("reading")
    bar.stage("counting tokens", 1000)
    bar.advance(250, tokens=1_000_000)
    with bar.console.capture() as captured:
        bar.console.print(bar._progress.make_tasks_table(bar._progress.tasks))
    line = captured.get().rstrip("\n")
    assert re.match(r" *25% (-|\d):(--|\d\d):(--|\d\d) counting tokens", line)
    assert "…" not in line
    assert len(line) <= columns
    assert ("250/1,000 samples" in line) == (columns >= 60)
    assert ("tok/s" in line) == (columns >= 80)


def _commands() -> list[list[str]]:
    groups = [([], app), *(([str(group.name)], group.typer_instance) for group in app.registered_groups)]
    found = [[*name, str(command.name)] for name, typer in groups if typer for command in typer.registered_commands]
    return [[], *found]


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_help_shows_no_type_of_what_takes_no_value(command: list[str]) -> None:
    finished = run(*command, "--help")
    assert finished.code == 0
    assert "bool" not in finished.out.lower()
