"""Submissions over a real data set, honest ones and others."""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_tasks.core.json import to_json
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.dataset import Dataset, Selection
from sparse_tasks.evaluators.results import score_run
from sparse_tasks.evaluators.runs import Run
from tests.evaluators.example_runs import made_run

__all__ = ["Edit", "answered", "changed", "packed", "put", "repacked", "unpacked"]

Lines = list[dict[str, Any]]
Edit = Callable[[Any], object]
"""A change of a submission's JSON, in place."""


def answered(
    folder: Path,
    dataset: Dataset,
    *,
    attention: str = "dense",
    sparsity: float | None = None,
    arguments: Mapping[str, Any] | None = None,
    measured: Mapping[str, float] | None = None,
    wrong: Sequence[int] = (),
    limit: int | None = None,
    tasks: Sequence[str] = (),
    texts: Callable[[dict[str, Any]], str] | None = None,
    settings: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """A run over a data set, scored as every other.

    Args:
        wrong: Indices of the samples that are answered wrong, of each task and length.
        texts: What is written for a row, instead.
        settings: Changes what ``run.json`` says.
    """
    selection: Selection = dataset.select(tasks, (), limit)
    rows = list(dataset.rows(selection))
    scores = {(task, length): [0.0] for length in selection.lengths for task in selection.tasks}
    options: dict[str, Any] = {"attention": attention, "sparsity": sparsity, "arguments": arguments, "shape": None}
    made_run(folder, scores, dataset_sha256=dataset.sha256, measured=measured, **options)
    of_run = json.loads((folder / "run.json").read_bytes())
    manifest = dataset.manifest
    of_run["dataset"] |= {
        "fingerprint": manifest.fingerprint,
        "tasks": list(selection.tasks),
        "lengths": list(selection.lengths),
        "limit": limit,
        "samples": len(rows),
    }
    template = manifest.chat_template
    of_run["query_aware"] = manifest.request.question_position == "both"
    of_run["prompt"] |= {
        "tokenizer_sha256": manifest.tokenizer.sha256,
        "chat_template_sha256": template and template.sha256,
    }
    of_run["made_from"] = to_builtins(manifest.description)
    settings(of_run)
    (folder / "run.json").write_bytes(to_json(of_run))
    ran = dict({"prefill": 0.0, "decode": sparsity} if measured is None else measured) or None
    ran = None if attention in ("dense", "unknown") else ran
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            text = "<answer>so it is</answer>" if row["index"] in wrong else f"<answer>{row['answer']}</answer>"
            prediction = {
                **{name: row[name] for name in ("id", "task", "index", "length")},
                "text": text if texts is None else texts(row),
                "finish_reason": "stop",
                "input_tokens": row["input_tokens"],
                "output_tokens": 20,
                "seconds_to_first_token": 0.5,
                "seconds": 1.0,
                "sparsity": ran,
                "sparsity_spread": None,
                "kv_bytes_per_step": None,
            }
            file.write(json.dumps(prediction) + "\n")
    with Run(folder) as run:
        score_run(run, dataset)
    return folder


def changed(content: bytes, edit: Edit) -> bytes:
    """A submission after an edit."""
    document = json.loads(content)
    edit(document)
    return json.dumps(document).encode()


def put(value: Any, *path: str | int) -> Edit:
    """An edit that puts a value somewhere."""

    def edit(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return edit


def unpacked(run: Mapping[str, Any]) -> Lines:
    """The predictions of a run of a submission."""
    return [json.loads(line) for line in lzma.decompress(base64.b64decode(run["predictions"]["data"])).splitlines()]


def packed(content: bytes, **fields: Any) -> dict[str, Any]:
    """Predictions as a submission has them."""
    return {
        "encoding": "xz+base64",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "lines": content.count(b"\n"),
        "data": base64.b64encode(lzma.compress(content)).decode(),
    } | fields


def repacked(run: dict[str, Any], edit: Callable[[Lines], object]) -> None:
    """Change the predictions of a run, and their counts and hashes."""
    lines = unpacked(run)
    edit(lines)
    run["predictions"] = packed("".join(json.dumps(line) + "\n" for line in lines).encode())
