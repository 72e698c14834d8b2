"""Repeats: runs with the same settings in other batches, with another engine or on another machine.

Their differences are due to the serving stack, so an equal or smaller difference between methods means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.ability import Place
from sparse_tasks.evaluators.exports.parts import model_id
from sparse_tasks.evaluators.records import Comparison, Outcome, PublicSettings, ServingVariance
from sparse_tasks.evaluators.results import compare_runs, read_scored
from sparse_tasks.evaluators.statistics import RunToRun, run_to_run

__all__ = ["compare_repeated", "differs", "serving_variance"]

_EQUAL: Final = (
    "dataset",
    "model",
    "attention",
    "sparsity",
    "arguments",
    "sampling",
    "begin_answer",
    "query_aware",
    "compress",
    "thinking",
)


def compare_repeated(
    run_a: str | Path,
    run_b: str | Path,
    repeats: Sequence[str | Path] = (),
    *,
    common: bool = False,
    level: float = 0.95,
    partial: bool = False,
) -> Comparison:
    """``compare_runs``, with the serving variance of each difference, from repeats of either run.

    Args:
        run_a: Folder of the first run, usually the dense baseline.
        run_b: Folder of the second run.
        repeats: Folders of runs with the settings of a or b but for engine, batches and machine. If only one run has
            repeats, the other is assumed to vary as much.
        common: Compare the samples that both runs have, and leave out the others.
        level: Confidence level, in (0, 1).
        partial: Take the samples that are answered where run a or b is not whole.

    Raises:
        DataError: A run is not whole.
        UsageError: A folder is not a scored run or no repeat, or the runs answered different samples.
    """
    comparison = compare_runs(run_a, run_b, common=common, level=level, partial=partial)
    if not repeats:
        return comparison
    runs = [Path(run_a), Path(run_b)]
    files = [read_scored(run, Outcome.__struct_fields__, partial=partial) for run in runs]
    settings, outcomes = [one.settings for one in files], [[one.outcomes] for one in files]
    seen = {run.resolve() for run in runs}
    for folder in map(Path, repeats):
        if folder.resolve() in seen:
            raise UsageError("repeat", str(folder), "is named twice; name other runs with the same settings")
        seen.add(folder.resolve())
        repeat = read_scored(folder, Outcome.__struct_fields__)
        different = [differs(run, repeat.settings) for run in settings]
        if None not in different:
            remedy = f"has another {different[0]} than {run_a}; repeats differ only in engine, batches or machine"
            raise UsageError("repeat", str(folder), remedy)
        outcomes[different.index(None)].append(repeat.outcomes)
    return serving_variance(comparison, *outcomes)


def differs(run: PublicSettings, other: PublicSettings) -> str | None:
    """The first setting by which two runs are not repeats of each other; None if they are.

    Only the last part of a model's name counts: engines find it in a folder, on the Hub or on a server.
    """
    of_run, of_other = (
        (one.dataset.sha256, model_id(one).rpartition("/")[2], one.attention.method, one.attention.sparsity,
         one.attention.arguments, one.sampling, one.begins_answer, one.query_aware, one.compresses,
         (one.thoughts.opened, one.thoughts.budget))
        for one in (run, other)
    )  # fmt: skip
    return next((name for name, a, b in zip(_EQUAL, of_run, of_other, strict=True) if a != b), None)


def serving_variance(
    comparison: Comparison, runs_a: Sequence[Sequence[Outcome]], runs_b: Sequence[Sequence[Outcome]]
) -> Comparison:
    """A comparison with the serving variance of its differences.

    Args:
        comparison: Of the first of the runs a with the first of the runs b.
        runs_a: Outcomes of run a and of its repeats.
        runs_b: Outcomes of run b and of its repeats; at least one of the two has repeats.

    Raises:
        UsageError: A repeat lacks a sample.
    """
    in_both = {row.id for row in runs_a[0]} & {row.id for row in runs_b[0]}
    groups = [_tables(runs, in_both) for runs in (runs_a, runs_b) if len(runs) > 1]

    def variance(difference: float, places: Sequence[Place]) -> ServingVariance:
        found = [run_to_run([tables[place] for place in places], comparison.level) for tables in groups]
        return _of_difference(difference, found)

    able = [(row.length, row.task) for row in comparison.rows if not row.unable]
    return msgspec.structs.replace(
        comparison,
        rows=[
            msgspec.structs.replace(row, serving=variance(row.difference, [(row.length, row.task)]))
            for row in comparison.rows
        ],
        averages=[
            msgspec.structs.replace(
                mean, serving=variance(mean.difference, [place for place in able if place[0] == mean.length])
            )
            for mean in comparison.averages
        ],
    )


def _tables(runs: Sequence[Sequence[Outcome]], ids: set[str]) -> dict[Place, list[list[float]]]:
    """Scores by task and length, a row a run, a column a sample."""
    by_id = [{row.id: row for row in run if row.id in ids} for run in runs]
    for run in by_id:
        if missing := sorted(ids - run.keys()):
            raise UsageError("sample", missing[0], f"is not in a repeat, nor are {len(missing) - 1:,} more; finish it")
    columns: dict[Place, list[list[float]]] = {}
    for id, row in by_id[0].items():
        columns.setdefault((row.length, row.task), []).append([run[id].score for run in by_id])
    return {place: [list(scores) for scores in zip(*of_place, strict=True)] for place, of_place in columns.items()}


def _of_difference(difference: float, found: Sequence[RunToRun]) -> ServingVariance:
    """The variance of a difference is that of both runs; if only one is known, both are assumed equal."""
    limit = math.sqrt(sum(one.limit**2 for one in found) / len(found))
    return ServingVariance(
        changed=sum(one.changed for one in found) / len(found),
        sd=math.sqrt(2 * sum(one.sd**2 for one in found) / len(found)),
        limit=limit,
        within=abs(difference) <= limit,
    )
