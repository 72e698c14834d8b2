"""A sample is shown around its evidence, in colour where there is colour."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparse_tasks.generators.table import SCHEMA, read_rows
from tests.cli.program import Finished, run

MARKED = re.compile(r"\x1b\[30;43m(.*?)\x1b\[0m", re.DOTALL)
NIAH = "3072/ruler_niah-test-00000-of-00001.parquet"


def test_sample_is_shown_with_everything_about_it(data: Path) -> None:
    row = read_rows(data / NIAH)[1]
    finished = run("show", data, "ruler_niah", "1")
    assert finished.code == 0
    assert finished.err == ""
    lines = finished.out.splitlines()
    assert lines[0] == f"{row['id']}: {row['input_tokens']:,} tokens of 3,072, unordered_fraction"
    assert lines[1] == f"params {row['params']}"
    assert finished.out.endswith(f"answer\n{row['answer']}\n")
    depths = ", ".join(f"{span['depth']:.3f}" for span in row["evidence"])
    assert f"evidence at depth {depths}\n" in finished.out
    for span in row["evidence"]:
        assert row["prompt"][span["start"] : span["end"]] in finished.out
    assert row["prompt"][-200:] in finished.out
    assert "characters …]" in finished.out
    assert len(finished.out) < len(row["prompt"])


def test_colour_marks_the_evidence(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    row = read_rows(data / NIAH)[0]
    marked = MARKED.findall(run("show", data, "ruler_niah", "0").out)
    assert marked == [row["prompt"][span["start"] : span["end"]] for span in row["evidence"]]


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_no_colour_where_none_is_wanted(data: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for finished in (run("show", data, "ruler_niah", "0"), run("list"), run("validate", data, "-w", "1")):
        colours = re.findall(r"\x1b\[[\d;]*m", finished.out + finished.err)
        # Bold and dim are no colours.
        assert not [code for code in colours if re.search(r"[34]\d", code)]
        if "FORCE_COLOR" not in variables:
            assert "\x1b" not in finished.out + finished.err


def test_whole_prompt_is_printed_when_asked(data: Path) -> None:
    row = read_rows(data / NIAH)[0]
    out = run("show", data, "ruler_niah", "0", "--full").out
    assert row["prompt"] in out
    assert "characters …]" not in out


def test_json_is_the_row_of_the_shortest_length_unless_another_is_named(data: Path) -> None:
    assert run("show", data, "ruler_niah", "1", "--format", "json").json() == read_rows(data / NIAH)[1]
    assert run("show", data, "story_multihop", "0", "-l", "4k", "--format", "json").json()["length"] == 4096


def changed(data: Path, tmp_path: Path, **cells: object) -> Finished:
    path = shutil.copytree(data, tmp_path / "data")
    rows = read_rows(path / NIAH)
    rows[0].update(cells)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path / NIAH)
    return run("show", path, "ruler_niah", "0")


def test_evidence_beyond_the_prompt_and_words_like_markup_are_no_crash(data: Path, tmp_path: Path) -> None:
    text, span = "[bold]not bold[/bold] [/nothing] :boom: [link=x]", {"start": 10**9, "end": 10**9 + 1, "depth": 1.0}
    finished = changed(data, tmp_path, answer=text, params='{"x": "[/b] :boom:"}', evidence=[span | {"label": "x"}])
    assert finished.code == 0
    assert text in finished.out
    assert '{"x": "[/b] :boom:"}' in finished.out
