"""A record of Every Eval Ever 0.3.0 and its samples (https://github.com/evaleval/every_eval_ever).

Paths are those of its datastore: ``data/<collection>/<developer>/<model>/<uuid>.json`` and, beside it,
``<uuid>_samples.jsonl``. Prompts and gold answers are not repeated in the samples: they are in the data set,
under the sample's id.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from sparse_tasks.core.records import JsonObject
from sparse_tasks.evaluators.engines.engine import ENGINES
from sparse_tasks.evaluators.exports import parts
from sparse_tasks.evaluators.exports.export import EXPORTS
from sparse_tasks.evaluators.records import (
    AverageResult,
    ConfigResult,
    Prediction,
    PublicSettings,
    Result,
    ScoredSample,
)

_SCHEMA_VERSION: Final = "0.3.0"
_COLLECTION: Final = "sparse-tasks"


def files(
    run: PublicSettings,
    result: Result,
    scores: Sequence[ScoredSample],
    predictions: Iterable[Prediction],
) -> dict[str, bytes]:
    """The record and its samples, if any. See ``exports.Export``."""
    model = _model(run)
    folder = (
        f"data/{_COLLECTION}/{parts.file_name(model['developer'])}/{parts.file_name(_within_developer(model['id']))}"
    )
    texts = parts.by_id(predictions)
    samples = parts.jsonl_bytes(_sample(run, row, texts[row.id], parts.mark(result)) for row in scores)
    name = _uuid4(parts.json_bytes([run, result]) + samples)
    record = {
        "schema_version": _SCHEMA_VERSION,
        "evaluation_id": _evaluation_id(run),
        "evaluation_timestamp": str(parts.epoch(run)),
        "retrieved_timestamp": str(parts.epoch(run)),
        "source_metadata": {
            "source_name": "sparse-tasks",
            "source_type": "evaluation_run",
            # The run does not say who ran it; the submitter does.
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": "sparse-tasks",
            "version": run.environment.sparse_tasks,
            "additional_details": parts.details(
                {key: getattr(run.environment, key) for key in ("python", "packages", "hardware")} | parts.mark(result)
            ),
        },
        "model_info": model,
        "evaluation_results": [
            *(_of_config(run, config) for config in result.configs),
            *(_of_average(run, result, average) for average in result.averages),
        ],
    }
    if not scores:
        return {f"{folder}/{name}.json": parts.json_bytes(record)}
    record["detailed_evaluation_results"] = {
        "format": "jsonl",
        "file_path": f"{folder}/{name}_samples.jsonl",
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(samples).hexdigest(),
        "total_rows": len(scores),
    }
    return {f"{folder}/{name}.json": parts.json_bytes(record), f"{folder}/{name}_samples.jsonl": samples}


def _uuid4(content: bytes) -> str:
    """A name in the datastore's form, determined by the content."""
    return str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4))


def _evaluation_id(run: PublicSettings) -> str:
    """Identity of a run: data, model, method, time."""
    method = parts.variant(run) or "dense"
    return f"{_COLLECTION}/{parts.dataset_id(run)}/{parts.model_id(run)}/{method}/{parts.epoch(run)}"


def _model(run: PublicSettings) -> JsonObject:
    name = parts.model_id(run)
    developer, slash, _ = name.partition("/")
    # The server may run anything.
    own = run.engine.name in ENGINES and not ENGINES.get(run.engine.name).elsewhere
    return {
        "name": name,
        "id": name,
        "developer": developer if slash and developer else "unknown",
        "inference_engine": parts.details({"name": run.engine.name, "version": run.engine.version}),
        "additional_details": {
            "deployment_type": "self_deployed" if own else "unknown",
            "model_availability": "open_weights" if own and run.model.revision is not None else "unknown",
            **parts.details({key: getattr(run.model, key) for key in ("revision", "config_sha256", "sha256")}),
            **parts.details({"engine_arguments": run.engine.arguments}),
        },
    }


def _within_developer(name: str) -> str:
    developer, slash, rest = name.partition("/")
    return rest.replace("/", "_") if slash and developer else name


def _of_config(run: PublicSettings, config: ConfigResult) -> JsonObject:
    exact = config.metric == "exact_match"
    return {
        **_common(run, parts.task_id(run, config.task, config.length), config),
        "evaluation_result_id": _result_id(run, config),
        "metric_config": {
            "evaluation_description": f"{config.task} in a prompt of {config.length} tokens",
            # The registry's id of exact match; the others are ours.
            "metric_id": "exact-match" if exact else f"sparse_tasks.{config.metric}",
            "metric_name": config.metric,
            **({"metric_kind": "accuracy"} if exact else {}),
            **_SCALE,
        },
        "score_details": {
            "score": config.mean,
            "details": parts.details(
                {
                    "level": "task",
                    "task": config.task,
                    "length": config.length,
                    "unparsed": config.unparsed,
                    "fallback": config.fallback,
                    **{f"read_by_{name}": share for name, share in (config.read_by or {}).items()},
                    "truncated": config.truncated,
                    "mean_input_tokens": config.input_tokens,
                    "mean_output_tokens": config.output_tokens,
                    "mean_thinking_tokens": config.thinking_tokens or None,
                    "cut_thinking": config.cut_thinking or None,
                    **{f"measured_sparsity_{phase}": share for phase, share in (config.sparsity or {}).items()},
                }
            ),
            "uncertainty": _uncertainty(config),
        },
    }


