"""From a run's predictions to its scores and to the numbers that are reported."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.evaluators.dataset import Dataset, Selection, open_dataset
from sparse_tasks.evaluators.runs import PREDICTIONS, RESULT, SCORES, SETTINGS, Run, checked, read_json, to_json
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.evaluators.statistics import Interval, macro, mean_interval
from sparse_tasks.generators.files import write_whole

__all__ = ["SCORES_SCHEMA", "read_scored", "score_run"]

SCORES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("index", pa.int64()),
        ("length", pa.int64()),
        ("metric", pa.string()),
        ("score", pa.float64()),
        ("extracted", pa.string()),
        ("parsed", pa.bool_()),
        ("how", pa.string()),
        ("finish_reason", pa.string()),
    ]
)

_GOLD = ("id", "task", "index", "length", "metric", "answers", "answer_prefix")


def score_run(run: Run, data: str | None = None, scored: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Score a complete run: writes ``scores.parquet`` and ``result.json``, and returns the latter.

    Args:
        data: Where the data set is now; None where the run found it.
        scored: Called for each prediction.

    Raises:
        UsageError: The data set is not there, or is another one.
        DataError: The run is not complete, or holds predictions for other samples.
    """
    settings = run.settings
    if settings is None:
        raise UsageError("run", str(run.path), f"holds no {SETTINGS}; name a folder that evaluate or predict has made")
    dataset = open_dataset(data or settings["dataset"]["name"])
    if dataset.sha256 != settings["dataset"]["sha256"]:
        raise UsageError(
            "data", dataset.name, "is not the data set that the run was made on; name that one with --data"
        )
    chosen = settings["dataset"]
    selection = Selection(tuple(chosen["tasks"]), tuple(chosen["lengths"]), chosen["limit"])
    rows, tokens = _scores(run, dataset, selection, scored)
    result = checked(_result(settings, rows, tokens), "result-1.0", RESULT)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), sink, compression="zstd")
    write_whole(run.path / SCORES, sink.getvalue())
    write_whole(run.path / RESULT, to_json(result))
    return result


def read_scored(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The ``result.json`` of a run, and the rows of its ``scores.parquet``.

    Raises:
        UsageError: It is no scored run.
        DataError: A file cannot be read, or says something else.
    """
    if not (folder / RESULT).is_file():
        raise UsageError("run", str(folder), f"holds no {RESULT}; name a run that evaluate or score has finished")
    return read_json(folder / RESULT, "result-1.0"), _read_scores(folder / SCORES)


def _read_scores(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
        if not table.schema.equals(SCORES_SCHEMA):
            raise DataError(f"{path} has other columns than the scores of a run")
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return rows


def _scores(
    run: Run, dataset: Dataset, selection: Selection, scored: Callable[[], None]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """A row for each sample, in the data set's order, and what its prediction took."""
    gold = {row["id"]: row for row in dataset.rows(selection, _GOLD)}
    found: dict[str, dict[str, Any]] = {}
    took: dict[str, dict[str, Any]] = {}
    for number, prediction in enumerate(_predictions(run), start=1):
        row = gold.get(prediction["id"])
        if row is None or prediction["id"] in found:
            what = "is no sample of the run's selection" if row is None else "is there twice"
            raise DataError(f"{run.path / PREDICTIONS}, line {number}: {prediction['id']} {what}")
        # The prompt may end inside the answer: what it began belongs to what the model wrote.
        verdict = score(row["metric"], row["answer_prefix"] + prediction["text"], row["answers"])
        found[row["id"]] = {
            **{name: row[name] for name in ("id", "task", "index", "length", "metric")},
            "score": verdict.value,
            "extracted": verdict.extracted,
            "parsed": verdict.parsed,
            "how": verdict.how,
            "finish_reason": prediction["finish_reason"],
        }
        took[row["id"]] = {name: prediction[name] for name in ("input_tokens", "output_tokens", "sparsity")}
        scored()
    if missing := [identifier for identifier in gold if identifier not in found]:
        raise DataError(
            f"{run.path} is not complete: {len(missing)} of {len(gold)} predictions are missing, {missing[0]} first; "
            "give the same command again and it goes on"
        )
    return [found[identifier] for identifier in gold], took


def _predictions(run: Run) -> Iterator[dict[str, Any]]:
    if not (run.path / PREDICTIONS).exists():
        return iter(())
    return run.predictions()


def _result(settings: dict[str, Any], rows: list[dict[str, Any]], took: dict[str, dict[str, Any]]) -> dict[str, Any]:
    configs = []
    for length in settings["dataset"]["lengths"]:
        for task in settings["dataset"]["tasks"]:
            of_it = [row for row in rows if row["task"] == task and row["length"] == length]
            configs.append(_config(task, length, of_it, [took[row["id"]] for row in of_it]))
    return {
        "format": "sparse-tasks-result",
        "schema_version": "1.0",
        "dataset_sha256": settings["dataset"]["sha256"],
        "model": settings["model"],
        "attention": settings["attention"],
        "query_aware": settings["query_aware"],
        "configs": configs,
        "averages": [
            _average([config for config in configs if config["length"] == length])
            for length in settings["dataset"]["lengths"]
        ],
        "average_is": "mean of the tasks' means, equally weighted; interval by MOVER (Zou and Donner 2008)",
    }


def _config(task: str, length: int, rows: list[dict[str, Any]], took: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [row["score"] for row in rows]
    interval = mean_interval(scores)
    return {
        "task": task,
        "length": length,
        "metric": rows[0]["metric"],
        "n": len(rows),
        "mean": math.fsum(scores) / len(scores),
        "low": interval.low,
        "high": interval.high,
        "interval": interval.method,
        "unparsed": _share([not row["parsed"] for row in rows]),
        "fallback": _share([row["how"] in ("open_tag", "boxed") for row in rows]),
        "truncated": _share([row["finish_reason"] == "length" for row in rows]),
        "input_tokens": _mean([one["input_tokens"] for one in took]),
        "output_tokens": _mean([one["output_tokens"] for one in took]),
        "sparsity": _sparsity([one["sparsity"] for one in took]),
    }


def _average(configs: list[dict[str, Any]]) -> dict[str, Any]:
    mean, interval = macro([(one["mean"], Interval(one["low"], one["high"], one["interval"])) for one in configs])
    return {
        "length": configs[0]["length"],
        "tasks": len(configs),
        "n": sum(config["n"] for config in configs),
        "mean": mean,
        "low": interval.low,
        "high": interval.high,
        "interval": interval.method,
    }


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, if every sample has a value."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _sparsity(values: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    """Means over the samples, by phase, if every sample was measured."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    phases = sorted(set.intersection(*(set(value) for value in known)))
    return {phase: sum(value[phase] for value in known) / len(known) for phase in phases}
