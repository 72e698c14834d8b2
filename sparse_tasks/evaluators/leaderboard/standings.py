"""Who stands where: the runs of all submissions, grouped where they can be compared, with ranks that know of ties."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.exports.parts import dataset_id
from sparse_tasks.evaluators.leaderboard.submission import SubmittedRun

__all__ = [
    "Difference",
    "Rank",
    "Score",
    "Standing",
    "Table",
    "difference",
    "mean_sparsity",
    "measured",
    "ranks",
    "standing",
    "tables",
]


@dataclass(frozen=True, slots=True)
class Difference:
    """What sparse attention scored more than dense attention, on the same samples.

    Attributes:
        mean: In [-1, 1].
        low: Lower limit of its interval.
        high: Upper limit.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["better", "worse", "tie"]:
        """On which side of 0 the interval lies; a tie where it holds 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "tie"


@dataclass(frozen=True, slots=True)
class Score:
    """The mean of the tasks' means at one length.

    Attributes:
        mean: In [0, 1].
        low: Lower limit of its interval.
        high: Upper limit.
        n: Samples, over all tasks.
        against_dense: None for dense runs, and where the submission has no dense run to hold it against.
    """

    mean: float
    low: float
    high: float
    n: int
    against_dense: Difference | None


@dataclass(frozen=True, slots=True)
class Rank:
    """The ranks that a run may have, for all that its interval says: from ``first`` to ``last`` among ``of``."""

    first: int
    last: int
    of: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as a row of the board.

    Attributes:
        submission: The name that its submitter gave.
        page: Name of the submission's page, without ending.
        number: Of the run in its submission, from 1.
        dataset: The data set's name, as the submitter had it.
        sha256: The data set's hash, by which it is known.
        tasks: Names, sorted.
        samples: Of a task at a length, at most: runs that were limited alike answered the same ones.
        model: Its id.
        attention: The method, with arguments where no sparsity was asked.
        dense: Whether attention was dense.
        asked: The sparsity that was asked; 0 for dense, None where budgets were given instead.
        prefill: Measured sparsity; 0 for dense, None where nothing was measured.
        decode: The same of decoding.
        scores: By length.
    """

    submission: str
    page: str
    number: int
    dataset: str
    sha256: str
    tasks: tuple[str, ...]
    samples: int
    model: str
    attention: str
    dense: bool
    asked: float | None
    prefill: float | None
    decode: float | None
    scores: Mapping[int, Score]

    @property
    def group(self) -> tuple[str, tuple[str, ...], int]:
        """What runs have in common that answered the same samples of the same tasks."""
        return self.sha256, self.tasks, self.samples


@dataclass(frozen=True, slots=True)
class Table:
    """Runs that answered the same samples of the same tasks.

    Attributes:
        dataset: The name that most of the runs have for the data set.
        sha256: Its hash.
        tasks: Names, sorted.
        samples: Of a task at a length, at most.
        lengths: All that a run has a score at, rising.
        rows: By model, then from the highest score at the longest length down.
        ranks: For each row, the rank at each of its lengths.
    """

    dataset: str
    sha256: str
    tasks: tuple[str, ...]
    samples: int
    lengths: tuple[int, ...]
    rows: tuple[Standing, ...]
    ranks: tuple[Mapping[int, Rank], ...]


def standing(submission: str, page: str, number: int, run: SubmittedRun) -> Standing:
    """A run's row.

    Args:
        submission: The name that its submitter gave.
        page: Name of the submission's page, without ending.
        number: Of the run in its submission, from 1.
        run: The run.
    """
    chosen = run.settings.dataset
    against = {} if run.comparison is None else {one["length"]: one for one in run.comparison["averages"]}
    return Standing(
        submission=submission,
        page=page,
        number=number,
        dataset=dataset_id(run.settings),
        sha256=chosen.sha256,
        tasks=tuple(sorted(chosen.tasks)),
        samples=max(config.n for config in run.result.configs),
        model=run.model,
        attention=run.attention,
        dense=run.dense,
        asked=run.asked,
        prefill=measured(run, "prefill"),
        decode=measured(run, "decode"),
        scores={
            one.length: Score(one.mean, one.low, one.high, one.n, difference(against.get(one.length)))
            for one in run.result.averages
        },
    )


def difference(row: Mapping[str, Any] | None) -> Difference | None:
    """What a row or an average of ``comparison-1.0`` says."""
    return None if row is None else Difference(row["difference"], row["interval"]["low"], row["interval"]["high"])


def measured(run: ScoredRun, phase: str) -> float | None:
    """Sparsity in a phase, the mean over all samples; 0 for dense runs, None where it was not measured in all."""
    return 0.0 if run.dense else mean_sparsity(to_builtins(run.result)["configs"], phase)


def mean_sparsity(configs: Sequence[Mapping[str, Any]], phase: str) -> float | None:
    """Measured sparsity in a phase, the mean over all samples; None where it was not measured in all."""
    values = [(config["sparsity"] or {}).get(phase) for config in configs]
    if None in values:
        return None
    return float(sum(v * one["n"] for v, one in zip(values, configs, strict=True)) / sum(one["n"] for one in configs))


def tables(standings: Iterable[Standing]) -> list[Table]:
    """A table for each data set and choice of tasks and samples, those with most runs first."""
    groups: defaultdict[tuple[str, tuple[str, ...], int], list[Standing]] = defaultdict(list)
    for one in standings:
        groups[one.group].append(one)
    return [_table(groups[key]) for key in sorted(groups, key=lambda key: (-len(groups[key]), key))]


def _table(members: Sequence[Standing]) -> Table:
    lengths = sorted({length for one in members for length in one.scores})

    def place(one: Standing) -> tuple[Any, ...]:
        best_first = tuple(-one.scores[at].mean if at in one.scores else 1.0 for at in reversed(lengths))
        return one.model.casefold(), one.model, *best_first, one.submission, one.page, one.number

    rows = tuple(sorted(members, key=place))
    found: list[dict[int, Rank]] = [{} for _ in rows]
    peers: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        for length in row.scores:
            peers[row.model, length].append(i)
    for (_, length), places in peers.items():
        limits = [(rows[i].scores[length].low, rows[i].scores[length].high) for i in places]
        for i, rank in zip(places, ranks(limits), strict=True):
            found[i][length] = rank
    names = Counter(row.dataset for row in rows)
    first = rows[0]
    return Table(
        dataset=min(names, key=lambda name: (-names[name], name)),
        sha256=first.sha256,
        tasks=first.tasks,
        samples=first.samples,
        lengths=tuple(lengths),
        rows=rows,
        ranks=tuple(found),
    )


def ranks(intervals: Sequence[tuple[float, float]]) -> list[Rank]:
    """The ranks that each may have: one is surely better than another where their intervals have nothing in common.

    Args:
        intervals: Lower and upper limits of the scores, shape ``[n, 2]``, in any order.
    """
    lows, highs = sorted(low for low, _ in intervals), sorted(high for _, high in intervals)
    n = len(intervals)
    return [
        Rank(first=1 + n - bisect_right(lows, high), last=n - bisect_left(highs, low), of=n) for low, high in intervals
    ]
