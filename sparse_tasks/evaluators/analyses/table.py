"""Scored runs as one table, a row a sample: the input of every analysis.

Dense and sparse runs of a model over the same data set are paired: each row knows what dense attention scored on the
same sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import pandas as pd

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.shape import Shape
from sparse_tasks.evaluators.ability import Place, describe_unable, unable
from sparse_tasks.evaluators.exports.parts import arguments, model_id
from sparse_tasks.evaluators.records import PublicSettings, Result
from sparse_tasks.evaluators.repeats import differs
from sparse_tasks.evaluators.results import ScoredFiles, dense_scores, prompting, read_scored
from sparse_tasks.evaluators.runs import RESULT, SETTINGS, describe_missing

COLUMNS: Final = {
    "run": "category",  # name of the run, as ScoredRun.name
    "model": "category",
    "prompts": "category",  # as ScoredRun.prompts; different kinds are never combined
    "dataset": "category",  # its sha256
    "attention": "category",  # method, with its arguments where it has no target sparsity: what a curve is drawn for
    "asked": "float64",  # target sparsity; 0 for dense, NaN where budgets were given instead
    "task": "category",
    "length": "int64",
    "index": "int64",
    "id": "str",
    "score": "float64",
    "dense": "float64",  # what dense attention scored on the same sample; NaN where there is no such run
    "unable": "bool",  # whether the model cannot do the task at this length, by its dense run (see ``ability``)
    "parsed": "bool",
    "truncated": "bool",
    "depth": "float64",
    "depth_spread": "float64",
    "input_tokens": "float64",
    "output_tokens": "float64",
    "prefill_sparsity": "float64",  # measured; 0 for dense, NaN where nothing was measured
    "decode_sparsity": "float64",
    "kv_bytes_per_step": "float64",
}
"""Columns of ``Runs.samples``, and their types."""

_READ: Final = [
    *("id", "task", "index", "length", "score", "parsed", "finish_reason", "depth", "depth_spread"),
    *("input_tokens", "output_tokens", "prefill_sparsity", "decode_sparsity", "kv_bytes_per_step"),
]

UNLABELLED: Final = (
    "answers made elsewhere have unknown attention; evaluate a file of them with --attention NAME --sparsity S to say "
    "what made them"
)
"""Reason why no analysis places a run, in words."""
METHOD: Final = ["model", "prompts", "attention", "asked"]  # columns that are equal in runs that are combined

_SAMPLE: Final = [*METHOD, "length", "task", "dataset", "id"]
_VALUES: Final = ["score", "dense", "prefill_sparsity", "decode_sparsity"]


@dataclass(frozen=True)
class ScoredRun:
    """A run that was scored."""

    name: str  # the shortest end of its path that distinguishes it from the other runs
    path: Path  # its folder
    settings: PublicSettings  # content of ``run.json``
    result: Result  # content of ``result.json``

    @property
    def model(self) -> str:
        """The model's id, or the last part of its folder."""
        return model_id(self.settings)

    @property
    def shape(self) -> Shape | None:
        return self.settings.model.shape

    @property
    def dense(self) -> bool:
        return self.settings.attention.method == "dense"

    @property
    def labelled(self) -> bool:
        """Whether its attention is known, possibly only nominally."""
        return self.settings.attention.method != Attention.UNKNOWN.method

    @property
    def attention(self) -> str:
        """The method and its given arguments, without the sparsity."""
        given = ", ".join(arguments(self.settings))
        return self.settings.attention.method + (f" ({given})" if given else "")

    @property
    def target(self) -> float | None:
        """Target sparsity; 0 for dense attention, None if budgets were given instead."""
        return 0.0 if self.dense else self.settings.attention.sparsity

    @property
    def label(self) -> str:
        """Attention and sparsity, as in ``quest 0.9``."""
        return self.attention if self.dense or self.target is None else f"{self.attention} {self.target:g}"

    @property
    def prompts(self) -> str:
        """``query-aware``, ``question after`` or ``query-agnostic``, and begun answers: see ``prompting``."""
        return prompting(self.settings)

    @property
    def pairing(self) -> tuple[str, str, str]:
        """Model, data set and everything else that must be equal for dense and sparse runs to be compared.

        This includes the sampling, whether prompts end inside the answer or a thought, and what is read before
        eviction.
        """
        settings, thoughts = self.settings, self.settings.thoughts
        return (
            self.model,
            settings.dataset.sha256,
            repr((settings.sampling, settings.begins_answer, settings.compresses, thoughts.opened, thoughts.budget)),
        )


