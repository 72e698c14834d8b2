"""Folders of accepted submissions, made up."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from tests.evaluators.example_runs import made_run

__all__ = ["LENGTHS", "TASKS", "accepted", "submitted"]

TASKS = ("ruler_vt", "story_filtering")
LENGTHS = (16384, 65536)
SAMPLES = 20


def submitted(
    path: Path,
    name: str,
    sparse: Sequence[Mapping[str, Any]] = (),
    *,
    right: int = 15,
    hopeless: Sequence[str] = (),
    dense: bool = True,
    contact: str | None = None,
    tasks: Sequence[str] = TASKS,
    lengths: Sequence[int] = LENGTHS,
    **options: Any,
) -> Path:
    """Write a submission of a dense run and others.

    Args:
        sparse: Arguments of ``made_run`` for each sparse run; ``loses``: so many samples less are right.
        right: So many of 20 samples does the dense run get right, in each task and length.
        hopeless: Tasks that no run gets right.
        dense: Whether it has one.
        options: Of ``made_run``, for all runs.
    """

    def scores(right: int) -> dict[tuple[str, int], list[float]]:
        return {
            (task, length): [float(i < right and task not in hopeless) for i in range(SAMPLES)]
            for task in tasks
            for length in lengths
        }

    with tempfile.TemporaryDirectory() as folder:
        runs = [made_run(Path(folder, "dense"), scores(right), **options)] if dense else []
        for i, run in enumerate(sparse):
            rest = {key: value for key, value in run.items() if key != "loses"}
            runs.append(made_run(Path(folder, f"run-{i}"), scores(right - run.get("loses", 0)), **options, **rest))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_submission(read_runs(runs), name, contact))
    return path


def accepted(folder: Path) -> Path:
    """Four submissions over one data set, with two models, and one over another."""
    of_prefill, of_decode = {"prefill": 0.9, "decode": 0.0}, {"prefill": 0.0, "decode": 0.9}
    quest = {"attention": "quest", "sparsity": 0.9, "measured": of_decode}
    slash = {"attention": "vertical_slash", "sparsity": 0.95, "measured": of_prefill, "loses": 9}
    submitted(folder / "a.json", "Alpha", [quest, slash], contact="team@example.org")
    submitted(folder / "b.json", "Beta <i>& co</i>", [{**quest, "sparsity": 0.5}], model="acme/large", right=19)
    submitted(folder / "c.json", "צוות דליל", [{**slash, "loses": 2}], right=14, contact="ask <me>")
    submitted(folder / "d.json", "Delta", [{**quest, "sparsity": None, "arguments": {"tokens": 512}}], dense=False)
    submitted(folder / "e.json", "Elsewhere", [quest], dataset_sha256="e" * 64, lengths=(4096,))
    return folder
