"""Cost of each run at each length, by the paper's formulas at measured density."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pandas as pd

from sparse_tasks.evaluators import costs
from sparse_tasks.evaluators.analyses.frames import column_names, frame
from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun


@dataclass(frozen=True)
class Cost:
    """Cost of a run at a length, at batch size 1; NaN if unknown.

    FLOPs are those of a prompt, reads the elements that a decoding step reads. Index costs are those of selecting what
    to compute.
    """

    run: str
    model: str
    prompts: str  # query-aware, question after or query-agnostic
    attention: str
    asked: float  # target sparsity; NaN where budgets were given
    length: int
    tokens: float  # mean tokens of a prompt; ``length`` if not counted
    density_prefill: float  # measured, in [0, 1]; NaN where nothing was
    density_decode: float  # the same of decoding
    prefill_flops: float = math.nan  # at the measured density
    prefill_flops_dense: float = math.nan  # of the same model with dense attention
    prefill_index_flops: float = math.nan  # of the method's index
    decode_reads: float = math.nan  # at the measured density
    decode_reads_dense: float = math.nan  # of the same model with dense attention
    decode_index_reads: float = math.nan  # of the method's index
    prefill_speedup: float = math.nan  # dense FLOPs over sparse ones, index included
    decode_speedup: float = math.nan  # dense reads over sparse ones, index included
    attention_share: float = math.nan  # of dense prefill FLOPs: interactions, in layers that sparse attention acts on
    kv_share: float = math.nan  # of dense decode reads: the KV cache, in these layers


def cost(runs: Runs) -> pd.DataFrame:
    """Theoretical cost of each run at each length, in the runs' order: a row a ``Cost``.

    The formulas are those of ``costs``, with mean tokens and mean measured density of all samples of a length. Nothing
    was timed. Notes tell of models without a shape, attention that was not measured, and methods without index costs.
    """
    measured = ["input_tokens", "prefill_sparsity", "decode_sparsity"]
    means = runs.samples.groupby(["run", "length"], observed=True)[measured].mean()
    by_run = {name: part.droplevel("run") for name, part in means.groupby("run", observed=True)}
    rows = [_row(run, *part) for run in runs.runs if run.name in by_run for part in by_run[run.name].itertuples()]
    table = frame(Cost, rows)
    columns = column_names(Cost)
    table = table.astype(dict.fromkeys(["asked", *columns[columns.index("tokens") :]], "float64"))
    table.attrs["notes"] = _notes(runs, table)
    return table


def _row(run: ScoredRun, length: int, tokens: float, prefill_sparsity: float, decode_sparsity: float) -> Cost:
    tokens = tokens if tokens > 0 else float(length)
    row = Cost(
        run=run.name,
        model=run.model,
        prompts=run.prompts,
        attention=run.attention,
        asked=math.nan if run.target is None else run.target,
        length=length,
        tokens=tokens,
        density_prefill=1 - prefill_sparsity,
        density_decode=1 - decode_sparsity,
    )
    if run.shape is None:
        return row
    shape, attention = run.shape, run.settings.attention
    flops, flops_dense = (costs.prefill_flops(shape, tokens, density) for density in (row.density_prefill, 1.0))
    reads, reads_dense = (costs.decode_reads(shape, tokens, density) for density in (row.density_decode, 1.0))
    added_flops, added_reads = (
        math.nan if added is None else added
        for added in (costs.index_flops(attention, shape, tokens), costs.index_reads(attention, shape, tokens))
    )
    return replace(
        row,
        prefill_flops=flops,
        prefill_flops_dense=flops_dense,
        prefill_index_flops=added_flops,
        decode_reads=reads,
        decode_reads_dense=reads_dense,
        decode_index_reads=added_reads,
        prefill_speedup=flops_dense / (flops + added_flops),
        decode_speedup=reads_dense / (reads + added_reads),
        attention_share=costs.attention_share(shape, tokens),
        kv_share=costs.kv_share(shape, tokens),
    )


def _notes(runs: Runs, table: pd.DataFrame) -> tuple[str, ...]:
    bare = [run.name for run in runs.runs if run.shape is None]
    unmeasured = table[table[["density_prefill", "density_decode"]].isna().all(axis=1)]["run"].unique()
    foreign = table[table["prefill_index_flops"].isna() & ~table["run"].isin(bare)]["attention"].unique()
    unknown = {
        "the sizes of the model are not known, and so no cost": bare,
        "what attention computed was not measured, and so no cost": unmeasured,
        "the index cost of the method is not known, and so no speedup": foreign,
    }
    return tuple(f"{', '.join(names)}: {why}" for why, names in unknown.items() if len(names))
