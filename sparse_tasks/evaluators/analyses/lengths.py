"""Whether longer prompts tolerate more sparsity: what is lost of dense scores, by length."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import pandas as pd

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.by_method import METHOD, by_method, some
from sparse_tasks.evaluators.analyses.table import Runs
from sparse_tasks.evaluators.statistics import relative_error_interval

__all__ = ["length_effects"]

_COLUMNS: Final = [
    *(*METHOD, "length", "tasks", "n", "prefill_sparsity", "decode_sparsity"),
    *("dense", "sparse", "relative_error", "low", "high"),
]


def length_effects(runs: Runs) -> pd.DataFrame:
    """The relative error ``(dense - sparse) / dense`` of each method and sparsity, at each length.

    Source: "The Sparse Frontier" (arXiv 2504.17768), which finds about .33, .26 and .20 at 16k, 32k and 64k for a
    budget of 1/20. Both scores are means over tasks, each with the same weight, of the samples that both answered;
    the interval is that of ``statistics.relative_error_interval``.

    Returns:
        A row for each model, method, asked sparsity and length, in this order: ``model``, ``attention``, ``asked``
        (NaN where budgets were given), ``length``, ``tasks`` and ``n`` (samples) that are compared,
        ``prefill_sparsity`` and ``decode_sparsity`` (measured means; NaN where nothing was), ``dense`` and ``sparse``
        in [0, 1], ``relative_error`` (at most 1; below 0 where sparse attention scores higher), ``low`` and ``high``.
        Without a dense run, and where dense scores are all 0, the error is NaN; where they are so few that it may be
        anything, the limits are. ``attrs["notes"]`` tells of both.
    """
    rows: list[dict[str, Any]] = []
    unknown: dict[str, list[str]] = {}
    samples = by_method(runs.samples)
    # Numbers alone: texts would be copied for each group.
    samples = samples.assign(task=samples["task"].cat.codes).drop(columns=["dataset", "id"])
    for key, of_it in samples.groupby([*METHOD, "length"], observed=True, dropna=False):
        row = dict(zip([*METHOD, "length"], key, strict=True)) | _row(of_it)
        if math.isnan(row["low"]):
            asked = "" if math.isnan(row["asked"]) else f" {row['asked']:g}"
            where = f"{row['attention']}{asked} at {label(int(row['length']))}"
            unknown.setdefault(f"{row['model']}: {_why(row)}", []).append(where)
        rows.append(row)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table.attrs["notes"] = tuple(f"{why} ({some(where)})" for why, where in unknown.items())
    return table


def _row(samples: pd.DataFrame) -> dict[str, Any]:
    """What is said of one method at one length."""
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
    measured = {name: float(shown[name].mean()) for name in ("prefill_sparsity", "decode_sparsity")}
    compared = {"tasks": len(tasks), "n": len(shown), "dense": dense, "sparse": sparse}
    return compared | measured | {"relative_error": error, "low": low, "high": high}


def _why(row: dict[str, Any]) -> str:
    """Why there is no error, or no interval."""
    if math.isnan(row["dense"]):
        return "no dense run over the same samples to compare with"
    if row["dense"] == 0:
        return "dense attention scores 0, there is nothing to lose"
    return "dense attention scores too little to say how much of it is lost"
