"""Groups of comparable runs, and differences of sparse runs to dense attention."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.format import TYPESET
from sparse_tasks.core.records import Phase, to_builtins
from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun
from sparse_tasks.evaluators.exports.parts import dataset_id
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Cell, Shaded
from sparse_tasks.evaluators.report.palette import shade
from sparse_tasks.evaluators.statistics import Interval, difference_intervals, macro, run_to_run

__all__ = ["Difference", "Differences", "Group", "groups", "measured", "scale", "serving", "shaded",
           "signed_with_interval", "sparsity_text"]  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Runs of one model over one data set with one way of sampling."""

    title: str  # the model, and what else tells the group apart
    dense: ScoredRun | None  # its dense run; None where there is none
    sparse: tuple[ScoredRun, ...]  # by attention as in the runs, then by sparsity, those without one last

    @property
    def runs(self) -> tuple[ScoredRun, ...]:
        return self.sparse if self.dense is None else (self.dense, *self.sparse)

    @property
    def lengths(self) -> list[int]:
        return sorted({config.length for run in self.runs for config in run.result.configs})

    @property
    def tasks(self) -> list[str]:
        """Of all runs, in the data set's order."""
        return list(dict.fromkeys(config.task for run in self.runs for config in run.result.configs))

    @property
    def attentions(self) -> dict[str, list[ScoredRun]]:
        by_attention: dict[str, list[ScoredRun]] = {}
        for run in self.sparse:
            by_attention.setdefault(run.attention, []).append(run)
        return by_attention


def groups(runs: Sequence[ScoredRun]) -> list[Group]:
    """The groups of some runs, in the order of their first runs."""
    by_pairing: dict[tuple[str, str, str], list[ScoredRun]] = {}
    for run in runs:
        by_pairing.setdefault(run.pairing, []).append(run)
    order = {name: place for place, name in reversed(list(enumerate(run.attention for run in runs)))}
    titles = _titles(list(by_pairing.values()))
    made = []
    for title, members in zip(titles, by_pairing.values(), strict=True):
        sparse = sorted((run for run in members if not run.dense), key=lambda run: (order[run.attention], _target(run)))
        made.append(Group(title, next((run for run in members if run.dense), None), tuple(sparse)))
    return made


def _target(run: ScoredRun) -> float:
    return 2.0 if run.target is None else run.target


def _titles(members: Sequence[Sequence[ScoredRun]]) -> list[str]:
    """The model's name; with the data set, and then the sampling, where that alone is not unique.

    Where there are several kinds of prompts, all say which is theirs.
    """
    firsts = [runs[0] for runs in members]
    models = [wording.name(run.model) for run in firsts]
    data = [f"{model}, {wording.name(dataset_id(run.settings))}" for model, run in zip(models, firsts, strict=True)]
    if len({run.prompts for run in firsts}) > 1:
        models, data = (
            [f"{title}, {run.prompts}" for title, run in zip(titles, firsts, strict=True)] for titles in (models, data)
        )
    sampling = [wording.settings(to_builtins(run.settings.sampling)) for run in firsts]
    sampled = [f"{title}, {settings}" for title, settings in zip(data, sampling, strict=True)]
    numbered = [f"{title} ({place})" for place, title in enumerate(sampled, start=1)]
    return next(titles for titles in (models, data, sampled, numbered) if len(set(titles)) == len(titles))


def measured(sparsity: Mapping[Phase, float] | None) -> float | None:
    """The sparsity that a run is drawn at: the larger of its phases; None if not measured."""
    return max(sparsity.values()) if sparsity else None


def sparsity_text(run: ScoredRun) -> str:
    """Target sparsity of a run; a dash where budgets were given instead."""
    return "–" if run.target is None else f"{run.target:g}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A sparse run less the dense one, over the samples that both answered."""

    n: int  # pairs
    difference: float  # mean score of the run less that of dense attention
    interval: Interval  # of the difference

    @property
    def written(self) -> str:
        difference, interval = signed_with_interval(self)
        return f"{difference} ({interval})"

    @property
    def verdict(self) -> int:
        """-1 if the interval is below 0, 1 if it is above, else 0."""
        return (self.interval.low > 0) - (self.interval.high < 0)


