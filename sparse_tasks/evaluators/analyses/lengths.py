"""Whether longer prompts tolerate more sparsity: the share of dense scores that is lost, by length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.frames import frame, shortened
from sparse_tasks.evaluators.analyses.table import METHOD, Runs, by_method
from sparse_tasks.evaluators.statistics import relative_error_interval

_Key: TypeAlias = tuple[str, str, str, float, int]  # model, prompts, attention, asked sparsity, length


@dataclass(frozen=True)
class LengthEffect:
    """A method at a sparsity and a length, against dense attention."""

    model: str
    prompts: str  # query-aware, question after or query-agnostic
    attention: str
    asked: float  # target sparsity; NaN where budgets were given
    length: int
    tasks: int  # tasks that are compared
    n: int  # samples that are compared
    prefill_sparsity: float  # measured mean; NaN where nothing was
    decode_sparsity: float  # measured mean; NaN where nothing was
    dense: float  # mean over tasks of dense scores, in [0, 1]
    sparse: float  # mean over tasks of sparse scores, in [0, 1]
    relative_error: float  # ``(dense - sparse) / dense``; NaN without a dense run, or with dense scores of 0 alone
    low: float  # lower limit of the error; NaN where dense scores are so few that it may be anything
    high: float  # upper limit


def length_effects(runs: Runs) -> pd.DataFrame:
    """Relative error of each method and sparsity at each length, in this order: a row a ``LengthEffect``.

    Source: "The Sparse Frontier" (arXiv 2504.17768), which has about .33, .26 and .20 at 16k, 32k and 64k for a
    budget of 1/20. Both scores are means over tasks, each with the same weight, of the samples that both answered;
    the interval is that of ``statistics.relative_error_interval``. Notes tell of errors and limits that are NaN.
    """
    rows: list[LengthEffect] = []
    unknown: dict[str, list[str]] = {}
    samples = by_method(runs.able)
    # Numbers alone: texts would be copied for each group.
    samples = samples.assign(task=samples["task"].cat.codes).drop(columns=["dataset", "id"])
    for key, group in samples.groupby([*METHOD, "length"], observed=True, dropna=False):
        row = _row(key, group)
        if math.isnan(row.low):
            asked = "" if math.isnan(row.asked) else f" {row.asked:g}"
            where = f"{row.attention}{asked} at {label(int(row.length))}"
            unknown.setdefault(f"{row.model}: {_why(row)}", []).append(where)
        rows.append(row)
    return frame(LengthEffect, rows, (f"{why} ({shortened(where)})" for why, where in unknown.items()))


def _row(key: _Key, samples: pd.DataFrame) -> LengthEffect:
    paired = samples.dropna(subset="dense")
    shown = samples if paired.empty else paired
    task, scores = shown["task"].to_numpy(), shown[["dense", "score"]].to_numpy()
    tasks = [scores[task == number] for number in np.unique(task)]
    dense, sparse = (float(np.mean([task[:, column].mean() for task in tasks])) for column in (0, 1))
    low = high = error = math.nan
    if dense > 0:
        error = (dense - sparse) / dense
        interval = relative_error_interval(tasks)
        if math.isfinite(interval.low):
            low, high = interval.low, interval.high
    prefill, decode = (float(shown[f"{phase}_sparsity"].mean()) for phase in ("prefill", "decode"))
    return LengthEffect(*key, len(tasks), len(shown), prefill, decode, dense, sparse, error, low, high)


def _why(row: LengthEffect) -> str:
    if math.isnan(row.dense):
        return "no dense run over the same samples to compare with"
    if row.dense == 0:
        return "dense attention scores 0, so there is nothing to lose"
    return "dense attention scores too low to say what share of it is lost"
