"""A sample is shown around its evidence, in colour where there is colour."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparse_tasks.generators.table import SCHEMA, read_rows
from tests.cli.program import run

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
def test_no_colour_can_be_set(data: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
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


def test_a_missing_task_is_the_only_one_or_all_are_listed(data: Path, tmp_path: Path) -> None:
    several = run("show", data)
    assert several.code == 2
    assert several.err == f"error: task: '{data}' has several tasks; choose from ruler_niah, story_multihop\n"
    unknown = run("show", data, "story")
    assert unknown.code == 2
    assert unknown.err == "error: task: 'story' is unknown; choose from ruler_niah, story_multihop\n"
    alone = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("story*", "sparse_tasks.json"))
    assert run("show", alone).out == run("show", data, "ruler_niah", "0").out
    assert run("show", data, "ruler_niah").out == run("show", data, "ruler_niah", "0").out


Damage = Callable[[Path], object]


def rewritten(change: Callable[[list[dict[str, Any]]], object]) -> Damage:
    """Rows of a file changed in place, as a whole Parquet file."""

    def damage(path: Path) -> None:
        rows = read_rows(path)
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)

    return damage


def cells(**values: object) -> Damage:
    return rewritten(lambda rows: rows[0].update(values))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2000:2200] = bytes(200)
    path.write_bytes(content)


def not_utf8(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    prompts = [b"\xff" + value.encode() for value in table["prompt"].to_pylist()]
    column = pa.Array.from_buffers(pa.string(), len(prompts), pa.array(prompts, pa.binary()).buffers())
    pq.write_table(table.set_column(table.schema.get_field_index("prompt"), "prompt", column), path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


AGAIN = "its generate command, given again, makes a damaged file anew"
VALIDATE = "; run sparse-tasks validate "

UNREADABLE: dict[str, tuple[Damage, str]] = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:2000]), "it is not a whole Parquet file ("),
    "without its last byte": (
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "it is not a whole Parquet file (",
    ),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "words": (lambda path: path.write_bytes(b"words " * 99), "it is not a whole Parquet file ("),
    "its signs alone": (lambda path: path.write_bytes(b"PAR1PAR1"), "it is not a whole Parquet file ("),
    "JSON": (lambda path: path.write_bytes(b"{}"), "it is not a whole Parquet file ("),
    "other bytes": (flip, "it is not a whole Parquet file ("),
    "not UTF-8": (not_utf8, "it is not a whole Parquet file ("),
    "a folder": (folder_instead, "it is a folder"),
    "missing": (lambda path: path.unlink(), "No such file or directory"),
    "link to nothing": (link_to_nothing, "No such file or directory"),
    "other columns": (lambda path: pq.write_table(pa.table({"id": ["a"]}), path), "has other columns than"),
    "without rows": (rewritten(lambda rows: rows.clear()), "row 0: is not there, though sparse_tasks.json counts it"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("format", ["human", "json"])
def test_a_damaged_file_is_named_with_its_problem_and_a_remedy(
    name: str, format: str, data: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(data, tmp_path / "data")
    damage, words = UNREADABLE[name]
    damage(path / NIAH)
    # The other length is no substitute for the one that was asked for.
    finished = run("show", path, "ruler_niah", "0", "--format", format)
    assert finished.says(f"error: {path / NIAH}", words, AGAIN)
    assert finished.code == 1
    assert "Errno" not in finished.err
    assert run("show", path, "ruler_niah", "0", "-l", "4k").code == 0


SPAN = {"start": 0, "end": 1, "depth": 0.5, "label": "x"}
WRONG: dict[str, tuple[Damage, str]] = {
    "no prompt": (cells(prompt=None), "prompt: expected `str`, not null"),
    "no evidence": (cells(evidence=[]), "evidence: expected `array` of length >= 1"),
    "evidence before the prompt": (cells(evidence=[SPAN | {"start": -5}]), "evidence[0].start: expected `int` >= 0"),
    "no number": (cells(evidence=[SPAN | {"depth": float("nan")}]), "evidence[0].depth: expected `float` >= 0.0"),
    "no answer": (cells(answer=""), "answer: expected `str` of length >= 1"),
    "no parameters": (cells(params="1"), "params: expected `str` matching"),
    "another task": (cells(task="story_multihop"), "task: is 'story_multihop', not 'ruler_niah'"),
    "another length": (cells(length=4096), "length: is 4096, not 3072"),
    "another index": (cells(index=7), "index: is 7, not 0"),
    "another order": (rewritten(lambda rows: rows.reverse()), "index: is 1, not 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_sample_is_not_shown_instead(name: str, data: Path, tmp_path: Path) -> None:
    path = shutil.copytree(data, tmp_path / "it's here")
    damage, words = WRONG[name]
    damage(path / NIAH)
    finished = run("show", path, "ruler_niah", "0")
    assert finished.says(f"error: {path / NIAH}, row 0: {words}", VALIDATE + shlex.quote(str(path)))
    assert finished.code == 1


CHANGED: dict[str, Damage] = {
    "answer": cells(answer="something else"),
    "evidence beyond the prompt": cells(evidence=[SPAN | {"start": 10**9, "end": 10**9 + 1}]),
    "evidence that ends before it begins": cells(evidence=[SPAN | {"start": 50, "end": 3}]),
    "parameters that are no JSON": cells(params="{"),
    "a row less": rewritten(lambda rows: rows.pop()),
    "a row twice": rewritten(lambda rows: rows.append(rows[0])),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_file_is_shown_with_a_note(name: str, data: Path, tmp_path: Path) -> None:
    path = shutil.copytree(data, tmp_path / "data")
    CHANGED[name](path / NIAH)
    finished = run("show", path, "ruler_niah", "0")
    assert finished.code == 0
    note = f"note: {path / NIAH} differs from the file that sparse_tasks.json records; to see what changed, run "
    assert finished.err == f"{note}sparse-tasks validate {path}\n"
    assert run("show", data, "ruler_niah", "0").err == ""


@pytest.mark.parametrize("content", [b"", b"words", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_named(content: bytes, data: Path, tmp_path: Path) -> None:
    path = shutil.copytree(data, tmp_path / "data")
    (path / "sparse_tasks.json").write_bytes(content)
    finished = run("show", path, "ruler_niah", "0")
    assert finished.says(f"error: {path / 'sparse_tasks.json'}")
    assert finished.code == 1


def test_finished_samples_of_an_incomplete_data_set_are_shown(data: Path, tmp_path: Path) -> None:
    path = shutil.copytree(data, tmp_path / "data")
    (path / "sparse_tasks.json").unlink()
    assert run("show", path, "ruler_niah", "0").out == run("show", data, "ruler_niah", "0").out
    (path / NIAH).unlink()
    assert run("show", path, "ruler_niah", "0", "-l", "3k").says("length", "'3k'", "choose from 4k")


@pytest.mark.parametrize("folder", ["x" * 300, "file", "file/below"])
def test_a_missing_folder_is_one_line(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("words")
    finished = run("show", folder, "ruler_niah", "0")
    assert finished.says("error: data: ", folder)
    assert finished.code == 2


def test_markup_in_a_prompt_is_shown_literally(data: Path, tmp_path: Path) -> None:
    text, path = "[bold]not bold[/bold] [/nothing] :boom: [link=x]", shutil.copytree(data, tmp_path / "data")
    cells(answer=text, params='{"x": "[/b] :boom:"}')(path / NIAH)
    finished = run("show", path, "ruler_niah", "0")
    assert finished.code == 0
    assert text in finished.out
    assert '{"x": "[/b] :boom:"}' in finished.out


@pytest.mark.parametrize("evil", ["\x1b]0;evil\x07", "\x1b[31mevil", "\x9b31mevil", "\u202eevil", "\r\x08evil"])
def test_no_control_character_of_a_data_set_reaches_the_terminal(evil: str, data: Path, tmp_path: Path) -> None:
    path = shutil.copytree(data, tmp_path / "data")
    prompt = evil + read_rows(path / NIAH)[0]["prompt"] + evil
    cells(answer=f"one\n{evil}", params=f'{{"x": "{evil}"}}', prompt=prompt)(path / NIAH)
    finished = run("show", path, "ruler_niah", "0")
    assert finished.code == 0
    assert "one\n" in finished.out
    assert finished.out.count("evil") == 4
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", finished.out)