@dataclass(frozen=True)
class Runs:
    """Runs that are analysed together."""

    runs: tuple[ScoredRun, ...]  # in the order in which they were named, those of a folder by name
    samples: pd.DataFrame  # a row a sample of each run, with the columns ``COLUMNS``
    # By run, the tasks its model cannot do, judged by its dense run; runs without that knowledge are missing.
    unable: Mapping[str, frozenset[Place]] = field(default_factory=dict)
    # By dense run, the scores of each of its repeats, by sample.
    repeats: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)

    @property
    def prompts(self) -> list[str]:
        """The kinds of prompts of the runs."""
        return sorted({run.prompts for run in self.runs})

    @cached_property
    def able(self) -> pd.DataFrame:
        """The samples without those of tasks that their model cannot do: conclusions are drawn only from these."""
        return self.samples[~self.samples["unable"]]

    def inability(self) -> list[str]:
        """Tasks that models cannot do, in a sentence for each model that fails any."""
        groups: dict[tuple[str, ...], list[ScoredRun]] = {}
        for run in self.runs:
            groups.setdefault(run.pairing, []).append(run)
        several = len({run.model for run in self.runs}) > 1
        sentences = []
        for members in groups.values():
            places = {(config.length, config.task) for run in members for config in run.result.configs}
            if failed := frozenset().union(*(self.unable.get(run.name, ()) for run in members)):
                sentences.append((f"{members[0].model}: " if several else "") + describe_unable(failed, len(places)))
        return list(dict.fromkeys(sentences))

    def partial(self) -> list[str]:
        """The incomplete runs, each in a sentence."""
        return [
            f"PARTIAL: {describe_missing(run.name, run.result.missing, run.settings.dataset.samples)}."
            for run in self.runs
            if run.result.missing
        ]

    def __getitem__(self, name: str) -> ScoredRun:
        return next(run for run in self.runs if run.name == name)


