"""Guards what the dose benchmark concludes from scores, and that each task has a parameter that makes it harder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.statistics import mean_interval
from sparse_tasks.generators.task import TASKS, parameters
from tests.cli.program import ROOT
from tests.evaluators.leaderboard.handed_in import answered

N = 40


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("dose", ROOT / "benchmarks" / "dose.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["dose"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dose = loaded()


def scores(mean: float) -> list[float]:
    return [1.0] * round(mean * N) + [0.0] * (N - round(mean * N))


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ((1.0, 0.5, 0.1), "falls"),
        ((1.0, 1.0, 0.5), "falls"),
        ((0.9, 0.5, 0.0), "falls"),
        ((0.9, 0.4, 0.45), "falls (within intervals)"),
        ((0.45, 0.5, 0.1), "falls (within intervals)"),
        ((1.0, 1.0, 1.0), "undecided"),
        ((0.5, 0.45, 0.4), "undecided"),
        ((0.1, 0.5, 0.9), "rises"),
        ((0.9, 0.1, 0.5), "rises"),
        ((0.3, 0.9, 0.0), "rises"),
        ((0.075, 0.0, 0.0), "unable"),
        ((0.0, 0.0, 0.0), "unable"),
        ((0.1, 0.0), "undecided"),
    ],
)
def test_a_verdict_accounts_for_sampling_error(means: tuple[float, ...], said: str) -> None:
    assert dose.verdict([scores(mean) for mean in means]) == said


_SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=20)


@given(_SCORES, _SCORES)
def test_a_difference_is_mirrored_and_within_its_interval(easier: list[float], harder: list[float]) -> None:
    there, interval = dose.difference(easier, harder)
    back, mirrored = dose.difference(harder, easier)
    assert there == pytest.approx(-back)
    assert (interval.low, interval.high) == pytest.approx((-mirrored.high, -mirrored.low))
    assert -1 <= interval.low <= there + 1e-12
    assert there - 1e-12 <= interval.high <= 1


def test_a_difference_of_two_shares_is_newcombes() -> None:
    """His hybrid score interval (1998, Statistics in Medicine 17, 873-890), of 56/70 and 48/80: .0524 to .3339."""
    value, interval = dose.difference([1.0] * 48 + [0.0] * 32, [1.0] * 56 + [0.0] * 14)
    assert (value, interval.low, interval.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_the_table_has_a_row_a_task_and_two_columns_a_model() -> None:
    doses = [dose.Dose("ruler_vt", "hops", ("1", "4")), dose.Dose("ruler_cwe", "rare", ("3", "9"))]
    known = {
        ("probe", "ruler_vt", "1"): scores(1.0),
        ("probe", "ruler_vt", "4"): scores(0.5),
        ("qwen", "ruler_vt", "1"): scores(0.0),
        ("qwen", "ruler_vt", "4"): scores(0.0),
    }
    half, none = mean_interval(scores(0.5)), mean_interval(scores(0.0))
    assert dose.table(known, doses).splitlines() == [
        "| task | parameter | probe |  | qwen |  | falls |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `ruler_vt` | `hops` | "
        f"1: 1.00 (.91 to 1.00)<br>4: .50 ({half.low:.2f} to {half.high:.2f}) | falls | ".replace("0.", ".")
        + f"1: .00 (.00 to {none.high:.2f})<br>4: .00 (.00 to {none.high:.2f}) | unable | probe |".replace("0.", "."),
    ]


@pytest.mark.parametrize("of", dose.DOSES, ids=lambda of: of.task)
def test_levels_are_values_of_a_parameter(of: Any) -> None:
    known = {parameter.name for parameter in parameters(TASKS.get(of.task))}
    assert {of.parameter, *of.fixed} <= known
    assert of.parameter not in of.fixed
    assert len(set(of.levels)) == len(of.levels) >= 2
    for level in of.levels:
        TASKS.get(of.task).from_settings({**of.fixed, of.parameter: level})


def test_every_task_without_a_corpus_has_one() -> None:
    own = [task.name for task in TASKS if "corpus" not in task.texts and task.__module__.startswith("sparse_tasks.")]
    assert sorted(of.task for of in dose.DOSES) == sorted(own)


def test_levels_are_read_from_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command's own data sets; levels of a fraction and of a whole number are both found again."""
    from typer.testing import CliRunner

    from sparse_tasks.cli.main import app

    def here(*words: str) -> None:
        assert CliRunner().invoke(app, list(words)).exit_code == 0

    monkeypatch.setattr(dose, "sparse_tasks", here)
    words = ["--out", str(tmp_path / "data"), "--tokenizer", "qwen2.5", "--length", "2k", "--samples", "2"]
    monkeypatch.setattr(
        sys, "argv", ["dose.py", "generate", *words, "--workers", "1", "--task", "ruler_fwe", "--task", "ruler_niah"]
    )
    dose.main()
    levels = sorted((tmp_path / "data").iterdir())
    assert len(levels) == 3
    for level in levels:
        wrong = [0] if level.name == "level-3" else []
        answered(tmp_path / "runs" / level.name, open_dataset(str(level)), wrong=wrong)
    by_level = dose.by_level([tmp_path / "runs"])
    assert {(task, level) for _, task, level in by_level} == {
        (of.task, level) for of in dose.DOSES if of.task in ("ruler_fwe", "ruler_niah") for level in of.levels
    }
    assert {key[1:]: sorted(of) for key, of in by_level.items() if min(of) < 1} == {
        ("ruler_fwe", "1.5"): [0.0, 1.0],
        ("ruler_niah", "16"): [0.0, 1.0],
    }
    other = [dose.Dose("ruler_niah", "queries", ("1", "2"))]
    with pytest.raises(SystemExit, match=r"ruler_niah\.queries is 4, which is no level"):
        dose.by_level([tmp_path / "runs"], other)
