"""Repeats of a run say what the serving stack alone makes of a difference, and nothing else counts as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.json import to_json
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.records import Comparison
from sparse_tasks.evaluators.repeats import compare_repeated
from tests.cli.program import run
from tests.evaluators.example_runs import made_run
from tests.schemas.validation import problems

Refused = Callable[..., Any]
TASKS = ("ruler_vt", "story_retrieval")
QUEST: Any = {"attention": "quest", "sparsity": 0.9}


def scores(seed: int, right: float = 0.8, unsure: float = 0.2) -> dict[tuple[str, int], list[float]]:
    """Of 100 samples a task a share that changes from run to run; of the others a share is right in every run."""
    generator = np.random.default_rng(seed)
    found = {}
    for task in TASKS:
        changing = np.arange(100) < 100 * unsure
        always = np.arange(100) >= 100 * (1 - right)
        found[task, 4096] = np.where(changing, generator.random(100) < 0.5, always).astype(float).tolist()
    return found


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A dense run, a sparse one that differs only by chance, and three repeats of the dense one."""
    dense = made_run(tmp_path / "dense", scores(0))
    sparse = made_run(tmp_path / "quest", scores(1), **QUEST)
    return [dense, sparse, *(made_run(tmp_path / f"again-{seed}", scores(seed)) for seed in (2, 3, 4))]


def edited(folder: Path, edit: Callable[[Any], object]) -> Path:
    """A run after a change of its settings."""
    settings = json.loads((folder / "run.json").read_bytes())
    edit(settings)
    (folder / "run.json").write_bytes(to_json(settings))
    return folder


def test_a_difference_within_serving_variance_is_reported(runs: list[Path], tmp_path: Path) -> None:
    dense, sparse, *repeats = runs
    alike = compare_repeated(dense, sparse, repeats)
    assert all(row.serving and row.serving.within for row in alike.rows)
    # 20 of 100 samples are a coin: a run's mean has a standard deviation of sqrt(20) / 2 / 100.
    for row in alike.rows:
        assert row.serving
        assert row.serving.sd == pytest.approx(2**0.5 * 0.0224, rel=0.3)
        assert row.serving.changed == pytest.approx(0.2, abs=0.07)
    [mean] = alike.averages
    assert mean.serving
    assert mean.serving.limit < min(row.serving.limit for row in alike.rows if row.serving)
    worse = made_run(tmp_path / "worse", scores(5, right=0.4), **QUEST)
    lost = compare_repeated(dense, worse, repeats)
    assert not any(row.serving and row.serving.within for row in [*lost.rows, *lost.averages])
    assert problems(to_builtins(lost), "comparison-1.0") == []


def test_without_repeats_there_is_no_serving_variance(runs: list[Path]) -> None:
    found = compare_repeated(*runs[:2])
    assert {row.serving for row in found.rows} == {UNSET}
    assert isinstance(found, Comparison)


def test_both_runs_may_be_repeated(runs: list[Path], tmp_path: Path) -> None:
    dense, sparse, *repeats = runs
    steady = [made_run(tmp_path / f"steady-{i}", scores(1), **QUEST) for i in range(3)]
    both = compare_repeated(dense, sparse, [*repeats, *steady])
    alone = compare_repeated(dense, sparse, repeats)
    for ours, theirs in zip(both.rows, alone.rows, strict=True):
        assert ours.serving
        assert theirs.serving
        # The sparse run never changes, so half of the variance is missing.
        assert ours.serving.sd == pytest.approx(theirs.serving.sd / 2**0.5)
        assert ours.serving.changed == theirs.serving.changed / 2


def test_another_engine_or_batch_is_a_repeat(runs: list[Path]) -> None:
    def other(settings: Any) -> None:
        settings["engine"] |= {"name": "transformers", "arguments": {"max_num_seqs": 1}}
        settings["model"] |= {"name": "/models/small", "sha256": "e" * 64}
        settings["environment"]["python"] = "3.12.0"

    edited(runs[2], other)
    assert compare_repeated(*runs[:2], runs[2:]).rows[0].serving


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda settings: settings["dataset"].update(sha256="e" * 64), "dataset"),
        (lambda settings: settings["model"].update(name="acme/large"), "model"),
        (lambda settings: settings["attention"].update(method="snapkv"), "attention"),
        (lambda settings: settings["sampling"].update(seed=7), "sampling"),
        (lambda settings: settings.update(query_aware=False), "query_aware"),
    ],
)
def test_a_run_that_differs_in_more_is_not_a_repeat(
    edit: Callable[[Any], object], what: str, runs: list[Path], refused: Refused
) -> None:
    edited(runs[2], edit)
    with refused(UsageError, "repeat", f"has another {what} than", "engine, batches or machine"):
        compare_repeated(*runs[:2], runs[2:])


def test_a_run_itself_or_a_part_of_it_is_not_a_repeat(runs: list[Path], tmp_path: Path, refused: Refused) -> None:
    with refused(UsageError, "repeat", "named twice"):
        compare_repeated(*runs[:2], [runs[0]])
    part = made_run(tmp_path / "part", {key: values[:50] for key, values in scores(9).items()})
    with refused(UsageError, "sample", "is not in a repeat, nor are 99 more"):
        compare_repeated(*runs[:2], [part])


def test_the_table_shows_it_next_to_the_interval(runs: list[Path]) -> None:
    repeats = [word for folder in runs[2:] for word in ("--repeat", folder)]
    reported = run("compare", *runs[:2], *repeats)
    assert reported.code == 0, reported.err
    lines = reported.out.splitlines()
    assert all(len(line) <= 88 for line in lines[2:])
    head = next(line for line in lines if line.startswith("task"))
    assert head.split()[-3:] == ["serving", "p", "least"]
    text = " ".join(reported.out.split())
    assert "the methods need not differ: ruler_vt (4k), story_retrieval (4k), mean of tasks (4k)." in text
    finished = run("compare", *runs[:2], "--repeat", runs[1].parent / "nowhere")
    assert finished.says("run", "holds no result.json")
    assert finished.code == 2
