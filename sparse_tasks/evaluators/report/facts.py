"""Sections on outputs without an answer, and on the settings and versions of all runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from sparse_tasks.core.format import TYPESET
from sparse_tasks.core.length import label
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.exports.parts import arguments, dataset_id
from sparse_tasks.evaluators.records import EnvironmentRecord
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Column, Section, Table, Text
from sparse_tasks.evaluators.report.context import LONG, Context
from sparse_tasks.evaluators.report.groups import sparsity_text
from sparse_tasks.evaluators.statistics import mean_interval


def shares(context: Context) -> Section:
    """Shares of outputs without an answer, and of outputs cut off, by run and length."""
    section = Section("unparsed", "Unparsed and truncated outputs")
    samples = context.runs.samples
    unparsed, truncated = int((~samples["parsed"]).sum()), int(samples["truncated"].sum())
    section.blocks.append(
        Text(
            f"Of {len(samples):,} outputs {_share(unparsed, len(samples))} held no answer; they score 0 and count. "
            f"{_share(truncated, len(samples))} were cut off at the most tokens that an answer may have."
        )
    )
    rows = [
        (
            group,
            [
                *(wording.name(run.attention), sparsity_text(run), label(length), f"{len(part):,}"),
                *(text for column in (~part["parsed"], part["truncated"]) for text in _with_interval(column)),
                _most(part),
            ],
        )
        for group in context.groups
        for run in group.runs
        for length, part in samples[samples["run"] == run.name].groupby("length")
    ]
    names = ("attention", "target", "length", "n", "unparsed", "its 95% interval", "truncated", "its 95% interval ",
             "most unparsed in")  # fmt: skip
    section.blocks.append(context.table("Unparsed and truncated shares by run and length", names, rows))
    return section


def _share(count: int, of: int) -> str:
    return f"{count:,} ({TYPESET.share(count / of)})"


def _with_interval(flags: Any) -> tuple[str, str]:
    interval = mean_interval(flags.astype(float).tolist())
    return TYPESET.share(float(flags.mean())), f"{TYPESET.share(interval.low)} to {TYPESET.share(interval.high)}"


def _most(samples: Any) -> str:
    by_task = (~samples["parsed"]).groupby(samples["task"], observed=True).mean()
    if not by_task.max() > 0:
        return "–"
    return f"{by_task.idxmax()} ({TYPESET.share(float(by_task.max()))})"


def settings(context: Context) -> Section:
    """Settings and versions of all runs: only public parts, no command lines and no paths."""
    section = Section("settings", "Settings and versions")
    runs = context.runs.runs
    section.blocks += [_runs(context), _models(runs), _data(runs), _environments(runs)]
    return section


def _runs(context: Context) -> Table:
    rows = [
        [
            *(wording.name(run.name), wording.name(run.model), _method(run)),
            *(sparsity_text(run), wording.cut(wording.public(", ".join(arguments(run.settings))), 300)[0] or "–"),
            *(_engine(run), wording.settings(run.settings.engine.arguments)),
            *(wording.settings(to_builtins(run.settings.sampling)), run.prompts),
            *(f"{run.settings.dataset.samples:,}", run.settings.started),
        ]
        for run in context.runs.runs
    ]
    names = ("run", "model", "method", "target", "arguments", "engine", "engine's arguments", "sampling",
             "prompts", "samples", "started")  # fmt: skip
    columns = _columns(names, ("target", "samples"), ("arguments", "engine's arguments", "sampling"))
    return Table("Runs", columns, rows, folded=len(rows) > LONG)


def _columns(names: Sequence[str], numeric: Sequence[str] = (), long: Sequence[str] = ()) -> tuple[Column, ...]:
    return tuple(Column(name, name in numeric, name in long) for name in names)


def _method(run: ScoredRun) -> str:
    attention = run.settings.attention
    return wording.name(attention.method) + (" (nominal)" if attention.nominal else "")


def _engine(run: ScoredRun) -> str:
    engine = run.settings.engine
    return " ".join(wording.name(str(part)) for part in (engine.name, engine.version) if part is not None)


def _models(runs: tuple[ScoredRun, ...]) -> Table:
    rows = []
    for run in _first(runs, lambda run: (run.model, json.dumps(to_builtins(run.settings.model)))):
        model = run.settings.model
        shape = {} if model.shape is None else to_builtins(model.shape)
        rows.append(
            [
                *(wording.name(run.model), wording.name(model.revision or "–")),
                *(model.config_sha256 or "–", model.sha256 or "–"),
                wording.settings({name: value for name, value in shape.items() if value}) if shape else "not known",
            ]
        )
    names = ("model", "revision", "SHA-256 of config", "SHA-256", "sizes")
    return Table("Models", _columns(names, long=names[1:]), rows)


def _data(runs: tuple[ScoredRun, ...]) -> Table:
    rows = []
    for run in _first(runs, lambda run: json.dumps(to_builtins(run.settings.dataset))):
        data = run.settings.dataset
        rows.append(
            [
                *(wording.name(dataset_id(run.settings)), wording.name(data.revision or "–"), data.sha256),
                *(wording.listed(data.tasks, 40), wording.listed([label(length) for length in data.lengths], 40)),
                *("all" if data.limit is None else f"{data.limit:,}", f"{data.samples:,}"),
            ]
        )
    names = ("data set", "revision", "SHA-256", "tasks", "lengths", "limit", "samples")
    return Table("Data sets", _columns(names, ("limit", "samples"), ("SHA-256", "revision")), rows)


def _environments(runs: tuple[ScoredRun, ...]) -> Table:
    seen: dict[str, tuple[EnvironmentRecord, list[str]]] = {}
    for run in runs:
        for environment in (run.settings.environment, *run.settings.other_environments):
            seen.setdefault(json.dumps(to_builtins(environment)), (environment, []))[1].append(wording.name(run.name))
    rows = [
        [
            wording.listed(names, 4),
            *map(wording.name, (environment.sparse_tasks, environment.python, environment.platform)),
            *map(wording.settings, (environment.packages, to_builtins(environment.hardware))),
        ]
        for environment, names in seen.values()
    ]
    names = ("runs", "sparse-tasks", "Python", "platform", "packages", "hardware")
    return Table("Versions and hardware", _columns(names, long=("packages", "hardware")), rows)


def _first(runs: tuple[ScoredRun, ...], key: Callable[[ScoredRun], Hashable]) -> list[ScoredRun]:
    firsts: dict[Hashable, ScoredRun] = {}
    for run in runs:
        firsts.setdefault(key(run), run)
    return list(firsts.values())
