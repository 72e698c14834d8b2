"""Scaling laws: how scores change with the model's size, the prompt's length and the compression of attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparse_tasks.evaluators.analyses.frames import frame, shortened
from sparse_tasks.evaluators.analyses.table import Runs
from sparse_tasks.evaluators.costs import parameters
from sparse_tasks.evaluators.statistics import LogitRegression, SeparatedError, logit_regression

_PHASES: Final = ("prefill", "decode")
_LAWS: Final = ("size", "length", "compression")
_CELL: Final = ["run", "task", "length"]
_DENSE: Final = 1e-6  # a measured sparsity below this is rounding

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of the law."""

    phase: str  # "prefill" or "decode"
    name: str  # "intercept", "size", "length", "compression", or "task:" and the name of a task
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class HeldOut:
    """How well a law predicts cells that it was fitted without."""

    phase: str  # "prefill" or "decode"
    held_out: str  # "size", "length" or "compression": the largest of these
    r2: float  # at most 1; below 0 where the cells' own mean predicts them better; NaN where they do not differ
    mae: float  # mean absolute error, in scores
    n: int  # cells


@dataclass(frozen=True)
class Fit:
    """How well a law describes the cells that it was fitted to."""

    phase: str  # "prefill" or "decode"
    runs: int
    cells: int
    samples: int
    r2: float
    mae: float
    scale: float  # see ``LogitRegression``


@dataclass(frozen=True)
class Scaling:
    """Fitted laws, a phase each."""

    coefficients: pd.DataFrame  # a row a ``Coefficient``
    held_out: pd.DataFrame  # a row a ``HeldOut``
    fits: pd.DataFrame  # a row a ``Fit``
    notes: tuple[str, ...]  # what could not be fitted, or was left out, and why


def scaling(runs: Runs) -> Scaling:
    """Fit ``score = logistic(eps + delta_task + alpha ln(size) + beta ln(length) + gamma ln(compression))``.

    Source: an earlier version of "The Sparse Frontier" (arXiv 2504.17768). Size is the model's number of parameters,
    length is in tokens, and compression is 1 / density as measured, so that the intercept eps is the logit at one
    parameter, one token and dense attention, averaged over tasks; the paper's -16.92 is in these units. The task
    offsets sum to zero. There is a fit for each phase: of runs that are sparse in it alone, and of dense ones. What
    does not vary is left out, and so are tasks whose scores are all 0 or all 1; notes say so.
    """
    coefficients: list[Coefficient] = []
    held_out: list[HeldOut] = []
    fits: list[Fit] = []
    notes: list[str] = []
    samples = _samples(runs)
    for phase in _PHASES:
        phase_notes: list[str] = []
        try:
            if len(runs.prompts) > 1:
                raise _NoFitError(f"{' and '.join(runs.prompts)} runs follow no common law; analyse them separately")
            table = _of_phase(samples, phase, phase_notes)
            law = _fit(table)
        except _NoFitError as error:
            phase_notes.append(f"{error}; nothing is fitted")
        else:
            phase_notes += law.notes
            coefficients += law.coefficients(phase)
            fitted = table[table["task"].isin(law.tasks)]
            cells = _cells(fitted)
            sizes = fitted["run"].nunique(), len(cells), fitted["sample"].nunique()
            fits.append(Fit(phase, *sizes, *_errors(law, cells), law.regression.scale))
            held_out += _held_out(phase, table, phase_notes)
        notes += [f"{phase}: {note}" for note in phase_notes]
    return Scaling(frame(Coefficient, coefficients), frame(HeldOut, held_out), frame(Fit, fits), tuple(notes))


class _NoFitError(Exception):
    """Nothing to fit, or the fit failed; the message says why."""


def _samples(runs: Runs) -> pd.DataFrame:
    """Sorted answers; samples and strata are numbered, so that texts can be left behind."""
    sample = ["dataset", "task", "length", "id"]
    table = runs.able[["run", *sample, "score", "prefill_sparsity", "decode_sparsity"]]
    table = table.sort_values(["run", *sample], ignore_index=True)
    sizes = {run.name: math.nan if run.shape is None else float(parameters(run.shape)) for run in runs.runs}
    asked = {run.name: math.nan if run.target is None else run.target for run in runs.runs}
    models = {run.name: run.model for run in runs.runs}
    return table.assign(
        size=table["run"].map(sizes).astype("float64"),
        asked=table["run"].map(asked).astype("float64"),
        model=table["run"].map(models).astype("category"),
        sample=table.groupby(sample, observed=True).ngroup(),
        stratum=table.groupby(sample[:-1], observed=True).ngroup(),
    ).drop(columns=["dataset", "id"])


