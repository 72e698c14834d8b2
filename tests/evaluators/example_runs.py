"""Scored runs with scores of one's choice, written as ``evaluate`` would, without a model or a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import structs

from sparse_tasks.core.json import to_json
from sparse_tasks.core.records import convert
from sparse_tasks.core.shape import Shape
from sparse_tasks.evaluators import results
from sparse_tasks.evaluators.dataset import Selection
from sparse_tasks.evaluators.records import Prediction, RunSettings, ScoredSample
from sparse_tasks.evaluators.runs import checked

__all__ = ["LLAMA_8B", "made_run", "made_settings"]

LLAMA_8B = Shape(
    hidden_size=4096,
    layers=32,
    query_heads=32,
    kv_heads=8,
    head_size=128,
    mlp_size=14336,
    vocabulary=128256,
    tied_embeddings=False,
    window=None,
    windowed_layers=0,
    experts=0,
    active_experts=0,
    expert_size=0,
    shared_expert_size=0,
    dense_layers=32,
)


def made_settings(
    *,
    attention: str = "dense",
    sparsity: float | None = None,
    arguments: Mapping[str, Any] | None = None,
    model: str = "acme/small",
    shape: Shape | None = LLAMA_8B,
    dataset_sha256: str = "a" * 64,
    query_aware: bool = True,
    tasks: Sequence[str] = ("ruler_vt",),
    lengths: Sequence[int] = (8192,),
    samples: int = 1,
    command_line: Sequence[str] = ("evaluate", "made"),
) -> RunSettings:
    """Settings of a run, as ``made_run`` writes them."""
    settings = {
        "format": "sparse-tasks-run",
        "schema_version": "1.0",
        "started": "2026-11-26T08:00:00Z",
        "dataset": {
            "name": "made",
            "revision": None,
            "sha256": dataset_sha256,
            "fingerprint": "b" * 64,
            "tasks": list(tasks),
            "lengths": list(lengths),
            "limit": None,
            "samples": samples,
        },
        "model": {
            "name": model,
            "revision": "f" * 40,
            "config_sha256": "c" * 64,
            "sha256": None,
            "shape": None if shape is None else structs.asdict(shape),
        },
        "engine": {"name": "vllm", "version": "0.32.0", "arguments": {}, "details": {}},
        "attention": {
            "method": attention,
            "sparsity": 0.0 if attention == "dense" else sparsity,
            "arguments": dict(arguments or {}),
        },
        "query_aware": query_aware,
        "sampling": {"temperature": 0.0, "seed": 42, "max_new_tokens": None},
        "prompt": {
            "rendered_by": "sparse-tasks",
            "tokenizer_sha256": "d" * 64,
            "chat_template_sha256": None,
            "as_generated": True,
        },
        "environment": {
            "sparse_tasks": "0.1.0",
            "python": "3.11.9",
            "platform": "Linux x86_64",
            "packages": {"torch": "2.13.0"},
            "hardware": {"cpu": "x86", "cores": 2, "memory_gib": 24, "gpus": []},
        },
        "other_environments": [],
        "command_line": list(command_line),
    }
    return convert(settings, RunSettings, "made run")


def made_run(
    folder: Path,
    scores: Mapping[tuple[str, int], Sequence[float | list[float]]],
    *,
    attention: str = "dense",
    sparsity: float | None = None,
    arguments: Mapping[str, Any] | None = None,
    measured: Mapping[str, float] | None = None,
    model: str = "acme/small",
    shape: Shape | None = LLAMA_8B,
    dataset_sha256: str = "a" * 64,
    query_aware: bool = True,
    depths: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    distances: Sequence[float] = (0.0,),
    unparsed: Sequence[int] = (),
    truncated: Sequence[int] = (),
    text: str = "<answer>so it is</answer>",
    metric: str = "exact_match",
) -> Path:
    """Write a run.

    Args:
        folder: Where.
        scores: By task and length, a score a sample, or one a question; each key becomes a configuration.
        attention: ``dense``, or a method.
        sparsity: That was asked for.
        arguments: Of the method.
        measured: Sparsity by phase, of every sample; by default what was asked, in both phases.
        model: Its name.
        shape: Its sizes.
        dataset_sha256: The data set.
        query_aware: Whether the question stands before the text, too.
        depths: Of the evidence, in turn.
        distances: Between its parts, in turn.
        unparsed: Indices of samples without an answer, in each configuration.
        truncated: Indices of samples that were cut off.
        text: What the model wrote, everywhere.
        metric: That the scores are of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dense = attention == "dense"
    ran = dict(measured) if measured is not None else {"prefill": sparsity or 0.0, "decode": sparsity or 0.0}
    keys = list(scores)
    tasks = tuple(dict.fromkeys(task for task, _ in keys))
    lengths = tuple(dict.fromkeys(length for _, length in keys))
    record = made_settings(
        attention=attention,
        sparsity=sparsity,
        arguments=arguments,
        model=model,
        shape=shape,
        dataset_sha256=dataset_sha256,
        query_aware=query_aware,
        tasks=tasks,
        lengths=lengths,
        samples=sum(map(len, scores.values())),
    )
    configs, tables, lines = [], [], []
    for length in lengths:
        for task in tasks:
            if (task, length) not in scores:
                continue
            rows, predictions = [], []
            for index, score in enumerate(scores[task, length]):
                prediction = {
                    "id": f"{task}-{length}-{index:05d}",
                    "task": task,
                    "index": index,
                    "length": length,
                    "text": text,
                    "finish_reason": "length" if index in truncated else "stop",
                    "input_tokens": length - 10,
                    "output_tokens": 20,
                    "seconds_to_first_token": 0.5,
                    "seconds": 1.0,
                    "sparsity": None if dense or not ran else ran,
                    "sparsity_spread": None if dense or not ran else dict.fromkeys(ran, 0.01),
                    "kv_bytes_per_step": None if dense else 1e6,
                }
                parsed = index not in unparsed
                rows.append(
                    ScoredSample(
                        **{
                            **{name: prediction[name] for name in ("id", "task", "index", "length", "finish_reason")},
                            "metric": metric,
                            "score": fmean(score) if isinstance(score, list) else float(score),
                            "turns": score if isinstance(score, list) else None,
                            "levels": [""] * len(score) if isinstance(score, list) else None,
                            "extracted": "so it is" if parsed else None,
                            "parsed": parsed,
                            "how": "tag" if parsed else None,
                            "depth": depths[index % len(depths)],
                            "depth_spread": distances[index % len(distances)],
                            **{
                                name: prediction[name]
                                for name in ("input_tokens", "output_tokens", "kv_bytes_per_step")
                            },
                            **{
                                f"{phase}_sparsity": None if dense else ran.get(phase)
                                for phase in ("prefill", "decode")
                            },
                        }
                    )
                )
                predictions.append(Prediction(**prediction))
                lines.append(json.dumps(prediction) + "\n")
            configs.append(results.config_result(rows, predictions))
            tables.append(results.scores_table(rows))
    result = results.run_result(record, Selection(tasks, lengths, None), configs)
    (folder / "run.json").write_bytes(to_json(record))
    (folder / "result.json").write_bytes(to_json(checked(result, folder)))
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    pq.write_table(pa.concat_tables(tables), folder / "scores.parquet")
    return folder
