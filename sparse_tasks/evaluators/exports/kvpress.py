"""Parquet that kvpress' evaluation reads by its name ``ruler``: ``LENGTH/test.parquet``, for ``--data_dir LENGTH``.

Its scorer of RULER (https://github.com/NVIDIA/kvpress) looks for answers anywhere in the output. By the name of a task
it decides whether all of them have to be there, or, where the first word is ``qa``, any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sparse_tasks.core.sample import Sample
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.exports.data import DATA_EXPORTS, configs, nothing
from sparse_tasks.evaluators.metrics import METRICS


def files(dataset: Dataset, tell: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """A file of Parquet for each length. See ``data.DataExport``."""
    rows: dict[int, list[dict[str, Any]]] = {}
    left_out, before = [], False
    for task, length, samples in configs(dataset):
        if any(len(answer) == 1 for sample in samples for answer in sample.answers):
            left_out.append(task)
            continue
        name = _name(task, METRICS.get(samples[0].metric).alternatives)
        rows.setdefault(length, []).extend(_row(name, sample) for sample in samples)
        before = before or samples[0].question_position == "both"
    if left_out:
        why = "kvpress looks for an answer anywhere in the output, where a single letter or digit is always found"
        names = ", ".join(dict.fromkeys(left_out))
        if not rows:
            raise nothing(dataset, f"has nothing that kvpress can score ({names}): {why}")
        tell(f"left out: {names}: {why}")
    if before:
        tell(
            "kvpress asks after the context alone, and the prompts were counted with the question before it too; "
            "generate --question-position after makes what it asks"
        )
    for length, its_rows in rows.items():
        yield f"{length}/test.parquet", _parquet(its_rows)


def _name(task: str, any_suffices: bool) -> str:
    """RULER's name of a task, or one by which the scorer chooses the right metric."""
    name = task.removeprefix("ruler_")
    is_qa = name.split("_")[0] == "qa"
    if any_suffices and not is_qa:
        return f"qa_{name}"
    return name.removeprefix("qa_") if is_qa and not any_suffices else name


def _row(name: str, sample: Sample) -> dict[str, Any]:
    return {
        "context": sample.context,
        "question": sample.question,
        "answer_prefix": sample.answer_prefix,
        "answer": sample.answers,
        "task": name,
        "max_new_tokens": sample.max_new_tokens,
        "id": sample.id,
    }


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


DATA_EXPORTS.register("kvpress", files)