def _of_phase(samples: pd.DataFrame, phase: str, notes: list[str]) -> pd.DataFrame:
    """The answers of runs that are sparse in this phase alone, and of dense ones."""
    own, other = (f"{name}_sparsity" for name in (phase, *(name for name in _PHASES if name != phase)))
    measured = samples.groupby("run", observed=True)[[own, other]].mean()
    unknown = measured.isna().all(axis="columns")
    sparse, elsewhere = measured[own] > _DENSE, measured[other] > _DENSE
    if unknown.any():
        notes.append(f"no sparsity was measured in {shortened(measured.index[unknown])}; left out")
    if (sparse & elsewhere).any():
        notes.append(f"both phases are sparse in {shortened(measured.index[sparse & elsewhere])}; left out")
    table = samples[samples["run"].isin(measured.index[~elsewhere & ~unknown])]
    nameless = table["size"].isna()
    if nameless.any() and table["model"].nunique() > 1:
        notes.append(f"the size is not known of {shortened(table.loc[nameless, 'model'].unique())}; left out")
        table = table[~nameless]
    of_run = table["run"].astype("str")
    sparsity = table.groupby(["run", "task", "length"], observed=True)[own].transform("mean")
    sparsity = sparsity.where(of_run.isin(measured.index[sparse]), 0.0)
    if sparsity.isna().any():
        notes.append(
            f"no sparsity was measured in parts of {shortened(of_run[sparsity.isna()].unique())}; those are left out"
        )
    # Levels are told apart by target sparsity, since measured sparsity varies between cells.
    level = table["asked"].fillna(of_run.map(measured[own].round(2)))
    table = table.assign(compression=1 / (1 - np.minimum(sparsity, 1 - _DENSE)), level=level)[sparsity.notna()]
    if not of_run[table.index].isin(measured.index[sparse]).any():
        raise _NoFitError("no run is sparse in this phase alone")
    return table.drop(columns=[own, other, "asked", "model"])


@dataclass(frozen=True)
class _Law:
    tasks: tuple[str, ...]  # those that have an offset
    centres: dict[str, float]  # of the logarithm of each regressor that varies: the intercept of the regression
    regression: LogitRegression  # on a one, on all tasks but the last, and on the regressors
    notes: tuple[str, ...]

    def coefficients(self, phase: str) -> Iterator[Coefficient]:
        """A row for each coefficient, the offsets last."""
        offsets, slopes = len(self.tasks) - 1, list(self.centres)
        unit = np.eye(1 + offsets + len(slopes))
        weights = {
            "intercept": unit[0] - sum(self.centres[name] * unit[1 + offsets + i] for i, name in enumerate(slopes))
        }
        weights |= {name: unit[1 + offsets + i] for i, name in enumerate(slopes)}
        if offsets:
            task_rows = [*unit[1 : 1 + offsets], -unit[1 : 1 + offsets].sum(axis=0)]
            weights |= {f"task:{task}": row for task, row in zip(self.tasks, task_rows, strict=True)}
        for name, row in weights.items():
            estimate, interval = self.regression.combined(row)
            yield Coefficient(phase, name, estimate, interval.low, interval.high)

    def predict(self, cells: pd.DataFrame) -> _Values:
        return self.regression.predict(_design(cells, self.tasks, self.centres))


