"""``check``: a method against its reference curve, or against chance, by an engine with given answers."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.quest import Quest
from sparse_tasks.cli.running import RunBar
from sparse_tasks.evaluators import check as checking
from sparse_tasks.evaluators.check import CELLS, SPARSITIES, Cell, Check, allowed, stored
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine, Output, Request
from tests.cli.program import run

SHORT = (Cell("ruler_niah", 1100, 6), Cell("ruler_niah_multikey_2", 1500, 4))
REFERENCES = Path(checking.__file__).parent / "references"


@pytest.fixture(scope="module")
def gold(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a perfect model writes, by id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "CELLS", SHORT)
        patch.setattr(checking, "PROBE", str(model))
        patch.setattr(checking, "probe_sha256", lambda: "0" * 64)
        sets = Check("quest", tmp_path_factory.mktemp("gold"), RunBar)._sets()
        rows = [row for data in sets for row in data.rows(data.select(), ["id", "answer"])]
    return {row["id"]: f"<answer>{row['answer']}</answer>" for row in rows}


@pytest.fixture
def engine(model: Path, gold: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine whose ``skill`` says, by label, which share it gets right; ``miss`` is taken off its sparsity."""

    class Told(Engine):
        name = "told"
        runs_methods = True
        skill: ClassVar[dict[str, float]] = {}
        miss = 0.0
        texts: ClassVar[dict[str, str]] = {}
        starts: ClassVar[list[str]] = []

        def context(self) -> int | None:
            return None

        def start(self, needed: int) -> None:
            self.starts.append(self.settings.attention.label)

        def take_over(self, running: Engine, needed: int) -> bool:
            return True

        def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
            attention = self.settings.attention
            asked = list(requests)
            right = round(self.skill.get(attention.label, self.skill.get(attention.method, 1.0)) * len(asked))
            for number, request in enumerate(asked):
                text = self.texts[request.id] if number < right else "no idea"
                share = max(0.0, (attention.sparsity or 0.0) - self.miss)
                measured = {"decode": share} if attention.sparse else None
                yield Output(request.id, text, "stop", len(request.ids), 7, sparsity=measured)

        def version(self) -> str | None:
            return "1"

    monkeypatch.setattr(checking, "CELLS", SHORT)
    monkeypatch.setattr(checking, "PROBE", str(model))
    monkeypatch.setattr(checking, "probe_sha256", lambda: "0" * 64)
    monkeypatch.setattr(checking, "_ENGINE", "told")
    monkeypatch.setattr(checking, "_ARGUMENTS", {})
    monkeypatch.setattr(checking, "stored", lambda method: None)
    ENGINES.names()  # the others come first
    monkeypatch.setitem(ENGINES._members, "told", Told)
    Told.skill, Told.texts, Told.starts = {}, gold, []
    return Told


@pytest.fixture
def reference(engine: Any, tmp_path: Path) -> Path:
    """A curve of Quest that falls."""
    engine.skill = {"quest-0.9": 0.5}
    path = tmp_path / "quest.json"
    finished = run("check", "quest", "--write-reference", path)
    assert (finished.code, finished.out) == (0, f"{path}: quest, 8 cells\n"), finished.err
    return path


def test_an_unchanged_method_passes(engine: Any, reference: Path) -> None:
    finished = run("check", "quest", "--reference", reference)
    assert finished.code == 0, finished.err
    lines = [line.split() for line in finished.out.splitlines()]
    assert ["ruler_niah", "1100", "dense", "1.000"] in lines
    assert ["ruler_niah", "1100", "0.9", "0.90", "0.500", "0.167", "0.833", "ok"] in lines
    assert sum(line[:1] == ["mean"] for line in lines) == 3
    assert lines[-1][0] == "passed;"
    assert max(map(len, finished.out.splitlines())) <= 80
    assert engine.starts[0] == "dense"


