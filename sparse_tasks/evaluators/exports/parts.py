"""Shared by the formats: names of measurements and files, JSON as bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final

from sparse_tasks.core.length import label
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.records import AverageResult, Prediction, PublicSettings, Result

LEVEL: Final = 0.95
"""Level of the intervals in ``result.json`` (``statistics.mean_interval`` by default)."""


def variant(run: PublicSettings) -> str:
    """The attention method with its budget: the nominal sparsity, and the parameters that were set.

    ``quest-0.9``, ``quest-tokens=512``, ``vertical_slash+quest-0.9-quest.page=32``; "" for dense attention.
    """
    attention = run.attention
    if attention.method == "dense":
        return ""
    sparsity = [] if attention.sparsity is None else [f"{attention.sparsity:g}"]
    return "-".join([attention.method, *sparsity, *arguments(run)])


def arguments(run: PublicSettings) -> list[str]:
    """Parameters of the attention method as ``tokens=512``, sorted by name."""
    attention = run.attention
    own = f"{attention.method}."  # prefix of its parameters, which does not occur in a composition's name
    return [f"{name.removeprefix(own)}={_plain(value)}" for name, value in sorted(attention.arguments.items())]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def task_id(run: PublicSettings, task: str, length: int) -> str:
    """Name of a configuration: ``story_retrieval_64k``, or ``story_retrieval_64k@quest-0.9`` where sparse.

    The method is part of it, so that no table mixes sparse and dense scores of a model.
    """
    return _at_variant(run, f"{task}_{label(length)}")


def average_id(run: PublicSettings, average: AverageResult) -> str:
    """Name of the average over the tasks of a length: ``64k`` or ``64k@quest-0.9``."""
    return _at_variant(run, label(average.length))


def tasks_of(result: Result, average: AverageResult) -> list[str]:
    """The tasks of an average: all that were run at its length."""
    return [config.task for config in result.configs if config.length == average.length]


def _at_variant(run: PublicSettings, name: str) -> str:
    return f"{name}@{variant(run)}" if variant(run) else name


def model_id(run: PublicSettings | Result) -> str:
    """The model's name; for a folder its last part, because the path is private."""
    return _public(run.model.name)


def dataset_id(run: PublicSettings) -> str:
    """The data set's id on the Hub, without revision; for a folder its last part."""
    name = run.dataset.name
    return name.partition("@")[0] if run.dataset.revision is not None else _public(name)


def _public(name: str) -> str:
    """A name, or the last part of a path."""
    return PurePosixPath(name).name or name if name.startswith(("/", "~", "./", "../")) else name


def file_name(text: str) -> str:
    """``text`` as a file name, on any system.

    A changed name ends in a hash of the text, so that two texts never share a name.
    """
    safe = re.sub(r"[^A-Za-z0-9._@+=-]+", "_", text).strip(".-")
    if safe == text and 0 < len(text) <= 100:
        return text
    return f"{safe[:90] or 'unnamed'}-{hashlib.sha256(json.dumps(text).encode()).hexdigest()[:8]}"


def epoch(run: PublicSettings) -> int:
    """Seconds from 1970 to the start of the run."""
    return int(datetime.fromisoformat(run.started).timestamp())


def mark(result: Result) -> dict[str, int]:
    """The mark of an incomplete run, for every file of an export: its number of missing predictions."""
    return {"missing_predictions": result.missing} if result.missing else {}


def details(values: Mapping[str, object]) -> dict[str, str]:
    """Values as strings, without None: strings unchanged, everything else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=to_builtins)
        for key, value in values.items()
        if value is not None
    }


def by_id(predictions: Iterable[Prediction]) -> dict[str, Prediction]:
    """Predictions by the id of their sample."""
    return {prediction.id: prediction for prediction in predictions}


def json_bytes(value: object) -> bytes:
    """Readable JSON. NaN and infinity, which JSON lacks, are errors."""
    return (json.dumps(value, indent=2, allow_nan=False, default=to_builtins) + "\n").encode("ascii")


def jsonl_bytes(rows: Iterable[object]) -> bytes:
    """A line of JSON for each row. Escapes keep it ASCII, so that no character can break a line."""
    return "".join(json.dumps(row, allow_nan=False, default=to_builtins) + "\n" for row in rows).encode("ascii")