def _fit(table: pd.DataFrame) -> _Law:
    notes = []
    means = table.groupby("task", observed=True)["score"].mean()
    for value in (0, 1):
        if (same := means.index[np.abs(means - value) < 1e-9]).size:
            notes.append(f"all scores are {value} in {shortened(same)}; left out")
            table = table[~table["task"].isin(same)]
    if table.empty:
        raise _NoFitError("in each task all scores are 0 or all are 1")
    cells = _cells(table)
    tasks = tuple(sorted(map(str, table["task"].unique())))
    logs = {name: np.log(cells[name].to_numpy(dtype=np.float64)) for name in _LAWS}
    varying = {name: float(values.mean()) for name, values in logs.items() if np.ptp(values) > _DENSE}
    notes += [f"{name} does not vary; left out" for name in _LAWS if name not in varying]
    if not varying:
        raise _NoFitError("neither size nor length nor compression varies")
    if len(cells) <= len(tasks) + len(varying):
        raise _NoFitError(f"{len(cells)} scores cannot tell {len(tasks) + len(varying)} coefficients from chance")
    design = _design(cells, tasks, varying)
    if entangled := _entangled(design, {"task": len(tasks) - 1} | dict.fromkeys(varying, 1)):
        raise _NoFitError(f"{' and '.join(entangled)} vary together, and their effects cannot be told apart")
    _, first, sample = np.unique(table["sample"], return_index=True, return_inverse=True)
    _, stratum = np.unique(table["stratum"].to_numpy()[first], return_inverse=True)
    try:
        cell = table.groupby(_CELL, observed=True).ngroup()  # numbered in the order of ``_cells``
        regression = logit_regression(design, table["score"], cell, sample, stratum)
    except SeparatedError as error:
        raise _NoFitError("the regressors separate scores of 0 from scores of 1 perfectly") from error
    return _Law(tasks, varying, regression, tuple(notes))


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run, task and length, with the mean score."""
    cells = table.groupby(_CELL, observed=True)
    means: pd.DataFrame = cells[["size", "compression", "level"]].first().assign(score=cells["score"].mean())
    return means.reset_index()


def _design(cells: pd.DataFrame, tasks: Sequence[str], centres: Mapping[str, float]) -> _Values:
    """The regressors of cells: a one, the tasks' offsets, logarithms about their centres."""
    number = cells["task"].astype("str").map({task: i for i, task in enumerate(tasks)}).to_numpy(dtype=np.int64)
    last = len(tasks) - 1
    # The offset of the last task is that of all others, negative, so that they sum to zero.
    offsets = np.vstack([np.eye(last), -np.ones(last)])[number]
    slopes = [np.log(cells[name].to_numpy(dtype=np.float64)) - centre for name, centre in centres.items()]
    return np.column_stack([np.ones(len(cells)), offsets, *slopes])


def _entangled(design: _Values, sizes: Mapping[str, int]) -> list[str]:
    """Names of the groups of regressors whose effects cannot be told apart."""
    scaled = design / np.abs(design).max(axis=0)
    rank = np.linalg.matrix_rank(scaled)
    entangled, start = [], 1
    for name, size in sizes.items():
        without = np.delete(scaled, np.s_[start : start + size], axis=1)
        if rank - np.linalg.matrix_rank(without) < size:
            entangled.append(name)
        start += size
    return entangled


def _held_out(phase: str, table: pd.DataFrame, notes: list[str]) -> Iterator[HeldOut]:
    """A row for each regressor whose largest value can be held out."""
    few = []
    for name, column in (("length", "length"), ("size", "size"), ("compression", "level")):
        if table[column].nunique() < 3:
            few.append(name)
            continue
        largest = table[column] == table[column].max()
        try:
            law = _fit(table[~largest])
        except _NoFitError as error:
            notes.append(f"without the largest {name}: {error}; nothing is predicted")
            continue
        cells = _cells(table[largest])
        known = cells["task"].isin(law.tasks)
        if not known.all():
            missing = shortened(cells.loc[~known, "task"].unique())
            notes.append(f"without the largest {name}: {missing} cannot be fitted; not predicted")
        if known.any():
            yield HeldOut(phase, name, *_errors(law, cells[known]), int(known.sum()))
    if few:
        notes.append(f"no prediction for a held-out {' or '.join(few)}: it takes three values of it, or more")


def _errors(law: _Law, cells: pd.DataFrame) -> tuple[float, float]:
    """R2 and mean absolute error of the predicted cells; each cell counts once."""
    observed = cells["score"].to_numpy()
    errors = observed - law.predict(cells)
    scatter = float(np.sum((observed - observed.mean()) ** 2))
    r2 = 1 - float(np.sum(errors**2)) / scatter if scatter > 1e-12 else math.nan
    return r2, float(np.mean(np.abs(errors)))
