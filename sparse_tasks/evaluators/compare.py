"""Comparison of two runs over the same samples, pair by pair.

Dense and sparse attention answer the same questions, so a comparison looks at each sample. This removes the largest
source of noise, how hard the samples are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import msgspec

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.evaluators.ability import Place
from sparse_tasks.evaluators.records import ComparedAverage, ComparedTask, Comparison, DifferenceInterval, Outcome
from sparse_tasks.evaluators.statistics import (
    Interval,
    difference_intervals,
    holm,
    macro,
    sign_flip_p_value,
    smallest_detectable,
)


def compare(
    a: Sequence[Outcome],
    b: Sequence[Outcome],
    *,
    dataset_a: str,
    dataset_b: str,
    common: bool = False,
    level: float = 0.95,
    unable: Collection[Place] = (),
) -> Comparison:
    """Compare run b with run a, sample by sample.

    Args:
        a: Outcomes of the first run, usually the dense baseline, in any order; scores in [0, 1].
        b: Outcomes of the second run.
        dataset_a: ``dataset_sha256`` of the first run.
        dataset_b: ``dataset_sha256`` of the second run.
        common: Compare the samples that both runs have, and count the others as left out.
        level: Confidence level of the intervals, in (0, 1).
        unable: Tasks at lengths that the model cannot do; they count in no average and no correction.

    Raises:
        UsageError: The runs answered different data sets or, unless ``common``, different samples; or they share
            no sample.
        DataError: A run has a sample twice or a score that is not in [0, 1], or the two runs disagree about a sample.
    """
    if not 0 < level < 1:
        raise UsageError("level", level, "must be in (0, 1), such as 0.95")
    if dataset_a != dataset_b:
        raise UsageError("dataset", dataset_b, f"differs from that of run a, {dataset_a!r}; only runs over the "
                         "same data set can be compared")  # fmt: skip
    rows_a, rows_b = _by_id("a", a), _by_id("b", b)
    only_a = [id for id in rows_a if id not in rows_b]
    only_b = [id for id in rows_b if id not in rows_a]
    if (only_a or only_b) and not common:
        missing, lacking = (only_a[0], "b") if only_a else (only_b[0], "a")
        raise UsageError(
            "sample", missing, f"is not in run {lacking}: {len(only_a)} samples are only in run a, {len(only_b)} only "
            "in run b; finish the runs, or compare the samples that both have (--common)"
        )  # fmt: skip
    if len(rows_a) == len(only_a):
        raise UsageError("samples", 0, "are in both runs, so nothing can be compared")

    pairs: dict[Place, list[tuple[Outcome, Outcome]]] = {}
    for id, row in rows_a.items():
        if id in rows_b:
            pairs.setdefault(_place(row, rows_b[id]), []).append((row, rows_b[id]))
    differences = {place: [b.score - a.score for a, b in paired] for place, paired in pairs.items()}
    intervals = dict(zip(differences, difference_intervals(list(differences.values()), level), strict=True))
    lengths = sorted({length for length, _ in pairs})
    rows: list[ComparedTask] = []
    averages: list[ComparedAverage] = []
    for length in lengths:
        places = sorted(place for place in pairs if place[0] == length)
        of_length = _adjusted(
            [
                _compared_task(place, pairs[place], differences[place], intervals[place], level, place in unable)
                for place in places
            ]
        )
        rows += of_length
        averages += average(of_length)
    return Comparison(
        format="sparse-tasks-comparison",
        schema_version="1.0",
        dataset_sha256=dataset_a,
        level=level,
        left_out_a=len(only_a),
        left_out_b=len(only_b),
        rows=rows,
        averages=averages,
    )


def _by_id(run: str, rows: Sequence[Outcome]) -> dict[str, Outcome]:
    """Outcomes of a run by id."""
    by_id: dict[str, Outcome] = {}
    for row in rows:
        if row.id in by_id:
            raise DataError(f"run {run} has sample {row.id!r} twice")
        if not 0 <= row.score <= 1:  # also catches NaN
            raise DataError(f"run {run} scores sample {row.id!r} {row.score!r}, which is not in [0, 1]")
        by_id[row.id] = row
    return by_id


def _place(a: Outcome, b: Outcome) -> Place:
    """The length and task under which a pair counts."""
    if (a.length, a.task) != (b.length, b.task):
        raise DataError(f"sample {a.id!r} is {a.task} at {a.length} in run a and {b.task} at {b.length} in run b")
    return a.length, a.task


def _compared_task(
    place: Place,
    pairs: Sequence[tuple[Outcome, Outcome]],
    differences: Sequence[float],
    interval: Interval,
    level: float,
    unable: bool,
) -> ComparedTask:
    """A row; its p-value is not adjusted yet."""
    length, task = place
    p_value = sign_flip_p_value(differences)
    return ComparedTask(
        length=length,
        task=task,
        n=len(pairs),
        mean_a=_mean([a.score for a, _ in pairs]),
        mean_b=_mean([b.score for _, b in pairs]),
        difference=_mean(differences),
        interval=recorded(interval),
        p_value=p_value,
        p_holm=p_value,
        smallest_detectable=smallest_detectable(differences, level),
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
        equal=sum(difference == 0 for difference in differences),
        unparsed_a=sum(not a.parsed for a, _ in pairs),
        unparsed_b=sum(not b.parsed for _, b in pairs),
        unable=unable,
    )


def _adjusted(rows: Sequence[ComparedTask]) -> list[ComparedTask]:
    """The rows of a length, with p-values adjusted for those that the model can do."""
    adjusted = iter(holm([row.p_value for row in rows if not row.unable]))
    return [msgspec.structs.replace(row, p_holm=1.0 if row.unable else next(adjusted)) for row in rows]


def average(rows: Sequence[ComparedTask]) -> list[ComparedAverage]:
    """The mean over the tasks of a length that the model can do; None if there are none."""
    able = [row for row in rows if not row.unable]
    if not able:
        return []
    difference, interval = macro(
        [(row.difference, Interval(row.interval.low, row.interval.high, row.interval.method)) for row in able]
    )
    mean = ComparedAverage(
        length=able[0].length,
        tasks=len(able),
        n=sum(row.n for row in able),
        mean_a=_mean([row.mean_a for row in able]),
        mean_b=_mean([row.mean_b for row in able]),
        difference=difference,
        interval=recorded(interval),
    )
    return [mean]


def recorded(interval: Interval) -> DifferenceInterval:
    """The interval of a difference, as a record."""
    return msgspec.convert(interval, DifferenceInterval, from_attributes=True)


def _mean(values: Sequence[float]) -> float:
    """The mean, rounded once, so independent of the order."""
    return math.fsum(values) / len(values)
