"""Tables of a board: the runs of all submissions, grouped where they can be compared, with ranks that allow ties."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from sparse_tasks.attention.attention import DENSE
from sparse_tasks.core.errors import DataError
from sparse_tasks.core.records import Phase
from sparse_tasks.evaluators.ability import Place, config_means, unable
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.compare import average as compared_average
from sparse_tasks.evaluators.exports.parts import dataset_id
from sparse_tasks.evaluators.leaderboard.reading import SubmittedRun
from sparse_tasks.evaluators.records import AverageResult, ComparedAverage, ComparedTask, Comparison, Compress, Result
from sparse_tasks.evaluators.results import average, mean_measure
from sparse_tasks.evaluators.statistics import Rank, interval_ranks


@dataclass(frozen=True, slots=True)
class Score:
    """The mean of the tasks' means at one length, over those that the model can do.

    Attributes:
        average: The mean with its interval; of all tasks if the model can do none.
        against_dense: Difference to dense attention on the same samples; None for dense runs, if the submission has no
            dense run to compare with, and if the model can do no task.
        unable: Tasks that the model cannot do.
        able: Whether it can do any: if not, the score has no rank.
    """

    average: AverageResult
    against_dense: ComparedAverage | None
    unable: tuple[str, ...] = ()
    able: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as a row of the board.

    Attributes:
        submission: Name of the submission.
        page: Name of the submission's page, without ending.
        number: Number of the run in its submission, from 1.
        dataset: The data set's name, as the submitter had it.
        sha256: The data set's hash, which identifies it.
        tasks: Names, sorted.
        samples: Largest number of samples of a task at a length; runs that were limited alike answered the same ones.
        begun: Whether prompts ended inside the answer.
        model: Id of the model.
        attention: The method, with its arguments if no sparsity was given.
        dense: Whether attention was dense.
        target: Target sparsity; 0 for dense, None where budgets were given instead.
        prefill: Measured sparsity; 0 for dense, None where nothing was measured.
        decode: The same of decoding.
        query_aware: Whether the question stands before the text, too.
        compress: What methods that evict read before they chose what they kept.
        result: Its ``result.json``.
        comparison: With the dense run of its submission; None where there is none.
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
    query_aware: bool
    compress: Compress
    result: Result
    comparison: Comparison | None
    scores: Mapping[int, Score]

    @property
    def group(self) -> tuple[str, tuple[str, ...], int, bool, bool, str]:
        """Common to runs that answered the same samples of the same tasks, asked in the same way."""
        return self.sha256, self.tasks, self.samples, self.begun, self.query_aware, self.compress


@dataclass(frozen=True, slots=True)
class Table:
    """Runs that answered the same samples of the same tasks.

    Attributes:
        dataset: The name that most of the runs have for the data set.
        sha256: Its hash.
        query_aware: Whether the question stands before the text, too.
        compress: What methods that evict read before they chose what they kept.
        tasks: Names, sorted.
        samples: Largest number of samples of a task at a length.
        begun: Whether prompts ended inside the answer.
        lengths: All lengths with a score, ascending.
        rows: By model, then by descending score at the longest length.
        ranks: For each row, its rank among the runs of the same model, by length; none where it can do no task.
        runs: For each model and length, the number of runs that have a rank.
    """

    dataset: str
    sha256: str
    query_aware: bool
    compress: Compress
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
        query_aware=run.settings.query_aware,
        compress=run.settings.compresses,
        result=run.result,
        comparison=run.comparison,
        scores=scores(run.result, run.comparison, unable(dense_scores(run.result, run.comparison))),
    )


def dense_scores(result: Result, comparison: Comparison | None) -> dict[Place, float]:
    """Mean scores of dense attention: of a run, or of that which it is compared with; {} if unknown."""
    if result.attention.method == DENSE:
        return config_means(result)
    return {} if comparison is None else {(row.length, row.task): row.mean_a for row in comparison.rows}


def scores(result: Result, comparison: Comparison | None, failed: Collection[Place]) -> dict[int, Score]:
    """Scores by length, without the tasks that the model cannot do there.

    Raises:
        DataError: A mean is outside its interval.
    """
    try:
        return {average.length: _score(average, result, comparison, failed) for average in result.averages}
    except ValueError as error:
        raise DataError(f"{error}; sparse-tasks leaderboard check lists all problems") from error


def _score(mean: AverageResult, result: Result, comparison: Comparison | None, failed: Collection[Place]) -> Score:
    length, rows, against = mean.length, list[ComparedTask](), list[ComparedAverage]()
    configs = [config for config in result.configs if config.length == length]
    able = [config for config in configs if (length, config.task) not in failed]
    if able and len(able) < len(configs):
        mean = average(able)
    if comparison is not None:
        against = [average for average in comparison.averages if average.length == length]
        rows = [row for row in comparison.rows if row.length == length]
    judged = [msgspec.structs.replace(row, unable=(length, row.task) in failed) for row in rows]
    if judged != rows:
        against = compared_average(judged)
    lost = sorted({config.task for config in configs} - {config.task for config in able})
    return Score(mean, against[0] if against else None, tuple(lost), bool(able))


def verdict(against_dense: ComparedAverage | ComparedTask) -> Literal["better", "worse", "tie"]:
    """The side of 0 on which the interval of a difference lies; a tie if it contains 0."""
    interval = against_dense.interval
    return "better" if interval.low > 0 else "worse" if interval.high < 0 else "tie"


def measured(run: ScoredRun, phase: Phase) -> float | None:
    """Sparsity in a phase, the mean over all samples; 0 for dense runs, None where it was not measured in all."""
    return 0.0 if run.dense else mean_measure(run.result.configs, "sparsity", phase)


def tables(standings: Iterable[Standing]) -> list[Table]:
    """A table for each data set and choice of tasks and samples, those with most runs first."""
    groups: defaultdict[tuple[str, tuple[str, ...], int, bool, bool, str], list[Standing]] = defaultdict(list)
    for row in standings:
        groups[row.group].append(row)
    return [_table(groups[key]) for key in sorted(groups, key=lambda key: (-len(groups[key]), key))]


def _able(members: Sequence[Standing]) -> list[Standing]:
    """The rows, scored on what their model can do in any dense run of the table, so that they are comparable."""
    dense = defaultdict[str, list[dict[Place, float]]](list)
    for row in members:
        dense[row.model].append(dense_scores(row.result, row.comparison))
    failed = {model: unable(*means) for model, means in dense.items()}
    return [replace(row, scores=scores(row.result, row.comparison, failed[row.model])) for row in members]


def _table(members: Sequence[Standing]) -> Table:
    members = _able(members)
    lengths = sorted({length for row in members for length in row.scores})

    def place(row: Standing) -> tuple[str | float, ...]:
        best_first = [-row.scores[at].average.mean if at in row.scores else 1.0 for at in reversed(lengths)]
        return row.model.casefold(), row.model, *best_first, row.submission, row.page, row.number

    rows = tuple(sorted(members, key=place))
    ranks: list[dict[int, Rank]] = [{} for _ in rows]
    peers: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        for length, score in row.scores.items():
            if score.able:
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
        query_aware=first.query_aware,
        compress=first.compress,
        tasks=first.tasks,
        samples=first.samples,
        begun=first.begun,
        lengths=tuple(lengths),
        rows=rows,
        ranks=tuple(ranks),
        runs={key: len(numbers) for key, numbers in peers.items()},
    )
