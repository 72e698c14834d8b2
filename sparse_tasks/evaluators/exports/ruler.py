"""Files that RULER's scripts read: ``LENGTH/TASK/validation.jsonl``, for ``call_api.py --data_dir LENGTH --task TASK``.

Names of tasks are those of RULER's ``synthetic.yaml``; fields are those of its generators, ``answer_prefix`` in a field
of its own (https://github.com/NVIDIA/RULER).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.sample import Sample
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.exports import parts
from sparse_tasks.evaluators.exports.data import DATA_EXPORTS, configs, in_turn, nothing
from sparse_tasks.evaluators.metrics import METRICS

# RULER's tasks, with the tokens that it gives to an answer.
_BUDGETS: Final = {
    **dict.fromkeys(("niah_single_1", "niah_single_2", "niah_single_3"), 128),
    **dict.fromkeys(("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"), 128),
    **dict.fromkeys(("niah_multivalue", "niah_multiquery"), 128),
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    "qa_1": 32,
    "qa_2": 32,
}
_PREFIX: Final = "ruler_"


def files(dataset: Dataset, tell: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """A file of JSON Lines for each of RULER's tasks at each length. See ``data.DataExport``."""
    names = {task: task.removeprefix(_PREFIX) for task in dataset.manifest.request.tasks}
    unknown = [task for task, name in names.items() if task == name or name not in _BUDGETS]
    if len(unknown) == len(names):
        raise nothing(dataset, f"has none of RULER's tasks; generate --task ruler makes {', '.join(_BUDGETS)}")
    if unknown:
        tell(f"left out, as RULER does not know them: {', '.join(unknown)}")
    unnamed = [task for task in names if task not in unknown]
    for task, length, samples in configs(dataset):
        if task in unknown:
            continue
        if task in unnamed and not METRICS.get(samples[0].metric).lenient:
            budget = _BUDGETS[names[task]]
            tell(f"{task} asks for an answer in tags, for which RULER's {budget} tokens are few; see --preset ruler")
            unnamed.remove(task)
        yield f"{length}/{names[task]}/validation.jsonl", parts.jsonl_bytes(map(_line, samples))


def _line(sample: Sample) -> JsonObject:
    return {
        "index": sample.index,
        "input": in_turn(sample),
        "outputs": sample.answers,
        # As in RULER with room for the answer; the chat template is counted too.
        "length": sample.input_tokens + sample.max_new_tokens,
        "answer_prefix": sample.answer_prefix,
    }


DATA_EXPORTS.register("ruler", files)
