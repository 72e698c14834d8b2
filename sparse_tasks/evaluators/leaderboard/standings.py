"""Tables of a board: the runs of all submissions, grouped where they can be compared, with ranks that allow ties."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sparse_tasks.core.records import Phase
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.exports.parts import dataset_id
from sparse_tasks.evaluators.leaderboard.reading import SubmittedRun
from sparse_tasks.evaluators.records import AverageResult, ComparedAverage, ComparedTask
from sparse_tasks.evaluators.results import mean_measure
from sparse_tasks.evaluators.statistics import Rank, interval_ranks


@dataclass(frozen=True, slots=True)
class Score:
    """The mean of the tasks' means at one length.

    Attributes:
        average: The mean with its interval.
        against_dense: Difference to dense attention on the same samples; None for dense runs, and where the
            submission has no dense run to compare with.
    """

    average: AverageResult
    against_dense: ComparedAverage | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as a row of the board.

    Attributes:
        submission: Name of the submission.
        page: Name of the submission's page, without ending.
        number: Number of the run in its submission, from 1.
        dataset: The data set's name, as the submitter had it.
        sha256: The data set's hash, by which it is known.
        tasks: Names, sorted.
        samples: Largest number of samples of a task at a length; runs that were limited alike answered the same ones.
        begun: Whether prompts ended inside the answer.
        model: Id of the model.
        attention: The method, with its arguments where no sparsity was given.
        dense: Whether attention was dense.
        target: Target sparsity; 0 for dense, None where budgets were given instead.
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
    begun: bool
    model: str
    attention: str
    dense: bool
    target: float | None
    prefill: float | None
    decode: float | None
    scores: Mapping[int, Score]

    @property
    def group(self) -> tuple[str, tuple[str, ...], int, bool]:
        """Common to runs that answered the same samples of the same tasks, asked in the same way."""
        return self.sha256, self.tasks, self.samples, self.begun


@dataclass(frozen=True, slots=True)
class Table:
    """Runs that answered the same samples of the same tasks.

    Attributes:
        dataset: The name that most of the runs have for the data set.
        sha256: Its hash.
        tasks: Names, sorted.
        samples: Largest number of samples of a task at a length.
        begun: Whether prompts ended inside the answer.
        lengths: All that a run has a score at, rising.
        rows: By model, then from the highest score at the longest length down.
        ranks: For each row, its rank among the runs of the same model, by length.
        runs: For each model and length, the number of runs that have a rank.
    """

    dataset: str
    sha256: str
    tasks: tuple[str, ...]
    samples: int
    begun: bool
    lengths: tuple[int, ...]
    rows: tuple[Standing, ...]
    ranks: tuple[Mapping[int, Rank], ...]
    runs: Mapping[tuple[str, int], int]


def standing(submission: str, page: str, number: int, run: SubmittedRun) -> Standing:
    """A run's row.

    Args:
        submission: Name of the submission.
        page: Name of the submission's page, without ending.
        number: Number of the run in its submission, from 1.
        run: The run.
    """
    dataset = run.settings.dataset
    against = {} if run.comparison is None else {average.length: average for average in run.comparison.averages}
    return Standing(
        submission=submission,
        page=page,
        number=number,
        dataset=dataset_id(run.settings),
        sha256=dataset.sha256,
        tasks=tuple(sorted(dataset.tasks)),
        samples=max(config.n for config in run.result.configs),
        begun=run.settings.begins_answer,
        model=run.model,
        attention=run.attention,
        dense=run.dense,
        target=run.target,
        prefill=measured(run, "prefill"),
        decode=measured(run, "decode"),
        scores={average.length: Score(average, against.get(average.length)) for average in run.result.averages},
    )


def verdict(against_dense: ComparedAverage | ComparedTask) -> Literal["better", "worse", "tie"]:
    """The side of 0 on which the interval of a difference lies; a tie where it holds 0."""
    interval = against_dense.interval
    return "better" if interval.low > 0 else "worse" if interval.high < 0 else "tie"


def measured(run: ScoredRun, phase: Phase) -> float | None:
    """Sparsity in a phase, the mean over all samples; 0 for dense runs, None where it was not measured in all."""
    return 0.0 if run.dense else mean_measure(run.result.configs, "sparsity", phase)


def tables(standings: Iterable[Standing]) -> list[Table]:
    """A table for each data set and choice of tasks and samples, those with most runs first."""
    groups: defaultdict[tuple[str, tuple[str, ...], int, bool], list[Standing]] = defaultdict(list)
    for row in standings:
        groups[row.group].append(row)
    return [_table(groups[key]) for key in sorted(groups, key=lambda key: (-len(groups[key]), key))]


def _table(members: Sequence[Standing]) -> Table:
    lengths = sorted({length for row in members for length in row.scores})

    def place(row: Standing) -> tuple[str | float, ...]:
        best_first = [-row.scores[at].average.mean if at in row.scores else 1.0 for at in reversed(lengths)]
        return row.model.casefold(), row.model, *best_first, row.submission, row.page, row.number

    rows = tuple(sorted(members, key=place))
    ranks: list[dict[int, Rank]] = [{} for _ in rows]
    peers: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        for length in row.scores:
            peers[row.model, length].append(i)
    for (_, length), numbers in peers.items():
        averages = [rows[i].scores[length].average for i in numbers]
        found = interval_ranks([one.mean for one in averages], [(one.low, one.high) for one in averages])
        for i, rank in zip(numbers, found, strict=True):
            ranks[i][length] = rank
    names = Counter(row.dataset for row in rows)
    first = rows[0]
    return Table(
        dataset=min(names, key=lambda name: (-names[name], name)),
        sha256=first.sha256,
        tasks=first.tasks,
        samples=first.samples,
        begun=first.begun,
        lengths=tuple(lengths),
        rows=rows,
        ranks=tuple(ranks),
        runs={key: len(numbers) for key, numbers in peers.items()},
    )
