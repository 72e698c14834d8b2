"""Tasks for lm-evaluation-harness 0.4: a YAML file and a file of JSON Lines for each task at each length.

The harness queries the model; this package, which must be installed too, scores the answers. Paths are relative, so the
folder may be anywhere, and ``lm_eval --include_path . --tasks sparse_tasks`` is run inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from sparse_tasks import __version__
from sparse_tasks.core.beginning import in_tags
from sparse_tasks.core.length import label
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.sample import Sample
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.exports import parts
from sparse_tasks.evaluators.exports.data import DATA_EXPORTS, configs
from sparse_tasks.evaluators.scoring import score

_GROUP: Final = "sparse_tasks"
_METRIC: Final = "score"
_UTILS: Final = f'''"""Scores by sparse-tasks, which has to be installed."""

from {__name__} import process_results

__all__ = ["process_results"]
'''


def files(dataset: Dataset, tell: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """The tasks, a group of all of them, and what scores them. See ``data.DataExport``."""
    del tell  # nothing is left out
    names = []
    for task, length, samples in configs(dataset):
        config = f"{task}_{label(length)}"
        names.append(f"{_GROUP}_{config}")
        yield f"data/{config}.jsonl", parts.jsonl_bytes(_line(sample, dataset.begins_answer) for sample in samples)
        yield f"{config}.yaml", _task(names[-1], config, samples, dataset)
    group = {
        "group": _GROUP,
        "task": names,
        "aggregate_metric_list": [{"metric": _METRIC, "weight_by_size": False}],
        "metadata": {"version": __version__},
    }
    yield f"{_GROUP}.yaml", _yaml(group)
    yield "utils.py", _UTILS.encode()


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The score of the harness' first output for a line of an exported file, as the harness calls it."""
    found = score(
        doc["metric"], results[0], doc["answers"], doc["begun"], before=doc["before"], question=doc["question"]
    )
    return {_METRIC: found.value}


def _task(name: str, config: str, samples: Sequence[Sample], dataset: Dataset) -> bytes:
    begun = any(_beginning(sample, dataset.begins_answer) for sample in samples)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"data/{config}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        **({"gen_prefix": "beginning"} if begun else {}),
        "generation_kwargs": {
            "until": [],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": max(sample.max_new_tokens for sample in samples),
        },
        "metric_list": [{"metric": _METRIC, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": __version__, "dataset_sha256": dataset.sha256},
    }
    return _yaml(task) + b"process_results: !function utils.process_results\n"


def _line(sample: Sample, begins_answer: bool) -> JsonObject:
    beginning = _beginning(sample, begins_answer)
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "beginning": beginning,
        "answer": sample.answer,
        "answers": sample.answers,
        "metric": sample.metric,
        "question": sample.question,
        # What the output goes on from where that is scored too, and whether that is inside the answer.
        "before": "" if begins_answer else sample.answer_prefix,
        "begun": begins_answer and in_tags(sample.answer_prefix),
    }


def _beginning(sample: Sample, begins_answer: bool) -> str:
    """The text already in the model's turn."""
    return "" if not begins_answer or sample.prompt.endswith(sample.answer_prefix) else sample.answer_prefix


def _yaml(content: JsonObject) -> bytes:
    return yaml.safe_dump(content, sort_keys=False, width=10_000).encode()


DATA_EXPORTS.register("lm_eval_task", files)
