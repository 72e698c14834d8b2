"""Two runs over the same samples, compared pair by pair.

Dense and sparse attention answer the same questions, so what is compared is what happened to each sample. That
takes away the largest source of noise, how hard the samples are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.evaluators.statistics import (
    Interval,
    difference_intervals,
    holm,
    macro,
    sign_flip_p_value,
    smallest_detectable,
)

__all__ = ["AverageDifference", "Comparison", "TaskDifference", "compare"]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskDifference:
    """One task at one length, in both runs.

    Attributes:
        length: Tokens of the prompts.
        task: Name of the task.
        n: Pairs.
        mean_a: Mean score of run a, in [0, 1].
        mean_b: Mean score of run b, in [0, 1].
        difference: Mean of b less a, in [-1, 1].
        interval: Confidence interval of the difference.
        p_value: Of the sign-flip test, two-sided.
        p_holm: The same, adjusted for all tasks of this length.
        smallest_detectable: The smallest difference that so many samples would probably have shown.
        better: Samples that b scores higher on.
        worse: Samples that b scores lower on.
        equal: The others.
        unparsed_a: Outputs of a without an answer; they score 0 and count.
        unparsed_b: Outputs of b without an answer.
    """

    length: int
    task: str
    n: int
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval
    p_value: float
    p_holm: float
    smallest_detectable: float
    better: int
    worse: int
    equal: int
    unparsed_a: int
    unparsed_b: int


@dataclass(frozen=True, slots=True)
class AverageDifference:
    """All tasks of one length, each with the same weight.

    Attributes:
        length: Tokens of the prompts.
        tasks: How many tasks.
        n: Pairs, over all tasks.
        mean_a: Mean of the tasks' means in run a, in [0, 1].
        mean_b: Mean of the tasks' means in run b, in [0, 1].
        difference: Mean of the tasks' differences, in [-1, 1].
        interval: Confidence interval of the difference, by MOVER.
    """

    length: int
    tasks: int
    n: int
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run b against run a.

    Attributes:
        dataset_sha256: The data set that both runs answered.
        level: Of the intervals, in (0, 1).
        left_out_a: Samples of a that b lacks and that were therefore left out.
        left_out_b: Samples of b that a lacks.
        rows: By length, then task.
        averages: By length.
    """

    dataset_sha256: str
    level: float
    left_out_a: int
    left_out_b: int
    rows: tuple[TaskDifference, ...]
    averages: tuple[AverageDifference, ...]

    def as_dict(self) -> dict[str, Any]:
        """What is written as JSON, by the schema ``comparison-1.0``."""
        return {
            "format": "sparse-tasks-comparison",
            "schema_version": "1.0",
            "dataset_sha256": self.dataset_sha256,
            "level": self.level,
            "left_out_a": self.left_out_a,
            "left_out_b": self.left_out_b,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "averages": [dataclasses.asdict(average) for average in self.averages],
        }