def read_runs(paths: Sequence[Path | str], repeats: Sequence[Path | str] = (), *, partial: bool = False) -> Runs:
    """Read scored runs; a folder that holds runs, such as that of a sweep, stands for all of them.

    Args:
        paths: The runs.
        repeats: Repeats of their dense runs (see ``repeats``).
        partial: Whether to use the answered samples of an incomplete run.

    Raises:
        UsageError: A folder neither is nor contains a scored run, or is named twice; a sparse run has two dense
            partners; a repeat does not belong to a dense run.
        DataError: A run is incomplete, without ``partial``; a file cannot be read, or is invalid.
    """
    if not paths:
        raise UsageError("runs", [], "holds none; name folders that evaluate or score have finished")
    folders = [folder for path in paths for folder in _scored(to_path(path))]
    seen: dict[Path, Path] = {}
    for folder in folders:
        if (first := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise UsageError("runs", str(folder), "is named twice" + (f", as {first}, too" if first != folder else ""))
    files = [read_scored(folder, _READ, partial=partial) for folder in folders]
    names = _names(folders)
    runs = tuple(
        ScoredRun(name, folder, one.settings, one.result)
        for name, folder, one in zip(names, folders, files, strict=True)
    )
    dense = _dense(runs)
    tables = {run.name: _samples(run, one) for run, one in zip(runs, files, strict=True)}
    failed = {}
    for run in runs:
        partner = dense.get(run.pairing)
        known = run if partner is None else partner
        failed[run.name] = unable(dense_scores(known.path, known.result))
        table = tables[run.name]
        table["unable"] = [place in failed[run.name] for place in zip(table["length"], table["task"], strict=True)]
        scores = None if partner is None else tables[partner.name].set_index("id")["score"]
        table["dense"] = float("nan") if scores is None else table["id"].map(scores)
    samples = pd.concat(tables.values(), ignore_index=True)
    read = _repeats([folder for path in repeats for folder in _scored(to_path(path))], folders, dense.values())
    return Runs(runs, samples[list(COLUMNS)].astype(COLUMNS), failed, read)


def _repeats(
    repeats: Iterable[Path], folders: Iterable[Path], dense: Iterable[ScoredRun]
) -> dict[str, list[dict[str, float]]]:
    """Scores of repeats, by sample, by the dense run that they repeat."""
    seen = {folder.resolve() for folder in folders}
    read: dict[str, list[dict[str, float]]] = {}
    for folder in repeats:
        if folder.resolve() in seen:
            raise UsageError("repeat", str(folder), "is named twice; name other runs with the same settings")
        seen.add(folder.resolve())
        repeat = read_scored(folder)
        of = next((run for run in dense if differs(run.settings, repeat.settings) is None), None)
        if of is None:
            remedy = "is not a repeat of a dense run among these; repeats differ only in engine, batches or machine"
            raise UsageError("repeat", str(folder), remedy)
        read.setdefault(of.name, []).append({outcome.id: outcome.score for outcome in repeat.outcomes})
    return read


def _scored(path: Path) -> list[Path]:
    """A run, or all runs directly in a folder, scored or not, so that incomplete ones are not silently omitted."""
    if _is_run(path):
        return [path]
    try:
        folders = sorted(folder for folder in path.iterdir() if _is_run(folder))
    except OSError as error:
        remedy = f"cannot be read ({error.strerror or error}); name a run's folder, or one that holds runs"
        raise UsageError("runs", str(path), remedy) from error
    if not folders:
        raise UsageError("runs", str(path), f"holds no {RESULT}; name a run that evaluate or score has finished")
    return folders


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that distinguish them."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder.resolve()) for folder in folders]


def _is_run(folder: Path) -> bool:
    # Path.is_file raises for a path that is too long.
    return any(os.path.isfile(folder / name) for name in (SETTINGS, RESULT))


def _dense(runs: Iterable[ScoredRun]) -> dict[tuple[str, str, str], ScoredRun]:
    """The dense run of each model, data set and sampling."""
    dense: dict[tuple[str, str, str], ScoredRun] = {}
    for run in runs:
        if run.dense and (other := dense.setdefault(run.pairing, run)) is not run:
            raise UsageError("runs", run.name, f"is a second dense run of {run.model} beside {other.name}; name one")
    return dense


def _samples(run: ScoredRun, files: ScoredFiles) -> pd.DataFrame:
    table = files.scores.to_pandas()
    if table["id"].duplicated().any():
        raise DataError(f"{run.path} has a sample twice")
    for phase in ("prefill_sparsity", "decode_sparsity"):
        if run.dense:
            table[phase] = table[phase].fillna(0.0)
    return table.assign(
        run=run.name,
        model=run.model,
        prompts=run.prompts,
        dataset=run.settings.dataset.sha256,
        attention=run.attention,
        asked=float("nan") if run.target is None else run.target,
        truncated=table["finish_reason"] == "length",
    )


def by_method(samples: pd.DataFrame) -> pd.DataFrame:
    """Answers of sparse attention, sorted: a row for each sample of each model, method and sparsity.

    Runs over different data sets are combined. A sample answered by several runs counts once, with its mean score, so
    as not to overstate certainty.
    """
    sparse = samples.loc[samples["attention"] != "dense", [*_SAMPLE, *_VALUES]]
    sparse = sparse.sort_values([*_SAMPLE, "score"], ignore_index=True)
    if sparse.duplicated(_SAMPLE).any():
        sparse = sparse.groupby(_SAMPLE, observed=True, dropna=False, as_index=False)[_VALUES].mean()
    return sparse