def test_a_score_outside_its_interval_fails(engine: Any, reference: Path) -> None:
    engine.skill = {"quest-0.7": 0.25}
    finished = run("check", "quest", "--reference", reference, "--format", "json")
    assert finished.code == 1
    found = finished.json()
    assert not found["passed"]
    verdicts = {(row["task"], row["sparsity"]): row["verdict"] for row in found["rows"]}
    assert verdicts["ruler_niah", 0.7] == verdicts["ruler_niah_multikey_2", 0.7] == verdicts[None, 0.7] == "below"
    assert verdicts["ruler_niah", 0.5] == "ok"
    assert verdicts["ruler_niah", 0.9] == "above"  # better than it was: the reference is to be written again
    reported = run("check", "quest", "--reference", reference)
    assert reported.code == 1
    assert "FAILED in" in reported.out


def test_a_difference_of_one_sample_passes(engine: Any, reference: Path) -> None:
    engine.skill = {"quest-0.5": 0.8, "quest-0.9": 0.6}
    assert run("check", "quest", "--reference", reference).code == 0


def test_another_sparsity_fails(engine: Any, reference: Path) -> None:
    engine.skill, engine.miss = {"quest-0.9": 0.5}, 0.1
    finished = run("check", "quest", "--reference", reference, "--format", "json")
    assert finished.code == 1
    assert {row["verdict"] for row in finished.json()["rows"] if row["task"] and row["sparsity"]} == {"sparsity"}


def test_fewer_samples_and_sparsities_are_the_first_of_the_curve(engine: Any, reference: Path) -> None:
    engine.skill = {}
    options = ["--reference", reference, "--samples", "3", "--sparsity", ".9", "--format", "json"]
    finished = run("check", "quest", *options)
    assert finished.code == 0, finished.out
    rows = finished.json()["rows"]
    assert [(row["n"], row["sparsity"], row["expected"]) for row in rows[2:]] == [
        (3, 0.9, 1.0),
        (3, 0.9, pytest.approx(2 / 3)),
        (6, 0.9, pytest.approx(5 / 6)),
    ]


@pytest.mark.parametrize("n", range(2, 20))
def test_intervals_allow_for_a_changed_answer_and_not_for_a_lost_method(n: int) -> None:
    for right in range(n + 1):
        scores = [1.0] * right + [0.0] * (n - right)
        interval = allowed(scores)
        assert interval.low <= max(0, right - 1) / n + 1e-9
        assert interval.high >= min(n, right + 1) / n - 1e-9
    assert allowed([1.0] * n).low > 0
    assert allowed([0.0] * n).high < 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probe_sha256": "1" * 64}, ["reference", "another probe"]),
        ({"method": "sparq"}, ["reference", "sparq", "is not quest"]),
        ({"format": "sparse-tasks-run"}, ["quest.json", "format"]),
        ({"cells": []}, ["quest.json", "cells"]),
        ({"more": 1}, ["quest.json", "more"]),
    ],
)
@pytest.mark.usefixtures("engine")
def test_a_reference_of_something_else_is_refused(change: dict[str, Any], words: list[str], reference: Path) -> None:
    reference.write_text(json.dumps({**json.loads(reference.read_text()), **change}))
    finished = run("check", "quest", "--reference", reference)
    assert finished.code == 2
    assert all(word in finished.err for word in words), finished.err


@pytest.mark.usefixtures("engine")
def test_a_mutated_cell_is_refused(reference: Path) -> None:
    whole = json.loads(reference.read_text())
    whole["cells"][-1]["mean"] = 0.9
    reference.write_text(json.dumps(whole))
    assert run("check", "quest", "--reference", reference).code == 2
    whole = json.loads(reference.read_text().replace('"mean": 0.9', '"mean": 0.5'))
    whole["cells"][-1]["samples"][0] = "another"
    reference.write_text(json.dumps(whole))
    finished = run("check", "quest", "--reference", reference)
    assert finished.code == 2
    assert "other samples" in finished.err


