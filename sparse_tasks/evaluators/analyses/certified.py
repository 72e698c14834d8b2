"""Certified sparsity: the largest one whose loss against dense attention is at most a tolerance.

By Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052): the sparsities of a method are
tested one after the other, the least sparse first, each for "the mean loss is above the tolerance", until one cannot be
ruled out. The last one before it is certified. With probability 1 less the error rate, no sparsity that is certified
has a true mean loss above the tolerance: over all samples that the tasks could have written, not those of this data
set alone. That holds for any distribution of the losses and at any number of samples; few samples certify less.

**The loss** of a sample is what sparse attention lost on it, ``max(0, dense - sparse)``, in [0, 1]. Gains do not pay
for losses. The plain difference is never above that, and so its mean is within the tolerance, too. What chance does to
single answers counts as loss, even if it helps as many others. Differences in [-1, 1] would avoid that, at a price: to
be held in [0, 1] they are halved, and a tolerance of .05 becomes .025 beside a loss of one half that stands for no
change. At 100 samples Hoeffding's p-value without any change is then .88; it takes 2,400 samples to certify anything,
where losses that cannot be negative take 59.

**Scopes.** Each is a statement of its own, with an error rate of its own, for each model, data set and method:

- ``task``: each task at each length is a sequence. All rows together are right but for the error rate.
- ``length``: each length is a sequence, of the mean over its tasks, equally weighted. All lengths together.
- ``all``: one sequence, of the mean over all tasks and lengths, equally weighted.

Who picks among rows of several scopes, methods or models adds up their error rates.

**Whose code.** P-values and sequences are this project's own (``statistics.hoeffding_bentkus_p_value`` and
``fixed_sequence``), and MAPIE's (``mapie.risk_control``, 1.6) are what tests hold them against. MAPIE has one sequence
or one set of hypotheses, not sequences of several tasks that share an error rate, and no means over tasks of unequal
size; and it would bring scikit-learn to every installation. Where both apply they agree but for rounding: MAPIE takes
``ceil(n * mean)`` as floating point has it, which makes 8 losses out of 7 in 50 or in 100, and a p-value up to four
times as large. For losses of 0 and 1 MAPIE has the binomial tail everywhere; here it stands only where it also holds
for samples that are not alike, which is everywhere that a p-value is small.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun
from sparse_tasks.evaluators.statistics import fixed_sequence, hoeffding_bentkus_p_value, samples_needed

__all__ = ["COLUMNS", "SCOPES", "certified"]

SCOPES: Final = ("task", "length", "all")
"""What a certificate may be for."""

COLUMNS: Final = (
    *("model", "attention", "scope", "task", "length", "n", "certified", "measured", "loss", "p_value"),
    *("tested", "next_p_value", "level"),
)
"""Columns of what ``certified`` returns."""

_ALL_OR_NOTHING: Final = frozenset({"exact_match", "set_match", "squad_em", "string_match_part"})  # metrics: 0 or 1

_PHASES: Final = ("prefill_sparsity", "decode_sparsity")

_Key = tuple[int, str]  # length and task


@dataclass(frozen=True)
class _Cell:
    """One task at one length, at one sparsity."""

    losses: list[float]
    measured: float
    all_or_nothing: bool


@dataclass(frozen=True)
class _Step:
    """One sparsity of a method."""

    sparsity: float
    cells: Mapping[_Key, _Cell]


@dataclass(frozen=True)
class _Chain:
    """A sequence of sparsities, tested for the mean over some tasks and lengths."""

    task: str | None
    length: int | None
    keys: Sequence[_Key]
    steps: Sequence[_Step]


def certified(runs: Runs, tolerance: float = 0.05, error: float = 0.05) -> pd.DataFrame:
    """The largest sparsity of each method that is certified, per task, per length and over all.

    Sequences are made of the runs of a model, data set, sampling and method, by the sparsity that was asked. Runs that
    were given budgets instead form one sequence per method, called ``quest (measured)``, by the sparsity that was
    measured. That depends on the prompts and not on how well they were answered, or hardly: the order must not look at
    the losses. Runs of the same sparsity are one step; where they answered the same sample, the greater loss counts.

    Args:
        runs: Scored runs, dense ones among them; only samples that dense attention answered, too, are used.
        tolerance: The mean loss that is allowed, in (0, 1).
        error: How often a scope may hold a certificate that is wrong, in (0, 1).

    Returns:
        A row a sequence, with the columns ``COLUMNS``:

        - ``model``, ``attention``, ``scope``; ``task`` and ``length`` where the scope has one
        - ``n``: pairs of samples at the certified sparsity, or else at the first of the sequence
        - ``certified``: the largest sparsity certified, as asked (or as measured, see above); NaN if there is none
        - ``measured``: measured sparsity there, in the phase that has less of it, where both are sparse
        - ``loss``: mean loss there, each task and length with the same weight
        - ``p_value``: there
        - ``tested``: how many sparsities the sequence has
        - ``next_p_value``: of the first sparsity that was not certified; NaN if all were
        - ``level``: what ``next_p_value`` had to be at most

        ``attrs["notes"]`` (``tuple[str, ...]``) says what could not be certified, and why.

    Raises:
        UsageError: The tolerance or the error rate is not in (0, 1).
    """
    for name, value in (("tolerance", tolerance), ("error", error)):
        if not 0 < value < 1:
            raise UsageError(name, value, "must lie between 0 and 1, such as 0.05")
    notes: list[str] = []
    tables = _losses(runs)
    curves: dict[tuple[Any, str], list[ScoredRun]] = {}
    for run in runs.runs:
        if not run.dense:
            curves.setdefault((run.pairing, _curve(run)), []).append(run)
    rows: list[dict[str, Any]] = []
    for (_, attention), members in curves.items():
        steps = _steps(members, tables, notes)
        for scope in SCOPES if steps else ():
            chains = _chains(scope, steps)
            notes += _too_few(scope, chains, tolerance, error)
            named = {"model": members[0].model, "attention": attention, "scope": scope}
            rows += [named | row for row in _certificates(chains, tolerance, error)]
    if not curves:
        notes.append("no run is sparse; there is nothing to certify")
    for (model, attention), times in Counter((pairing[0], attention) for pairing, attention in curves).items():
        if times > 1:
            notes.append(f"{attention} of {model} ran over {times} data sets or samplings; each has its own rows")
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs["notes"] = tuple(dict.fromkeys(notes))
    return table


def _losses(runs: Runs) -> dict[str, pd.DataFrame]:
    """What each sample lost, for each run that has some with a dense partner."""
    paired = runs.samples[runs.samples["dense"].notna()]
    table = paired[["run", "length", "task", "id", *_PHASES]].astype({"task": object, "id": object})
    table["loss"] = (paired["dense"] - paired["score"]).clip(lower=0.0)
    table["whole"] = paired["dense"].isin([0.0, 1.0]) & paired["score"].isin([0.0, 1.0])
    return {str(name): rows for name, rows in table.groupby("run", observed=True)}


def _curve(run: ScoredRun) -> str:
    """What runs of one sequence have in common."""
    return run.attention if run.asked is not None else f"{run.attention.partition(' (')[0]} (measured)"


def _steps(members: Iterable[ScoredRun], tables: Mapping[str, pd.DataFrame], notes: list[str]) -> list[_Step]:
    """The sparsities of a method, ascending."""
    found: dict[float, list[ScoredRun]] = {}
    for run in members:
        if run.name not in tables:
            notes.append(f"{run.name} has no dense run over the same samples beside it; it is left out")
            continue
        sparsity = _measured(tables[run.name][phase].tolist() for phase in _PHASES) if run.asked is None else run.asked
        if math.isnan(sparsity):
            notes.append(f"{run.name} was neither asked for a sparsity nor measured; it is left out")
            continue
        found.setdefault(sparsity, []).append(run)
    steps = [_Step(sparsity, _cells(found[sparsity], tables)) for sparsity in sorted(found)]
    keys = {key for step in steps for key in step.cells}
    for step in steps:
        if missing := sorted(keys - set(step.cells)):
            length, task = missing[0]
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            notes.append(
                f"{found[step.sparsity][0].label} lacks {task} at {label(length)}{others}, which its sequence has; it "
                "is left out where the mean is over these, too"
            )
    return steps


def _cells(members: Sequence[ScoredRun], tables: Mapping[str, pd.DataFrame]) -> dict[_Key, _Cell]:
    """Each task at each length, in the runs of one sparsity."""
    metrics = {(one["length"], one["task"]): one["metric"] for run in members for one in run.result["configs"]}
    table = pd.concat([tables[run.name] for run in members])
    cells: dict[_Key, list[tuple[Any, ...]]] = defaultdict(list)
    for length, task, *row in table[["length", "task", "id", "loss", "whole", *_PHASES]].itertuples(False, None):
        cells[length, task].append(tuple(row))
    found = {}
    for key, rows in cells.items():
        ids, losses, whole, *measured = zip(*rows, strict=True)
        ascending = sorted(zip(losses, ids, strict=True))
        greatest = {id: loss for loss, id in ascending}  # the last one of an id stays
        all_or_nothing = metrics.get(key) in _ALL_OR_NOTHING and all(whole)
        found[key] = _Cell(list(greatest.values()), _measured(measured), all_or_nothing)
    return found


def _measured(phases: Iterable[Sequence[float]]) -> float:
    """Mean measured sparsity: in the phase that has less, where both are sparse; NaN where nothing was measured."""
    means = [_mean(samples) for samples in phases]
    known = [mean for mean in means if not math.isnan(mean)]
    return min((mean for mean in known if mean > 0), default=max(known, default=math.nan))


def _chains(scope: str, steps: Sequence[_Step]) -> list[_Chain]:
    """The sequences of a scope."""
    keys = sorted({key for step in steps for key in step.cells})
    families: list[tuple[str | None, int | None, list[_Key]]] = [(None, None, keys)]
    if scope == "task":
        families = [(task, length, [(length, task)]) for length, task in keys]
    elif scope == "length":
        lengths = sorted({length for length, _ in keys})
        families = [(None, length, [key for key in keys if key[0] == length]) for length in lengths]
    chains = [
        _Chain(task, length, wanted, [step for step in steps if all(key in step.cells for key in wanted)])
        for task, length, wanted in families
    ]
    return [chain for chain in chains if chain.steps]


def _certificates(chains: Sequence[_Chain], tolerance: float, error: float) -> list[dict[str, Any]]:
    """The rows of a scope, less what names it."""
    p_values = [[_p_value(chain, step, tolerance) for step in chain.steps] for chain in chains]
    passed, level = fixed_sequence(p_values, error)
    rows = []
    for chain, p, count in zip(chains, p_values, passed, strict=True):
        at = chain.steps[max(0, count - 1)]
        cells = [at.cells[key] for key in chain.keys]
        rows.append(
            {
                "task": chain.task,
                "length": chain.length,
                "n": sum(len(cell.losses) for cell in cells),
                "certified": at.sparsity if count else math.nan,
                "measured": _mean([cell.measured for cell in cells]) if count else math.nan,
                "loss": _mean([_mean(cell.losses) for cell in cells]) if count else math.nan,
                "p_value": p[count - 1] if count else math.nan,
                "tested": len(p),
                "next_p_value": p[count] if count < len(p) else math.nan,
                "level": level,
            }
        )
    return rows


def _p_value(chain: _Chain, step: _Step, tolerance: float) -> float:
    cells = [step.cells[key] for key in chain.keys]
    whole = all(cell.all_or_nothing for cell in cells)
    return hoeffding_bentkus_p_value([cell.losses for cell in cells], tolerance, all_or_nothing=whole)


def _too_few(scope: str, chains: Sequence[_Chain], tolerance: float, error: float) -> list[str]:
    """A note where some sequence could certify nothing, even if nothing had been lost anywhere."""
    sizes = [[min(len(step.cells[key].losses) for key in chain.keys) for step in chain.steps] for chain in chains]
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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
