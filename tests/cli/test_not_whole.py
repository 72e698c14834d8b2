"""Runs that are not whole: every command and export that reads runs refuses them, or takes what is there, marked."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from sparse_tasks.attention.attention import Attention
from sparse_tasks.evaluators.exports import EXPORTS
from sparse_tasks.evaluators.runs import incomplete, read_settings
from tests.cli.program import Finished, contents, run

# 8 samples: two tasks at two lengths.
MISSING = 3
WORDS = f"{MISSING} of 8 predictions are missing"


@pytest.fixture(scope="module")
def whole(data: Path, gold: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense and a sparse run, scored; nobody may change them."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    for name, attention in (("dense", ["-a", "dense"]), ("quest", ["-a", "quest", "-s", "0.5"])):
        assert run("evaluate", data, "--engine", "replay", "-m", gold, "-o", runs / name, *attention).code == 0
    return runs


def _killed(folder: Path) -> None:
    """As a kill leaves a run: half a line at the end, and no score."""
    path = folder / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-MISSING]) + lines[-MISSING][:40])
    (folder / "scores.parquet").unlink()
    (folder / "result.json").unlink()


def _lost(folder: Path) -> None:
    """Scored, and then without some of its predictions."""
    path = folder / "predictions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[MISSING:]))


@pytest.fixture(params=[_killed, _lost])
def runs(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """Copies of both runs, of which the sparse one is not whole."""
    copied = Path(shutil.copytree(whole, tmp_path / "runs"))
    damage: Callable[[Path], None] = request.param
    damage(copied / "quest")
    return copied


def _readers(runs: Path, output: Path) -> dict[str, list[object]]:
    """Every command that reads runs."""
    return {
        "compare": ["compare", runs / "dense", runs / "quest"],
        "compare, turned": ["compare", runs / "quest", runs / "dense"],
        "analyze": ["analyze", runs, "-o", output],
        "analyze, json": ["analyze", runs, "--format", "json"],
        "compare, json": ["compare", runs / "dense", runs / "quest", "--format", "json"],
        "report": ["report", runs, "-o", output / "report.html"],
        **{name: ["export", runs / "quest", "--to", name, "-o", output] for name in EXPORTS.names()},
    }


READERS = list(_readers(Path(), Path()))


@pytest.mark.parametrize("reader", READERS)
def test_it_is_refused_with_the_number_and_the_command_that_completes_it(
    reader: str, runs: Path, tmp_path: Path, data: Path
) -> None:
    before = contents(runs)
    finished = run(*_readers(runs, tmp_path / "out")[reader])
    assert finished.code == 1
    assert finished.says(str(runs / "quest"), WORDS, f"complete the run: sparse-tasks evaluate {data} ", "--partial")
    assert contents(runs) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", READERS)
def test_partial_takes_what_is_there_and_marks_every_output(reader: str, runs: Path, tmp_path: Path) -> None:
    before = contents(runs)
    finished = run(*_readers(runs, tmp_path / "out")[reader], "--partial")
    assert finished.code == 0, finished.err
    assert contents(runs) == before
    if "json" in reader:
        told = finished.json()
        assert told.get("missing_b") == MISSING or [WORDS in one for one in told["partial"]] == [True]
    else:
        assert WORDS in finished.out + finished.err
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert bool(written) == (reader not in ("compare", "compare, turned", "compare, json", "analyze, json"))
    for path in written:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            assert text.splitlines()[0].endswith(",partial")
            assert all(line.endswith(",True") for line in text.splitlines()[1:])
        elif path.suffix == ".html":
            assert WORDS in text
        else:
            # Each line of samples too, and each entry of a list.
            units = text.splitlines() if path.suffix == ".jsonl" else text.split("- dataset:")[path.suffix == ".yaml" :]
            assert all("missing_predictions" in unit for unit in units)


@pytest.mark.parametrize("reader", READERS)
def test_a_whole_run_is_never_marked(reader: str, whole: Path, tmp_path: Path) -> None:
    plain = run(*_readers(whole, tmp_path / "out")[reader])
    assert plain.code == 0, plain.err
    first = contents(tmp_path) if (tmp_path / "out").exists() else {}
    again = run(*_readers(whole, tmp_path / "out")[reader], "--partial")
    assert (again.code, again.out, again.err) == (0, plain.out, plain.err)
    assert (contents(tmp_path) if first else {}) == first
    assert not any(b"missing_predictions" in content or b"PARTIAL" in content for content in first.values() if content)


def test_no_output_is_invented(runs: Path, tmp_path: Path) -> None:
    """An empty output that scores 1.0 stood for each missing prediction."""
    there = {
        json.loads(line)["id"]: json.loads(line)["text"]
        for line in (runs / "quest" / "predictions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    }
    assert run("export", runs / "quest", "--to", "lm_eval", "-o", tmp_path / "out", "--partial").code == 0
    samples = [
        json.loads(line)
        for path in (tmp_path / "out").rglob("samples_*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert {sample["doc"]["id"]: sample["resps"][0][0] for sample in samples} == there
    assert len(samples) == 8 - MISSING


def test_partial_pairs_are_those_that_both_answered(runs: Path) -> None:
    told = run("compare", runs / "dense", runs / "quest", "--partial", "--format", "json").json()
    assert (told["left_out_a"], told["left_out_b"], told["missing_b"]) == (MISSING, 0, MISSING)
    assert "missing_a" not in told
    assert sum(row["n"] for row in told["rows"]) == 8 - MISSING
    assert all(row["difference"] == 0 for row in told["rows"])


def test_score_names_evaluate_and_evaluate_completes_it(runs: Path, data: Path, gold: Path, whole: Path) -> None:
    finished = run("score", runs / "quest")
    assert finished.code == 1
    assert finished.says(WORDS, f"complete the run: sparse-tasks evaluate {data} ")
    arguments = ["-o", runs / "quest", "-a", "quest", "-s", "0.5"]
    assert run("evaluate", data, "--engine", "replay", "-m", gold, *arguments).code == 0
    assert run("compare", runs / "dense", runs / "quest").code == 0
    assert contents(runs)["quest/result.json"] == contents(whole)["quest/result.json"]


@pytest.mark.parametrize("written", [["-o", "{}"], ["-o{}"], ["--output", "{}"], ["--output={}"], []])
def test_the_command_completes_the_run_where_it_is_now(
    written: list[str], data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = [word.format("first") for word in written]
    assert run("evaluate", data, "--engine", "replay", "-m", gold, *output, "-a", "quest", "-s", "0.5").code == 0
    first = Path("first") if written else next(Path("runs").iterdir())
    moved = Path(shutil.copytree(first, tmp_path / "moved here"))
    before = contents(first)
    _killed(moved)
    command = shlex.split(run("score", "moved here").err.rpartition("complete the run: ")[2])
    assert command[-2:] == ["-o", "moved here"]
    assert run(*command[1:]).code == 0
    assert contents(moved) == before == contents(first)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("evaluate D -m M -a dense,quest -s 0.5,0.9 --set quest.page=32 -o sweep --seed 3",
         "evaluate D -m M --seed 3 --attention quest --sparsity 0.9 --set quest.page=32 -o moved"),
        ("evaluate D -aquest --sparsity=0,0.9 -m M",
         "evaluate D -m M --attention quest --sparsity 0.9 --set quest.page=32 -o moved"),
        ("predict D -m M -o old", "predict D -m M -o moved"),
        ("explain D -m M -o old", "explain D -m M -o old"),
    ],
)  # fmt: skip
def test_a_run_of_a_sweep_is_completed_by_itself(command: str, expected: str, whole: Path) -> None:
    attention = Attention(method="quest", sparsity=0.9, arguments={"quest.page": 32})
    settings = replace(read_settings(whole / "quest"), command_line=command.split(), attention=attention)
    assert incomplete(Path("moved"), 1, 2, settings).endswith(f"complete the run: sparse-tasks {expected}")


def test_a_run_without_any_prediction_has_nothing_to_take(runs: Path) -> None:
    (runs / "quest" / "predictions.jsonl").unlink()
    finished = run("compare", runs / "dense", runs / "quest", "--partial")
    assert finished.code == 1
    assert finished.says("8 of 8 predictions are missing", "complete the run", "nothing is there to take")


def test_answers_that_are_not_scored_are_told_apart_from_missing_ones(whole: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(whole, tmp_path / "runs"))
    (copied / "quest" / "result.json").unlink()
    finished: Finished = run("analyze", copied)
    assert finished.says(str(copied / "quest"), "holds no result.json", "score")


@pytest.mark.parametrize("reader", READERS)
def test_scores_of_other_predictions_are_not_taken(reader: str, whole: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(whole, tmp_path / "runs"))
    path = copied / "quest" / "predictions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("-00001", "-00009"), encoding="utf-8")
    finished = run(*_readers(copied, tmp_path / "out")[reader])
    assert finished.code == 1
    assert finished.says(str(copied / "quest"), "not those of its predictions", "run sparse-tasks score")


# --- how far a command is, without a terminal -----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["generate", "validate", "evaluate", "sweep of one", "hurried"])
def test_without_a_terminal_lines_tell_how_far_it_is(
    command: str, data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = ["generate", "-l", "3k", "-t", "ruler_niah", "-n", "4", "-w", "1", "-o", tmp_path / "new"]
    evaluate = ["evaluate", data, "--engine", "replay", "-m", gold, "-o", tmp_path / "run"]
    stage, arguments, of = {
        "generate": ("generating", generate, 4),
        "validate": ("validating", ["validate", data, "-w", "1"], None),
        "evaluate": ("answering", evaluate, 8),
        "sweep of one": ("answering", [*evaluate, "-a", "quest", "-s", "0.5"], 8),
        "hurried": ("generating", generate, None),
    }[command]
    if command != "hurried":
        monkeypatch.setattr("sparse_tasks.cli.progress._SHORTEST", 0.0)
        monkeypatch.setattr("sparse_tasks.cli.progress._LONGEST", 0.0)
    finished = run(*arguments)
    assert finished.code == 0, finished.err
    lines = [line for line in finished.err.splitlines() if line.startswith(f"{stage}: ")]
    if command == "hurried":  # it ends before the first is due
        assert finished.err == ""
    elif of is None:
        assert [line.split()[1] for line in lines] == ["2", "4", "6", "8"]  # a file each
    else:
        assert [line.split()[1] for line in lines] == [f"{n}/{of}" for n in range(1, of + 1)]
        told = rf"{stage}: 1/{of} samples \({1 / of:.0%}\), ([\d,]+ tok/s, )?[\d.]+ (s|min|h) left"
        assert re.fullmatch(told, lines[0])
        assert lines[-1].endswith("0.0 s left")
    assert "\r" not in finished.err
    assert "\x1b" not in finished.err