def test_without_a_curve_the_control_must_be_beaten(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Quest):  # another package's
        name = "mine"

    METHODS.names()  # the others come first
    monkeypatch.setitem(METHODS._members, "mine", Mine)
    engine.skill = {"random_decode": 0.0}
    finished = run("check", "mine")
    assert finished.code == 0, finished.out + finished.err
    assert "against chance (it has no reference curve), 10 samples" in finished.out
    assert max(map(len, finished.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("skill", "verdict"),
    [
        ({"random_decode": 0.5, "quest": 0.5}, "unproven"),
        ({"random_decode": 1.0, "quest": 0.0}, "below"),
        ({"random_decode": 0.0, "quest": 1.0, "dense": 0.5}, "above"),
    ],
)
def test_without_a_curve_these_fail(skill: dict[str, float], verdict: str, engine: Any) -> None:
    engine.skill = skill
    finished = run("check", "quest", "--format", "json")
    assert finished.code == 1
    assert verdict in {row["verdict"] for row in finished.json()["rows"] if row["task"] is None}


def test_without_a_curve_a_missed_target_fails(engine: Any) -> None:
    engine.skill, engine.miss = {"random_decode": 0.0}, 0.3
    finished = run("check", "quest", "--format", "json")
    assert finished.code == 1
    assert {row["verdict"] for row in finished.json()["rows"] if row["sparsity"] and row["task"]} == {"sparsity"}


def test_a_failing_probe_gives_no_verdict(engine: Any, reference: Path) -> None:
    engine.skill = {"dense": 0.2}
    finished = run("check", "quest", "--reference", reference)
    assert finished.code == 1
    assert "the probe or its engine is wrong" in finished.err
    assert finished.out == ""


def test_the_missing_probe_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_tasks.evaluators.probe.find_spec", lambda name: None)
    finished = run("check", "quest")
    assert finished.code == 2
    assert finished.says("model", "probe", "pip install ./probe/package")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["qest"], ["qest", "quest"]),
        (["dense"], ["method", "dense", "name a method"]),
        (["quest+sparq"], ["quest+sparq", "one phase"]),
        (["random_decode"], ["method", "random_decode", "is a control"]),
        (["quest", "--sparsity", ".8"], ["sparsity", "0.8", "0.5, 0.7, 0.9"]),
        (["quest", "--sparsity", "much"], ["sparsity", "much"]),
        (["quest", "--samples", "1"], ["samples", "at least 2"]),
        (["quest", "--reference", "nowhere.json"], ["nowhere.json", "cannot be read"]),
        (["quest", "--write-reference", "nowhere/quest.json"], ["write-reference", "folder that exists"]),
        (["quest", "--write-reference", "quest.json", "--samples", "2"], ["write-reference", "--samples"]),
    ],
)
@pytest.mark.usefixtures("engine")
def test_bad_input_is_reported(arguments: list[str], words: list[str]) -> None:
    finished = run("check", *arguments)
    assert finished.code == 2
    assert finished.says(*words)


@pytest.mark.parametrize("path", sorted(REFERENCES.glob("*.json")), ids=lambda path: path.stem)
def test_stored_curves_are_complete(path: Path) -> None:
    reference = stored(path.stem)
    assert reference is not None
    assert reference.method == path.stem == Attention.parse(path.stem).method
    for sparsity in (0.0, *SPARSITIES):
        for cell in CELLS:
            found = reference.find(cell, sparsity)
            assert found is not None
            assert found.n == cell.samples
    assert all(cell.mean >= checking.ABLE for cell in reference.cells if cell.sparsity == 0)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # using the torch twins
@pytest.mark.parametrize(
    "method",
    ["quest", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("vertical_slash", "snapkv", "streaming_llm"))],
)
@pytest.mark.skipif(
    not all(map(find_spec, ("torch", "transformers", "sparse_tasks_probe"))), reason="torch or the probe is missing"
)
def test_methods_match_their_stored_curves(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probe, on its shorter task."""
    monkeypatch.setattr(checking, "CELLS", CELLS[:1])
    finished = run("check", method, "--samples", "2", "--sparsity", "0.5")
    assert finished.code == 0, finished.out + finished.err