def _of_average(run: PublicSettings, result: Result, average: AverageResult) -> JsonObject:
    name = parts.average_id(run, average)
    return {
        **_common(run, name, average),
        "evaluation_result_id": f"{name}:average",
        "metric_config": {
            "evaluation_description": f"mean over the tasks in prompts of {average.length} tokens",
            "metric_id": "sparse_tasks.average",
            "metric_name": "average",
            **_SCALE,
        },
        "score_details": {
            "score": average.mean,
            "details": parts.details(
                {"level": "average over tasks", "tasks": parts.tasks_of(result, average), "length": average.length}
            ),
            "uncertainty": _uncertainty(average),
        },
    }


_SCALE: Final = {
    "metric_unit": "proportion",
    "lower_is_better": False,
    "score_type": "continuous",
    "min_score": 0.0,
    "max_score": 1.0,
}


def _common(run: PublicSettings, name: str, row: ConfigResult | AverageResult) -> JsonObject:
    """Data and generation settings, the same in every result."""
    dataset, sampling = run.dataset, run.sampling
    source: JsonObject = {"dataset_name": parts.dataset_id(run), "source_type": "other"}
    if dataset.revision is not None:
        source |= {"source_type": "hf_dataset", "hf_repo": parts.dataset_id(run), "hf_split": "test"}
        source["samples_number"] = row.n
    source["additional_details"] = parts.details(
        {key: getattr(dataset, key) for key in ("revision", "sha256", "fingerprint", "limit")}
        | {"config": name.partition("@")[0]}
    )
    arguments = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
    return {
        "evaluation_name": name,
        "source_data": source,
        "evaluation_timestamp": str(parts.epoch(run)),
        "generation_config": {
            "generation_args": {name: value for name, value in arguments.items() if value is not None},
            "additional_details": parts.details(
                {
                    "seed": sampling.seed,
                    "query_aware": run.query_aware,
                    "compress": run.compresses,
                    "begin_answer": run.begins_answer,
                    "attention_method": run.attention.method,
                    "attention_nominal_sparsity": run.attention.sparsity,
                    "attention_arguments": run.attention.arguments,
                }
            ),
        },
    }


def _uncertainty(row: ConfigResult | AverageResult) -> JsonObject:
    return {
        "confidence_interval": {
            "lower": row.low,
            "upper": row.high,
            "confidence_level": parts.LEVEL,
            "method": row.interval,
        },
        "num_samples": row.n,
    }


def _result_id(run: PublicSettings, row: ConfigResult | ScoredSample) -> str:
    return f"{parts.task_id(run, row.task, row.length)}:{row.metric}"


def _sample(run: PublicSettings, row: ScoredSample, prediction: Prediction, mark: dict[str, int]) -> JsonObject:
    sparsity = prediction.sparsity or {}
    sample = {
        "schema_version": _SCHEMA_VERSION,
        "evaluation_id": _evaluation_id(run),
        "model_id": parts.model_id(run),
        "evaluation_name": parts.task_id(run, row.task, row.length),
        "evaluation_result_id": _result_id(run, row),
        "sample_id": row.id,
        "interaction_type": "single_turn",
        "input": {"raw": f"(the prompt of sample {row.id} in the data set)", "reference": []},
        "output": {"raw": [prediction.text]},
        "answer_attribution": _attribution(row),
        "evaluation": {"score": row.score, "is_correct": row.score == 1.0},
        "metadata": parts.details(
            {key: getattr(row, key) for key in ("task", "index", "length", "metric", "parsed", "finish_reason")}
            | {f"measured_sparsity_{phase}": share for phase, share in sparsity.items()}
            | mark
        ),
    }
    read, written = prediction.input_tokens, prediction.output_tokens
    if read is not None and written is not None:
        sample["token_usage"] = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    seconds = {"latency_ms": prediction.seconds, "time_to_first_token_ms": prediction.seconds_to_first_token}
    if known := {key: 1000 * value for key, value in seconds.items() if value is not None}:
        sample["performance"] = known
    return sample


def _attribution(row: ScoredSample) -> list[JsonObject]:
    if row.extracted is None:
        return []
    return [
        {
            "turn_idx": 0,
            "source": "output.raw",
            "extracted_value": row.extracted,
            "extraction_method": row.how or "whole_output",
            "is_terminal": True,
        }
    ]


EXPORTS.register("every_eval_ever", files)