def compare(
    a: Sequence[Row],
    b: Sequence[Row],
    *,
    dataset_a: str,
    dataset_b: str,
    common: bool = False,
    level: float = 0.95,
) -> Comparison:
    """Compare run b with run a, sample by sample.

    Args:
        a: The rows of the first run, the dense one as a rule, in any order. Each has ``id``, ``task``,
            ``length``, ``score`` in [0, 1] and ``parsed``.
        b: The rows of the second run.
        dataset_a: ``dataset_sha256`` of the first run.
        dataset_b: ``dataset_sha256`` of the second run.
        common: Compare the samples that both runs have, and count the others as left out.
        level: Of the intervals, in (0, 1).

    Raises:
        UsageError: The runs answered different data sets or, unless ``common``, different samples; or they share
            no sample.
        DataError: A run has a sample twice or a score that is not in [0, 1], or the two runs do not agree what a
            sample is.
    """
    if not 0 < level < 1:
        raise UsageError("level", level, "must be in (0, 1), such as 0.95")
    if dataset_a != dataset_b:
        raise UsageError("dataset", dataset_b, f"of run b is not that of run a, {dataset_a!r}; only runs over the same "
                         "data set can be compared")  # fmt: skip
    rows_a, rows_b = _by_id("a", a), _by_id("b", b)
    only_a = [id for id in rows_a if id not in rows_b]
    only_b = [id for id in rows_b if id not in rows_a]
    if (only_a or only_b) and not common:
        missing, lacking = (only_a[0], "b") if only_a else (only_b[0], "a")
        raise UsageError(
            "sample", missing, f"is not in run {lacking}: {len(only_a)} samples are in run a only, {len(only_b)} in "
            "run b only; finish the runs, or compare the samples that both have (--common)"
        )  # fmt: skip
    if len(rows_a) == len(only_a):
        raise UsageError("samples", 0, "are in both runs; there is nothing to compare")

    pairs: dict[tuple[int, str], list[tuple[Row, Row]]] = {}
    for id, row in rows_a.items():
        if id in rows_b:
            pairs.setdefault(_place(id, row, rows_b[id]), []).append((row, rows_b[id]))
    differences = {place: [b["score"] - a["score"] for a, b in of_it] for place, of_it in pairs.items()}
    intervals = dict(zip(differences, difference_intervals(list(differences.values()), level), strict=True))
    lengths = sorted({length for length, _ in pairs})
    rows: list[TaskDifference] = []
    for length in lengths:
        tasks = sorted(task for at, task in pairs if at == length)
        places = [(length, task) for task in tasks]
        rows += _adjusted([_task_difference(at, pairs[at], differences[at], intervals[at], level) for at in places])
    return Comparison(
        dataset_sha256=dataset_a,
        level=level,
        left_out_a=len(only_a),
        left_out_b=len(only_b),
        rows=tuple(rows),
        averages=tuple(_average([row for row in rows if row.length == length]) for length in lengths),
    )


def _by_id(run: str, rows: Sequence[Row]) -> dict[str, Row]:
    """The rows of a run by id."""
    found: dict[str, Row] = {}
    for row in rows:
        if row["id"] in found:
            raise DataError(f"run {run} has sample {row['id']!r} twice")
        if not 0 <= row["score"] <= 1:  # not true of NaN either
            raise DataError(f"run {run} scores sample {row['id']!r} {row['score']!r}, which is not in [0, 1]")
        found[row["id"]] = row
    return found


def _place(id: str, a: Row, b: Row) -> tuple[int, str]:
    """The length and task under which a pair counts."""
    if (a["length"], a["task"]) != (b["length"], b["task"]):
        raise DataError(
            f"sample {id!r} is {a['task']} at {a['length']} in run a and {b['task']} at {b['length']} in run b"
        )
    return a["length"], a["task"]


def _task_difference(
    place: tuple[int, str],
    pairs: Sequence[tuple[Row, Row]],
    differences: Sequence[float],
    interval: Interval,
    level: float,
) -> TaskDifference:
    """One row, its p-value not adjusted yet."""
    length, task = place
    p_value = sign_flip_p_value(differences)
    return TaskDifference(
        length=length,
        task=task,
        n=len(pairs),
        mean_a=_mean([a["score"] for a, _ in pairs]),
        mean_b=_mean([b["score"] for _, b in pairs]),
        difference=_mean(differences),
        interval=interval,
        p_value=p_value,
        p_holm=p_value,
        smallest_detectable=smallest_detectable(differences, level),
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
        equal=sum(difference == 0 for difference in differences),
        unparsed_a=sum(not a["parsed"] for a, _ in pairs),
        unparsed_b=sum(not b["parsed"] for _, b in pairs),
    )


def _adjusted(rows: Sequence[TaskDifference]) -> list[TaskDifference]:
    """The rows of one length, with the p-values that hold for all of them together."""
    adjusted = holm([row.p_value for row in rows])
    return [dataclasses.replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def _average(rows: Sequence[TaskDifference]) -> AverageDifference:
    difference, interval = macro([(row.difference, row.interval) for row in rows])
    return AverageDifference(
        length=rows[0].length,
        tasks=len(rows),
        n=sum(row.n for row in rows),
        mean_a=_mean([row.mean_a for row in rows]),
        mean_b=_mean([row.mean_b for row in rows]),
        difference=difference,
        interval=interval,
    )


def _mean(values: Sequence[float]) -> float:
    """The mean, rounded once: the same in any order."""
    return math.fsum(values) / len(values)