class Differences:
    """Differences of every sparse run with a dense partner, as in ``compare``."""

    def __init__(self, runs: Runs) -> None:
        names = [run.name for run in runs.runs if not run.dense]
        pairs = runs.able[runs.able["dense"].notna() & runs.able["run"].isin(names)]
        places = pairs.groupby(["run", "length", "task"], observed=True, sort=False).indices
        dense, scores = pairs["dense"].to_numpy(), pairs["score"].to_numpy()
        cells = {key: (dense[at], scores[at]) for key, at in places.items()}
        intervals = difference_intervals([(sparse - base).tolist() for base, sparse in cells.values()])
        self._of: dict[str, dict[tuple[int, str], Difference]] = {}
        for ((name, length, task), (base, sparse)), interval in zip(cells.items(), intervals, strict=True):
            # Rounding can move the mean outside an interval of width 0.
            mean = max(interval.low, min(interval.high, math.fsum(sparse - base) / len(base)))
            self._of.setdefault(name, {})[int(length), task] = Difference(len(base), mean, interval)

    def __bool__(self) -> bool:
        return bool(self._of)

    def cell(self, run: ScoredRun, length: int, task: str) -> Difference | None:
        """At one length and task; None without pairs."""
        return self._of.get(run.name, {}).get((length, task))

    def at_length(self, run: ScoredRun, length: int) -> Difference | None:
        """The mean over the tasks of a length, equally weighted."""
        return self._mean(cell for (at, _), cell in self._of.get(run.name, {}).items() if at == length)

    def of_task(self, run: ScoredRun, task: str) -> Difference | None:
        """The mean over the lengths of a task, equally weighted."""
        return self._mean(cell for (_, name), cell in self._of.get(run.name, {}).items() if name == task)

    def _mean(self, cells: Iterable[Difference]) -> Difference | None:
        parts = list(cells)
        if not parts:
            return None
        difference, interval = macro([(cell.difference, cell.interval) for cell in parts])
        return Difference(sum(cell.n for cell in parts), difference, interval)


def serving(runs: Runs, group: Group, length: int) -> float | None:
    """The largest difference, mean over tasks, that the serving stack alone would make; None without repeats.

    Raises:
        UsageError: A repeat lacks a sample.
    """
    repeats = [] if group.dense is None else runs.repeats.get(group.dense.name, [])
    if group.dense is None or not repeats:
        return None
    samples = runs.able[(runs.able["run"] == group.dense.name) & (runs.able["length"] == length)]
    tables = []
    for _, task in samples.groupby("task", observed=True):
        for repeat in repeats:
            if lacking := [id for id in task["id"] if id not in repeat]:
                raise UsageError("sample", lacking[0], f"and {len(lacking) - 1:,} more are not in a repeat; finish it")
        tables.append([task["score"].tolist(), *([repeat[id] for id in task["id"]] for repeat in repeats)])
    return run_to_run(tables).limit if tables else None


def scale(differences: Iterable[Difference | None]) -> float:
    """End of a heat map's scale: the largest difference, rounded up to a tenth, and 0.2 at least."""
    return max(0.2, math.ceil(10 * max((abs(each.difference) for each in differences if each), default=0.0)) / 10)


def signed_with_interval(difference: Difference | None) -> tuple[str, str]:
    """Texts of a difference and of its interval."""
    if difference is None:
        return TYPESET.missing, TYPESET.missing
    interval = difference.interval
    return TYPESET.signed(difference.difference), TYPESET.interval(interval.low, interval.high, sign=True)


def shaded(difference: Difference | None, limit: float) -> Cell:
    """A cell of a heat map whose scale ends at ``limit``."""
    if difference is None:
        return "–"
    text, low, high = (
        TYPESET.signed(value, 2) for value in (difference.difference, difference.interval.low, difference.interval.high)
    )
    return Shaded(text, f"{low} to {high}", shade(difference.difference, limit), difference.verdict != 0)
