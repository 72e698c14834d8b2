"""A small scored run in the shapes of ``run.json``, ``result.json``, ``scores.parquet`` and ``predictions.jsonl``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.records import (
    AverageResult,
    ConfigResult,
    DatasetRecord,
    EngineRecord,
    EnvironmentRecord,
    ModelRecord,
    Prediction,
    PromptRecord,
    Result,
    RunSettings,
    SamplingRecord,
    ScoredSample,
)
from tests.evaluators.example_runs import made_settings

RUN: dict[str, Any] = to_builtins(
    made_settings(
        attention="quest", sparsity=0.9, model="Qwen/Qwen3-8B", shape=None, samples=6, lengths=[65536],
        tasks=["story_retrieval", "story_multihop"], command_line=["evaluate", "acme/stories"],
    )
)  # fmt: skip
RUN["dataset"] |= {"name": "acme/stories", "revision": "0123456789abcdef0123456789abcdef01234567"}
VALUES = {"story_retrieval": [1.0, 0.5, 0.0], "story_multihop": [1.0, 0.0, 0.0]}
METRICS = {"story_retrieval": "ordered_fraction", "story_multihop": "exact_match"}


PARTS: dict[str, Callable[..., Any]] = {
    "dataset": DatasetRecord,
    "model": ModelRecord,
    "engine": EngineRecord,
    "attention": Attention,
    "sampling": SamplingRecord,
    "prompt": PromptRecord,
    "environment": EnvironmentRecord,
}


@dataclass
class Scored:
    """What every export gets."""

    run: dict[str, Any]
    result: dict[str, Any]
    scores: list[dict[str, Any]]
    predictions: list[dict[str, Any]]

    def files(self, export: Callable[..., dict[str, bytes]]) -> dict[str, bytes]:
        predictions = [Prediction(**row) for row in self.predictions]
        return export(self.settings, self.made_result, [ScoredSample(**row) for row in self.scores], iter(predictions))

    # Made without a check: exports have to bear what no reader of a run would let through.
    @property
    def settings(self) -> RunSettings:
        return RunSettings(**{name: PARTS[name](**value) if name in PARTS else value
                              for name, value in self.run.items()})  # fmt: skip

    @property
    def made_result(self) -> Result:
        configs = [ConfigResult(**config) for config in self.result["configs"]]
        averages = [AverageResult(**average) for average in self.result["averages"]]
        return Result(**(self.result | {"configs": configs, "averages": averages}))


@pytest.fixture
def scored() -> Scored:
    """A run with sparse attention over two tasks at 64k, three samples each; the last sample was never answered."""
    configs, scores, predictions = [], [], []
    sparsity: dict[str, Any] = {
        "sparsity": {"prefill": 0.0, "decode": 0.875},
        "sparsity_spread": {"prefill": 0.0, "decode": 0.03125},
        "kv_bytes_per_step": 2048.5,
    }
    for task, values in VALUES.items():
        configs.append(
            {"task": task, "length": 65536, "metric": METRICS[task], "n": 3, "mean": sum(values) / 3}
            | {"low": 0.1, "high": 0.9, "interval": "bootstrap", "unparsed": 1 / 3, "fallback": 0.0}
            | {"truncated": 1 / 3, "input_tokens": 65520.1, "output_tokens": 120.5}
            | (sparsity if task == "story_retrieval" else dict.fromkeys(sparsity))
        )
        for index, value in enumerate(values):
            answered = index < 2
            row = {"id": f"{task}-65536-{index}", "task": task, "index": index, "length": 65536}
            row |= {"finish_reason": "stop" if answered else "length"}
            row |= (
                {"input_tokens": 65520, "output_tokens": 12}
                if answered
                else {"input_tokens": None, "output_tokens": None}
            )
            answer = {"extracted": "Otter Quay\nAnna", "how": "tag"} if answered else {"extracted": None, "how": None}
            scores.append(
                {**row, **answer, "metric": METRICS[task], "score": value, "parsed": answered}
                | {
                    "rules": [],
                    "thinking_tokens": 3,
                    "answer_tokens": 9,
                    "cut_thinking": False,
                    "turns": None,
                    "levels": None,
                    "depth": 0.5,
                    "depth_spread": 0.0,
                    "kv_bytes_per_step": 2048.5 if answered else None,
                }
                | {f"{phase}_sparsity": share if answered else None for phase, share in sparsity["sparsity"].items()}
            )
            text = "<answer>Otter Quay\nAnna</answer>" if answered else "Hm \u2028 \u00e9 \ud83d\ude00"
            seconds = (0.5, 2.5) if answered else (None, None)
            predictions.append(
                {**row, "text": text, "seconds_to_first_token": seconds[0], "seconds": seconds[1]}
                | (sparsity if answered else dict.fromkeys(sparsity))
            )
    averages = [{"length": 65536, "tasks": 2, "n": 6, "mean": 5 / 12, "low": 0.2, "high": 0.6, "interval": "mover"}]
    result = {
        "format": "sparse-tasks-result",
        "schema_version": "1.0",
        "dataset_sha256": RUN["dataset"]["sha256"],
        "model": RUN["model"],
        "attention": RUN["attention"],
        "query_aware": RUN["query_aware"],
        "configs": configs,
        "averages": averages,
        "average_is": "mean of the tasks' means",
    }
    return copy.deepcopy(Scored(RUN, result, scores, predictions))


HOSTILE = "a/../../etc\n\"quoted\": 'x' # no\t- [a, b]: {c} %\\ \u2028 \u00e9 !!python/object:os.system"


@pytest.fixture
def hostile(scored: Scored) -> Scored:
    """The same run with hostile text in every untrusted field, made to break a format or a path."""
    scored.run["model"] |= {"name": HOSTILE, "revision": HOSTILE}
    scored.run["dataset"] |= {"name": HOSTILE, "revision": HOSTILE}
    scored.run["engine"] |= {"version": HOSTILE, "arguments": {HOSTILE: HOSTILE}}
    scored.run["attention"] |= {"method": HOSTILE}
    scored.run["command_line"] = [HOSTILE]
    for row in [*scored.scores, *scored.predictions, *scored.result["configs"]]:
        row["task"] = HOSTILE + row["task"]
        if "id" in row:
            row["id"] = HOSTILE + row["id"]
    for row in scored.scores:
        row["extracted"] = HOSTILE if row["parsed"] else None
    for row in scored.predictions:
        row["text"] = HOSTILE
    return scored
