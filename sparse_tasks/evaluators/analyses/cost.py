"""What each run costs at each length, by the paper's formulas and with what was measured of its attention."""

from __future__ import annotations

import math
from typing import Any, Final

import pandas as pd

from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun
from sparse_tasks.evaluators.costs import (
    attention_share,
    decode_reads,
    index_flops,
    index_reads,
    kv_share,
    prefill_flops,
)

__all__ = ["cost"]

_COLUMNS: Final = [
    *("run", "model", "attention", "asked", "length", "tokens", "density_prefill", "density_decode"),
    *("prefill_flops", "prefill_flops_dense", "prefill_index_flops"),
    *("decode_reads", "decode_reads_dense", "decode_index_reads"),
    *("prefill_speedup", "decode_speedup", "attention_share", "kv_share"),
]


def cost(runs: Runs) -> pd.DataFrame:
    """FLOPs of a prompt and elements that a decoding step reads, at batch 1, for each run and length.

    The formulas are those of ``costs``, with the mean tokens of the prompts and the density that was measured, means
    over all samples of a length. Nothing was timed: a speedup is what these counts would give, dense over sparse, with
    what the method does to find out what to compute counted in.

    Returns:
        A row for each run and length, in the runs' order: ``run``, ``model``, ``attention``, ``asked`` (sparsity; NaN
        where budgets were given), ``length``, ``tokens`` (mean prompt; ``length`` where nobody counted),
        ``density_prefill`` and ``density_decode`` (measured, in [0, 1]; NaN where nothing was), ``prefill_flops``,
        ``prefill_flops_dense`` (the same model's with dense attention), ``prefill_index_flops``, ``decode_reads``,
        ``decode_reads_dense``, ``decode_index_reads``, ``prefill_speedup``, ``decode_speedup``, ``attention_share``
        (of dense prefill FLOPs: interactions, in layers that sparse attention acts on) and ``kv_share`` (of dense
        decode reads: the KV cache, in these layers). What cannot be known is NaN: of a model without a shape, of
        attention that was not measured, of methods from elsewhere. ``attrs["notes"]`` tells of all three.
    """
    measured = ["input_tokens", "prefill_sparsity", "decode_sparsity"]
    means = runs.samples.groupby(["run", "length"], observed=True)[measured].mean()
    of_run = {name: of_it.droplevel("run") for name, of_it in means.groupby("run", observed=True)}
    rows = [_row(run, *of_it) for run in runs.runs if run.name in of_run for of_it in of_run[run.name].itertuples()]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table = table.astype(dict.fromkeys(["asked", *_COLUMNS[5:]], "float64"))
    table.attrs["notes"] = _notes(runs, table)
    return table


def _row(run: ScoredRun, length: int, tokens: float, prefill_sparsity: float, decode_sparsity: float) -> dict[str, Any]:
    asked = math.nan if run.asked is None else run.asked
    tokens = tokens if tokens > 0 else float(length)
    row: dict[str, Any] = {
        "run": run.name,
        "model": run.model,
        "attention": run.attention,
        "asked": asked,
        "length": length,
        "tokens": tokens,
        "density_prefill": 1 - prefill_sparsity,
        "density_decode": 1 - decode_sparsity,
    }
    if run.shape is None:
        return row  # what is missing becomes NaN
    shape, attention = run.shape, run.settings["attention"]
    flops = prefill_flops(shape, tokens, 1 - prefill_sparsity)
    reads = decode_reads(shape, tokens, 1 - decode_sparsity)
    flops_dense, reads_dense = prefill_flops(shape, tokens), decode_reads(shape, tokens)
    asking = (attention["method"], attention["arguments"], shape, tokens, run.asked)
    looked, read = (math.nan if found is None else found for found in (index_flops(*asking), index_reads(*asking)))
    return row | {
        "prefill_flops": flops,
        "prefill_flops_dense": flops_dense,
        "prefill_index_flops": looked,
        "decode_reads": reads,
        "decode_reads_dense": reads_dense,
        "decode_index_reads": read,
        "prefill_speedup": flops_dense / (flops + looked),
        "decode_speedup": reads_dense / (reads + read),
        "attention_share": attention_share(shape, tokens),
        "kv_share": kv_share(shape, tokens),
    }


def _notes(runs: Runs, table: pd.DataFrame) -> tuple[str, ...]:
    """What is not known, and why."""
    bare = [run.name for run in runs.runs if run.shape is None]
    unmeasured = table[table[["density_prefill", "density_decode"]].isna().all(axis=1)]["run"].unique()
    foreign = table[table["prefill_index_flops"].isna() & ~table["run"].isin(bare)]["attention"].unique()
    found = {
        "the sizes of the model are not known, and so no cost": bare,
        "what attention computed was not measured, and so no cost": unmeasured,
        "what the method does to find out what to compute is not known, and so no speedup": foreign,
    }
    return tuple(f"{', '.join(names)}: {why}" for why, names in found.items() if len(names))
