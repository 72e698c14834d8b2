"""Certified sparsity: the largest one whose loss against dense attention is at most a tolerance.

By Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052): the sparsities of a method are
tested one after the other, the least sparse first, until "the mean loss is above the tolerance" cannot be rejected.
``docs/analyses.md`` explains what that guarantees, and why the loss is defined this way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import pandas as pd

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.frames import frame
from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun
from sparse_tasks.evaluators.metrics import METRICS
from sparse_tasks.evaluators.statistics import (
    fixed_sequence,
    hoeffding_bentkus_p_value,
    precise_mean,
    samples_needed,
)

SCOPES: Final = ("task", "length", "all")
"""Scopes of certificates: each task at each length, the mean over the tasks of each length, the mean over all."""


_PHASES: Final = ("prefill_sparsity", "decode_sparsity")

_Key = tuple[int, str]  # length and task
_Step = tuple[float, dict[_Key, "_Cell"]]  # one sparsity of a method


@dataclass(frozen=True)
class Certificate:
    """A sequence of sparsities and the largest certified one; numbers are NaN if none is."""

    model: str
    prompts: str  # query-aware, question after or query-agnostic
    attention: str  # method, with ``(measured)`` where runs are ordered by measured sparsity
    scope: str  # one of ``SCOPES``
    task: str | None  # task, where the scope has one
    length: int | None  # length, where the scope has one
    n: int  # pairs of samples at the certified sparsity, or else at the first of the sequence
    certified: float  # the largest certified sparsity, as asked (or measured, see ``attention``)
    measured: float  # measured sparsity there; if both phases are sparse, the smaller one
    loss: float  # mean loss there, each task and length with the same weight
    p_value: float  # there
    tested: int  # sparsities in the sequence
    next_p_value: float  # P-value of the first sparsity that was not certified; NaN if all were
    level: float  # largest ``next_p_value`` that would have been certified


class _Cell(NamedTuple):
    losses: list[float]
    measured: float
    all_or_nothing: bool


class _Chain(NamedTuple):
    """A sequence of sparsities, tested for the mean over some tasks and lengths."""

    task: str | None
    length: int | None
    keys: Sequence[_Key]
    steps: Sequence[_Step]


def certified(runs: Runs, tolerance: float = 0.05, error: float = 0.05) -> pd.DataFrame:
    """The largest certified sparsity of each method, per task, per length and over all: a row a ``Certificate``.

    Sequences are made of the runs of a model, data set, sampling and method, by asked sparsity. Runs that were given
    budgets instead form one sequence per method, by measured sparsity, which hardly depends on how well prompts were
    answered: the order must not look at the losses. Runs of the same sparsity are one step; where they answered the
    same sample, the greater loss counts. Only samples that dense attention answered, too, are used.
    """
    notes: list[str] = []
    tables, able = _losses(runs), set(runs.able["run"])
    curves: dict[tuple[Hashable, str], list[ScoredRun]] = {}
    for run in runs.runs:
        if not run.dense and run.name in able:
            curves.setdefault((run.pairing, _curve(run)), []).append(run)
    rows: list[Certificate] = []
    for (_, attention), members in curves.items():
        steps = _steps(members, tables, notes)
        for scope in SCOPES if steps else ():
            chains = _chains(scope, steps)
            notes += _too_few(scope, chains, tolerance, error)
            rows += _certificates((members[0].model, members[0].prompts, attention, scope), chains, tolerance, error)
    if not curves:
        notes.append("no run is sparse; there is nothing to certify")
    for (model, attention), times in Counter((runs[0].model, key[1]) for key, runs in curves.items()).items():
        if times > 1:
            notes.append(f"{attention} of {model} ran over {times} data sets or samplings; each has its own rows")
    return frame(Certificate, rows, notes)


def _losses(runs: Runs) -> dict[str, pd.DataFrame]:
    """Losses by sample, for each run that has samples with a dense partner."""
    paired = runs.able[runs.able["dense"].notna()]
    table = paired[["run", "length", "task", "id", *_PHASES]].astype({"task": object, "id": object})
    table["loss"] = (paired["dense"] - paired["score"]).clip(lower=0.0)
    table["whole"] = paired["dense"].isin([0.0, 1.0]) & paired["score"].isin([0.0, 1.0])
    return {str(name): rows for name, rows in table.groupby("run", observed=True)}


def _curve(run: ScoredRun) -> str:
    """Name of the sequence that a run is part of."""
    return run.attention if run.target is not None else f"{run.attention.partition(' (')[0]} (measured)"


def _steps(members: Iterable[ScoredRun], tables: Mapping[str, pd.DataFrame], notes: list[str]) -> list[_Step]:
    by_sparsity: dict[float, list[ScoredRun]] = {}
    for run in members:
        if run.name not in tables:
            notes.append(f"{run.name} has no dense run over the same samples beside it; it is left out")
            continue
        sparsity = _measured(tables[run.name]) if run.target is None else run.target
        if math.isnan(sparsity):
            notes.append(f"{run.name} has neither a target sparsity nor a measured one; it is left out")
            continue
        by_sparsity.setdefault(sparsity, []).append(run)
    steps = [(sparsity, _cells(by_sparsity[sparsity], tables)) for sparsity in sorted(by_sparsity)]
    keys = {key for _, cells in steps for key in cells}
    for sparsity, cells in steps:
        if missing := sorted(keys - set(cells)):
            length, task = missing[0]
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            notes.append(
                f"{by_sparsity[sparsity][0].label} lacks {task} at {label(length)}{others}, which its sequence "
                "has; it is left out where the mean is over these, too"
            )
    return steps


def _cells(members: Sequence[ScoredRun], tables: Mapping[str, pd.DataFrame]) -> dict[_Key, _Cell]:
    binary = {name for name in METRICS.names() if METRICS.get(name).binary}
    metrics = {(config.length, config.task): config.metric for run in members for config in run.result.configs}
    table = pd.concat([tables[run.name] for run in members])
    cells = {}
    for key, rows in table.groupby(["length", "task"]):
        greatest = rows.sort_values(["loss", "id"]).drop_duplicates("id", keep="last")["loss"]
        all_or_nothing = metrics.get(key) in binary and bool(rows["whole"].all())
        cells[key] = _Cell(greatest.tolist(), _measured(rows), all_or_nothing)
    return cells


def _measured(rows: pd.DataFrame) -> float:
    """Mean measured sparsity; the smaller one if both phases are sparse; NaN if nothing was measured."""
    means = [precise_mean(rows[phase].tolist()) for phase in _PHASES]
    known = [mean for mean in means if not math.isnan(mean)]
    return min((mean for mean in known if mean > 0), default=max(known, default=math.nan))


def _chains(scope: str, steps: Sequence[_Step]) -> list[_Chain]:
    keys = sorted({key for _, cells in steps for key in cells})
    families: list[tuple[str | None, int | None, list[_Key]]] = [(None, None, keys)]
    if scope == "task":
        families = [(task, length, [(length, task)]) for length, task in keys]
    elif scope == "length":
        lengths = sorted({length for length, _ in keys})
        families = [(None, length, [key for key in keys if key[0] == length]) for length in lengths]
    chains = [
        _Chain(task, length, family, [step for step in steps if all(key in step[1] for key in family)])
        for task, length, family in families
    ]
    return [chain for chain in chains if chain.steps]


def _certificates(
    names: tuple[str, str, str, str], chains: Sequence[_Chain], tolerance: float, error: float
) -> Iterator[Certificate]:
    p_values = [
        [_p_value([cells[key] for key in chain.keys], tolerance) for _, cells in chain.steps] for chain in chains
    ]
    passed, level = fixed_sequence(p_values, error)
    for chain, p, count in zip(chains, p_values, passed, strict=True):
        sparsity, at = chain.steps[max(0, count - 1)]
        cells = [at[key] for key in chain.keys]
        yield Certificate(
            *names,
            task=chain.task,
            length=chain.length,
            n=sum(len(cell.losses) for cell in cells),
            certified=sparsity if count else math.nan,
            measured=precise_mean([cell.measured for cell in cells]) if count else math.nan,
            loss=precise_mean([precise_mean(cell.losses) for cell in cells]) if count else math.nan,
            p_value=p[count - 1] if count else math.nan,
            tested=len(p),
            next_p_value=p[count] if count < len(p) else math.nan,
            level=level,
        )


def _p_value(cells: Sequence[_Cell], tolerance: float) -> float:
    whole = all(cell.all_or_nothing for cell in cells)
    return hoeffding_bentkus_p_value([cell.losses for cell in cells], tolerance, all_or_nothing=whole)


def _too_few(scope: str, chains: Sequence[_Chain], tolerance: float, error: float) -> list[str]:
    """A note if a sequence is too short to certify anything, even without any loss."""
    sizes = [[min(len(cells[key].losses) for key in chain.keys) for _, cells in chain.steps] for chain in chains]
    best = [
        [hoeffding_bentkus_p_value([[0.0] * size] * len(chain.keys), tolerance) for size in of_chain]
        for chain, of_chain in zip(chains, sizes, strict=True)
    ]
    passed, _ = fixed_sequence(best, error)
    hopeless = [(chain, of_chain[0]) for chain, of_chain, count in zip(chains, sizes, passed, strict=True) if not count]
    if not hopeless:
        return []
    needed = max(math.ceil(samples_needed(tolerance, error / len(chains)) / len(chain.keys)) for chain, _ in hopeless)
    fewest = min(size for _, size in hopeless)
    among = f", shared by {len(chains)} sequences" if len(chains) > 1 else ""
    return [
        f"scope {scope}: {fewest} samples of each task certify no sparsity at tolerance {tolerance:g} and error rate "
        f"{error:g}{among}, even without any loss; it takes {needed}"
    ]
