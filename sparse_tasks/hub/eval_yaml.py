"""``eval.yaml``, by which Hugging Face's Community Evals and inspect_ai run a data set.

The format: https://huggingface.co/docs/hub/eval-results. inspect_ai allows only its own scorers, which are stricter
than this package's metrics: an answer is right or wrong.
"""

from __future__ import annotations

from typing import Final

import yaml

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.metrics import METRICS

EVAL_YAML: Final = "eval.yaml"

ANSWER: Final = r"(?s)\A.*<answer>\s*(\S(?:(?:(?!<answer>).)*?\S)?)\s*</answer>"
r"""The text in the last ``<answer>`` that is closed.

The anchor, the ``\S`` and the bar to another ``<answer>`` keep the time linear on outputs that never end.
"""


def eval_yaml(dataset: Dataset) -> bytes:
    """Content of the file; the same bytes for the same data set.

    Its tasks are named as the configurations on the card and the entries of ``export --to eval_results`` are.

    Raises:
        DataError: A file differs from the manifest.
    """
    request = dataset.manifest.request
    lengths = ", ".join(label(length) for length in request.lengths)
    content = {
        "name": f"sparse-tasks {lengths}",
        "description": (
            f"Long-context tasks of exact length ({', '.join(request.tasks)}; {lengths} tokens). "
            "inspect counts an answer as right if the text in the last <answer> is the gold answer, letter case aside; "
            "nothing is given for parts of it. sparse-tasks evaluate scores by the tasks' own metrics, most of which "
            "do give something for parts."
        ),
        "evaluation_framework": "inspect-ai",
        "tasks": [_task(dataset, task, length) for length in request.lengths for task in request.tasks],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000).encode()


def _task(dataset: Dataset, task: str, length: int) -> dict[str, object]:
    name, budget = f"{task}_{label(length)}", dataset.manifest.request.tasks[task].max_new_tokens
    return {
        "id": name,
        "config": name,
        "split": "test",
        # inspect ignores the id, but copies metadata to its logs.
        "field_spec": {"input": "prompt", "target": "answer", "id": "id", "metadata": ["id"]},
        "solvers": [{"name": "generate", "args": {"max_tokens": budget}}],
        "scorers": [_scorer(dataset, task, length)],
    }


def _scorer(dataset: Dataset, task: str, length: int) -> dict[str, object]:
    """Inspect's scorer that is closest to the metric of a task."""
    first = next(iter(dataset.rows(dataset.select([task], [length], 1), ["metric"])))
    if METRICS.get(first["metric"]).lenient:
        # The prompt asks for a completion without tags, and the metric searches all of it.
        return {"name": "includes"}
    return {"name": "pattern", "args": {"pattern": ANSWER}}
