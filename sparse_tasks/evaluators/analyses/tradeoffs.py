"""Which method serves which task: methods of one sparsity side by side, task by task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparse_tasks.evaluators.analyses.by_method import by_method
from sparse_tasks.evaluators.analyses.table import Runs
from sparse_tasks.evaluators.statistics import Interval, difference_intervals, macro, ranks

__all__ = ["task_tradeoffs"]

_COLUMNS: Final = [
    *("model", "asked", "length", "task", "attention", "n", "score", "difference", "low", "high"),
    *("rank", "rank_low", "rank_high"),
]


_Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Cell:
    """A task at a length.

    Attributes:
        scores: Of each method that answered some samples; NaN for the others, which another method answered.
        answered: How many samples each of them answered.
        means: Mean score of each.
        differences: Mean difference to dense attention of each method of which dense attention answered some samples.
    """

    scores: dict[str, _Scores]
    answered: dict[str, int]
    means: dict[str, float]
    differences: dict[str, tuple[float, Interval]]


def task_tradeoffs(runs: Runs) -> pd.DataFrame:
    """Methods by task: what each scores, how far that is from dense attention, and its rank among the others.

    Only methods of the same model and the same asked sparsity are ranked with each other; those that were given
    budgets instead have no rank. Beside each task at each length stand means: over lengths (``length`` NaN), over tasks
    (``task`` None), and over both. Each task at each length has the same weight in them, and they are of what all the
    methods that are compared have answered, so that no method wins by leaving out what is hard.

    Differences have the intervals of ``statistics.difference_interval``, joined by ``macro``; ranks those of
    ``statistics.ranks``. They hold for each row alone: among many rows, some will miss.

    Returns:
        Ordered by model, asked sparsity, task, length and method: ``model``, ``asked``, ``length``, ``task``,
        ``attention``, ``n`` (samples), ``score`` in [0, 1], ``difference`` (sparse less dense, over samples that both
        answered; NaN without a dense run), ``low``, ``high``, ``rank`` (1 is the best; methods of the same score share
        the mean of their places), ``rank_low``, ``rank_high``. ``attrs["notes"]`` tells what could not be compared.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    samples = by_method(runs.samples)
    budgeted = samples["asked"].isna()
    alone = samples["attention"].astype(str).where(budgeted, "")
    for (model, asked, _), group in samples.groupby(["model", "asked", alone], observed=True, dropna=False):
        cells = _cells(group)
        lengths = sorted({length for length, _ in cells})
        tasks = sorted({task for _, task in cells})
        for task, length in product([*tasks, None], [*lengths, math.nan]):
            chosen = [
                cell
                for (at, of), cell in cells.items()
                if (math.isnan(length) or at == length) and (task is None or of == task)
            ]
            methods = sorted({method for cell in chosen for method in cell.scores})
            common = [cell for cell in chosen if len(cell.scores) == len(methods)]
            where = {"model": model, "asked": asked, "length": length, "task": task}
            if chosen and not common:
                notes.append(_nothing_in_common(where, methods))
            elif chosen:
                rows += [where | row for row in _compared(common, methods, ranked=not math.isnan(asked))]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table.attrs["notes"] = tuple(dict.fromkeys(notes))
    return table


def _cells(samples: pd.DataFrame) -> dict[tuple[int, str], _Cell]:
    """The cells of methods that are compared, by length and task."""
    wide = samples.pivot(index=["length", "task", "dataset", "id"], columns="attention", values="score")
    lost = samples.assign(difference=samples["score"] - samples["dense"]).dropna(subset="difference")
    paired = {
        key: part.to_numpy() for key, part in lost.groupby(["length", "task", "attention"], observed=True)["difference"]
    }
    intervals = difference_intervals(list(paired.values()))
    means = {
        key: (float(np.clip(math.fsum(part) / len(part), interval.low, interval.high)), interval)
        for (key, part), interval in zip(paired.items(), intervals, strict=True)
    }
    found = {}
    for place, part in wide.groupby(level=["length", "task"], observed=True):
        scores = {
            str(method): column
            for method, column in zip(wide.columns, part.to_numpy().T, strict=True)
            if not np.isnan(column).all()
        }
        known = {method: column[~np.isnan(column)] for method, column in scores.items()}
        found[place] = _Cell(
            scores,
            {method: len(column) for method, column in known.items()},
            {method: math.fsum(column) / len(column) for method, column in known.items()},
            {method: means[*place, method] for method in scores if (*place, method) in means},
        )
    return found


def _compared(cells: Sequence[_Cell], methods: Sequence[str], ranked: bool) -> Iterator[dict[str, Any]]:
    """A row for each method, of the mean over cells."""
    places = ranks([np.column_stack([cell.scores[method] for method in methods]) for cell in cells])
    for method, place in zip(methods, places, strict=True):
        row = {
            "attention": method,
            "n": sum(cell.answered[method] for cell in cells),
            "score": math.fsum(cell.means[method] for cell in cells) / len(cells),
        }
        if all(method in cell.differences for cell in cells):
            mean, interval = macro([cell.differences[method] for cell in cells])
            row |= {"difference": mean, "low": interval.low, "high": interval.high}
        if ranked:
            row |= {"rank": place.rank, "rank_low": place.low, "rank_high": place.high}
        yield row


def _nothing_in_common(where: Mapping[str, Any], methods: Sequence[str]) -> str:
    what = "over tasks" if where["task"] is None else f"of {where['task']} over lengths"
    return f"{where['model']} at {where['asked']:g}: {', '.join(methods)} share no task at a length; no mean {what}"
