"""Results and samples laid out as lm-evaluation-harness writes them (``--output_path``, ``--log_samples``).

Field names are those of lm-eval 0.4.13. Other values are under the key ``sparse_tasks``, which its readers ignore, and
averages are only under ``groups``, because readers expect samples for everything under ``results``. Prompts and gold
answers are not repeated here: they are in the data set, and a prompt of 128k tokens a sample would make the files
unusable.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import stdev

from msgspec.structs import replace

from sparse_tasks.core.records import JsonObject
from sparse_tasks.evaluators.exports import parts
from sparse_tasks.evaluators.exports.export import EXPORTS
from sparse_tasks.evaluators.records import ConfigResult, Prediction, PublicSettings, Result, ScoredSample


def files(
    run: PublicSettings,
    result: Result,
    scores: Sequence[ScoredSample],
    predictions: Iterable[Prediction],
) -> dict[str, bytes]:
    """``MODEL/results_DATE.json`` and a ``MODEL/samples_TASK_DATE.jsonl`` for each task. See ``exports.Export``."""
    rows: dict[str, list[ScoredSample]] = defaultdict(list)
    for row in scores:
        rows[parts.task_id(run, row.task, row.length)].append(row)
    texts = parts.by_id(predictions)
    folder = parts.file_name(parts.model_id(run).replace("/", "__"))
    date = parts.file_name(run.started.removesuffix("Z").replace(":", "-"))
    written = {f"{folder}/results_{date}.json": parts.json_bytes(_results(run, result, rows, folder))}
    for task, its_rows in sorted(rows.items()):
        lines = (_sample(run, row, texts[row.id], parts.mark(result)) for row in its_rows)
        written[f"{folder}/samples_{parts.file_name(task)}_{date}.jsonl"] = parts.jsonl_bytes(lines)
    return written


def _results(run: PublicSettings, result: Result, rows: dict[str, list[ScoredSample]], folder: str) -> JsonObject:
    configs = {parts.task_id(run, config.task, config.length): config for config in result.configs}
    averages = {parts.average_id(run, average): average for average in result.averages}
    model = run.model
    return {
        "results": {
            task: {
                "name": task,
                "alias": task,
                "sample_len": config.n,
                f"{config.metric},none": config.mean,
                f"{config.metric}_stderr,none": _standard_error(config, rows.get(task, [])),
            }
            for task, config in configs.items()
        },
        "groups": {
            group: {
                "name": group,
                "alias": group,
                "sample_len": average.n,
                "average,none": average.mean,
                "average_stderr,none": "N/A",
            }
            for group, average in averages.items()
        },
        "group_subtasks": {
            group: [parts.task_id(run, task, average.length) for task in parts.tasks_of(result, average)]
            for group, average in averages.items()
        },
        "configs": {task: _config(run, task, config) for task, config in configs.items()},
        "versions": dict.fromkeys(configs, run.environment.sparse_tasks),
        "n-shot": dict.fromkeys(configs, 0),
        "higher_is_better": {
            **{task: {config.metric: True} for task, config in configs.items()},
            **{group: {"average": True} for group in averages},
        },
        "n-samples": {
            # With a limit, the full number is not known.
            task: {"effective": config.n} | ({"original": config.n} if run.dataset.limit is None else {})
            for task, config in configs.items()
        },
        "config": {
            "model": run.engine.name,
            "model_args": {"pretrained": parts.model_id(run), **run.engine.arguments},
            "model_revision": model.revision,
            "batch_size": None,
            "device": None,
            "limit": run.dataset.limit,
            "gen_kwargs": _generation(run),
            "random_seed": run.sampling.seed,
        },
        "date": parts.epoch(run),
        "task_hashes": {},
        "model_source": run.engine.name,
        "model_name": parts.model_id(run),
        "model_name_sanitized": folder,
        # Its readers require these fields; without lm-eval they say so, or are empty.
        "lm_eval_version": f"none: written by sparse-tasks {run.environment.sparse_tasks}",
        "transformers_version": run.environment.packages.get("transformers", "N/A"),
        "pretty_env_info": "N/A (see sparse_tasks.environment)",
        "git_hash": None,
        "upper_git_hash": None,
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "start_time": None,
        "end_time": None,
        "total_evaluation_time_seconds": None,
        "sparse_tasks": {
            **parts.mark(result),
            "version": run.environment.sparse_tasks,
            "dataset": replace(run.dataset, name=parts.dataset_id(run)),
            "engine": {"name": run.engine.name, "version": run.engine.version},
            "attention": run.attention,
            "query_aware": run.query_aware,
            "compress": run.compresses,
            "begin_answer": run.begins_answer,
            "environment": run.environment,
            "configs": result.configs,
            "averages": result.averages,
        },
    }


def _standard_error(config: ConfigResult, rows: Sequence[ScoredSample]) -> float | str:
    """As lm-eval has it for means: the samples' standard deviation over the root of their number, or "N/A"."""
    values = [row.score for row in rows]
    if len(values) != config.n or len(values) < 2:
        return "N/A"
    return stdev(values) / sqrt(len(values))


def _config(run: PublicSettings, task: str, config: ConfigResult) -> JsonObject:
    return {
        "task": task,
        "dataset_path": parts.dataset_id(run),
        "dataset_name": task.partition("@")[0],
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "metric_list": [{"metric": config.metric, "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": _generation(run),
        "metadata": {
            "attention": run.attention,
            "query_aware": run.query_aware,
            "compress": run.compresses,
            "begin_answer": run.begins_answer,
            "dataset_revision": run.dataset.revision,
            "dataset_fingerprint": run.dataset.fingerprint,
        },
    }


def _generation(run: PublicSettings) -> JsonObject:
    temperature, budget = run.sampling.temperature, run.sampling.max_new_tokens
    # Unknown for outputs made elsewhere.
    kwargs = {} if temperature is None else {"temperature": temperature, "do_sample": temperature > 0}
    return kwargs | ({} if budget is None else {"max_gen_toks": budget})


def _sample(run: PublicSettings, row: ScoredSample, prediction: Prediction, mark: dict[str, int]) -> JsonObject:
    document = {"id": row.id, "task": row.task, "index": row.index, "length": row.length}
    return {
        "doc_id": row.index,
        "doc": document,
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": "", "arg_1": _generation(run)}},
        "resps": [[prediction.text]],
        "filtered_resps": [row.extracted or ""],
        "filter": "none",
        "metrics": [row.metric],
        "doc_hash": hashlib.sha256(json.dumps(document, sort_keys=True).encode("ascii")).hexdigest(),
        "prompt_hash": "",
        "target_hash": "",
        row.metric: row.score,
        "sparse_tasks": {
            **mark,
            "parsed": row.parsed,
            "how": row.how,
            "rules": row.rules,
            "thinking_tokens": row.thinking_tokens,
            "answer_tokens": row.answer_tokens,
            "cut_thinking": row.cut_thinking,
            "finish_reason": row.finish_reason,
            **{key: getattr(prediction, key) for key in ("input_tokens", "output_tokens", "seconds", "sparsity")},
        },
    }


EXPORTS.register("lm_eval", files)
