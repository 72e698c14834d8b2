"""Entries for ``.eval_results/`` of a model's repository on the Hugging Face Hub.

The format: https://huggingface.co/docs/hub/eval-results. The Hub shows entries whose ``dataset.id`` is a
benchmark and whose ``task_id`` is in its ``eval.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import yaml

from sparse_tasks.core.records import JsonObject
from sparse_tasks.evaluators.exports.export import EXPORTS
from sparse_tasks.evaluators.exports.parts import (
    LEVEL,
    arguments,
    average_id,
    dataset_id,
    file_name,
    mark,
    task_id,
    tasks_of,
    variant,
)
from sparse_tasks.evaluators.records import (
    AverageResult,
    ConfigResult,
    Prediction,
    PublicSettings,
    Result,
    ScoredSample,
)


def files(
    run: PublicSettings,
    result: Result,
    scores: Sequence[ScoredSample],
    predictions: Iterable[Prediction],
) -> dict[str, bytes]:
    """A YAML file with an entry for each configuration and average. See ``exports.Export``."""
    del scores, predictions  # the format holds no samples
    entries = [
        _entry(run, task_id(run, config.task, config.length), config, [*_of_partial(result), *_of_config(config)])
        for config in result.configs
    ]
    entries += [
        _entry(run, average_id(run, average), average, _of_average(result, average)) for average in result.averages
    ]
    name = file_name("-".join(filter(None, ["sparse-tasks", dataset_id(run).replace("/", "_"), variant(run)])))
    content = yaml.safe_dump(entries, sort_keys=False, allow_unicode=False, width=10_000)
    return {f".eval_results/{name}.yaml": content.encode("ascii")}


def _entry(run: PublicSettings, name: str, row: ConfigResult | AverageResult, notes: list[str]) -> JsonObject:
    dataset = {"id": dataset_id(run), "task_id": name}
    if run.dataset.revision is not None:
        dataset["revision"] = run.dataset.revision
    interval = f"{LEVEL:.0%} interval {row.low:.4g} to {row.high:.4g} ({row.interval})"
    return {
        "dataset": dataset,
        "value": row.mean,
        "date": run.started,
        "notes": "; ".join([*notes, f"n={row.n}", interval, *_of_run(run)]),
    }


def _of_config(config: ConfigResult) -> list[str]:
    notes = [config.metric, f"unparsed {config.unparsed:.4g}", f"truncated {config.truncated:.4g}"]
    if config.sparsity is not None:
        phases = ", ".join(f"{phase} {share:.4g}" for phase, share in sorted(config.sparsity.items()))
        notes.append(f"measured sparsity: {phases}")
    return notes


def _of_average(result: Result, average: AverageResult) -> list[str]:
    return [*_of_partial(result), f"mean over {', '.join(tasks_of(result, average))}"]


def _of_partial(result: Result) -> list[str]:
    return [f"PARTIAL, {name} {missing}" for name, missing in mark(result).items()]


def _of_run(run: PublicSettings) -> list[str]:
    return [
        f"attention {run.attention.method}" + _budget(run),
        "query-aware" if run.query_aware else "not query-aware",
        *(["compressed before the question"] if run.compresses == "context" else []),
        *(["answers begun"] if run.begins_answer else []),
        " ".join(filter(None, [run.engine.name, run.engine.version])),
        f"sparse-tasks {run.environment.sparse_tasks}",
        f"data {run.dataset.fingerprint}",
    ]


def _budget(run: PublicSettings) -> str:
    if not variant(run):
        return ""
    sparsity = run.attention.sparsity
    set_to = f" with {', '.join(arguments(run))}" if arguments(run) else ""
    return ("" if sparsity is None else f" at nominal sparsity {sparsity:g}") + set_to


EXPORTS.register("eval_results", files)
