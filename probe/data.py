"""Data that the probe is trained and tested on: data sets of sparse-tasks, encoded with the target outputs.

Usage: data.py TOKENIZER WORK PART[+ROUND] ...

Each part becomes WORK/PART.npz: ``ids`` (uint16, one question after another, each a prompt and then its output),
``prompt`` and ``output`` (their lengths in tokens), ``task`` (index into ``tasks``) and ``id``. Parts and data sets
that exist are not made again. ``4k+3`` is the part ``4k`` again, with other seeds, for any amount of training data.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from steps import Sample, questions, target

from sparse_tasks.core.tokenizers import load_tokenizer

SINGLE: Final = ("ruler_niah_single_1", "ruler_niah_single_2", "ruler_niah_single_3")
NEEDLES: Final = (
    *SINGLE,
    *("ruler_niah_multikey_1", "ruler_niah_multikey_2", "ruler_niah_multikey_3"),
    *("ruler_niah_multivalue", "ruler_niah_multiquery", "ruler_niah"),
)
WORDS: Final = ("ruler_cwe", "ruler_fwe")
STORIES: Final = ("story_retrieval", "story_multihop", "story_filtering", "story_aggregation")
REASON: Final = ("reason_ledger", "reason_walk", "reason_sort", "reason_execute")
CODE: Final = ("code_value", "code_definition", "code_calls")
LADDERS: Final = (
    *("ladder_retrieval", "ladder_multivalue", "ladder_multihop", "ladder_filtering", "ladder_aggregation"),
)
FIRST: Final = (*STORIES, "qa_biographies", *NEEDLES, "ruler_vt", *WORDS)
STEPS: Final = (*REASON, "copy_nth", *CODE, "story_judge", "turns_story", *LADDERS)
ALL: Final = (*FIRST, *STEPS)
END: Final = "<|im_end|>"
BEGUN: Final = 0.06
"""Share of the answers without steps whose beginning the prompt already holds."""
ASKED: Final = 2
"""Most questions of a sample that are taken, of those that have several."""


@dataclass(frozen=True)
class Stage:
    """A data set of a part."""

    length: str
    tasks: Sequence[str]
    samples: int
    seed: int
    template: str = "auto"
    position: str | None = None
    preset: str = "paper"
    settings: dict[str, object] = field(default_factory=dict)


_EASY: Final[dict[str, object]] = {
    "story_retrieval.questions": 4,
    "story_filtering.chapters": 1,
    "story_aggregation.events": 3,
}
LEVELS: Final[list[dict[str, object]]] = [
    {
        "reason.steps": steps, "reason_execute.totals": totals, "reason_ledger.things": min(things, 3),
        "reason_ledger.distractors": distractors, "reason_sort.lures": 12 * distractors, "reason_walk.width": things,
        "copy_nth.alike": alike, "copy_nth.lines": lines, "code_value.hops": calls,
        "code_value.kind": "written" if totals == 1 else "computed", "code_definition.hops": imports,
        "code_calls.refused": refused, "code_calls.accepted": accepted, "story_judge.sales": sales,
        "story_judge.distractors": min(distractors, 1), "turns_story.kinds": kinds, "turns_story.form": form,
        "turns_story.distractors": distractors, "turns_story.events": things, "turns_story.gifts": gifts,
        "turns_story.questions": asked, "ladder.distractors": distractors, "ladder.events": events,
        "ladder.gifts": gifts, "ladder_multihop.hops": hops,
    }
    for (
        steps, totals, things, distractors, alike, lines, calls, imports, refused, accepted, sales, kinds, form, gifts,
        asked, events, hops,
    ) in [
        (2, 1, 2, 0, 2, 4, 1, 1, 1, 1, 4, "facts", "chat", 2, 4, 2, 1),
        (4, 1, 2, 0, 2, 6, 1, 1, 1, 3, 4, "mixed", "parallel", 2, 6, 2, 1),
        (7, 2, 2, 1, 3, 8, 2, 2, 2, 4, 5, "mixed", "chat", 2, 6, 3, 2),
        (12, 1, 3, 1, 4, 8, 2, 3, 2, 6, 6, "facts", "chat", 2, 6, 4, 2),
        (16, 2, 3, 1, 4, 12, 3, 3, 3, 9, 7, "mixed", "chat", 3, 6, 4, 3),
        (20, 2, 4, 2, 6, 10, 4, 4, 3, 7, 8, "mixed", "chat", 3, 6, 5, 4),
    ]
]  # fmt: skip
"""Parameters of the tasks of ``probe-steps``, from easy to hard."""


def _levels(
    levels: range, length: str, tasks: Sequence[str], samples: int, seed: int, position: str | None = None
) -> list[Stage]:
    """A data set for each level, with seeds from the first on."""
    return [Stage(length, tasks, samples, seed + i, position=position, settings=_of(LEVELS[i], tasks)) for i in levels]


def _of(settings: Mapping[str, object], tasks: Sequence[str]) -> dict[str, object]:
    """The settings of these tasks."""
    return {
        name: value
        for name, value in settings.items()
        if any(task == name.partition(".")[0] or task.startswith(name.partition(".")[0] + "_") for task in tasks)
    }


_PLAIN: Final = (*REASON, "copy_nth", *CODE)
_OF_STORIES: Final = ("story_judge", "turns_story", *LADDERS)
PARTS: Final[dict[str, list[Stage]]] = {
    "short": [
        Stage("1k", (*NEEDLES, "ruler_vt", "ruler_fwe"), 300, 1001),
        Stage("2k", (*NEEDLES, "ruler_vt", "ruler_fwe"), 150, 1002),
        Stage("2304", STORIES, 1500, 1003, settings=_EASY),
        Stage("2304", ("qa_biographies",), 1200, 1004),
        Stage("2304", STORIES, 250, 1005, position="after", settings=_EASY),
        Stage("2304", STORIES, 250, 1006, template="none", settings=_EASY),
    ],
    "4k": [
        Stage("4k", (*NEEDLES, "ruler_vt"), 150, 1011),
        Stage("4k", WORDS, 700, 1012),
        Stage("4k", (*STORIES, "qa_biographies"), 1300, 1013),
        Stage("4k", (*STORIES, "qa_biographies"), 150, 1014, position="after"),
        Stage("4k", (*STORIES, "qa_biographies"), 150, 1015, template="none"),
        Stage("4k", ("story_multihop",), 150, 1016, settings={"story_multihop.hops": 2}),
        Stage("4k", ("story_multihop",), 100, 1017, settings={"story_multihop.hops": 3}),
        Stage("4k", ("story_aggregation",), 150, 1018, settings={"story_aggregation.kind": "purse"}),
        Stage("4k", (*NEEDLES, "ruler_vt", *WORDS), 40, 1019, preset="ruler"),
        Stage("4k", (*NEEDLES, "ruler_vt", *WORDS), 25, 1020, template="none"),
        Stage("4k", (*NEEDLES, "ruler_vt"), 60, 1031),
        Stage("4k", WORDS, 500, 1032),
        Stage("4k", ("story_retrieval", "story_filtering"), 1200, 1033),
        Stage("4k", ("story_multihop", "story_aggregation", "qa_biographies"), 2000, 1034),
        Stage("4k", ("ruler_vt",), 600, 1035),
    ],
    "8k": [
        Stage("8k", (*NEEDLES, "ruler_vt"), 90, 1021),
        Stage("8k", WORDS, 350, 1022),
        Stage("8k", (*STORIES, "qa_biographies"), 800, 1023),
        Stage("8k", (*STORIES, "qa_biographies"), 80, 1024, position="after"),
        Stage("8k", (*STORIES, "qa_biographies"), 60, 1025, template="none"),
        Stage("8k", ("story_multihop",), 80, 1026, settings={"story_multihop.hops": 2}),
        Stage("8k", (*NEEDLES, "ruler_vt", *WORDS), 15, 1029, preset="ruler"),
        Stage("8k", (*NEEDLES, "ruler_vt"), 40, 1041),
        Stage("8k", WORDS, 250, 1042),
        Stage("8k", ("story_retrieval", "story_filtering"), 700, 1043),
        Stage("8k", ("story_multihop", "story_aggregation", "qa_biographies"), 1200, 1044),
        Stage("8k", ("ruler_vt",), 300, 1045),
    ],
    "steps2k": [
        *_levels(range(2), "1152", _PLAIN, 40, 1101),
        *_levels(range(4), "2k", _PLAIN, 25, 1111),
        *_levels(range(2), "2304", _OF_STORIES, 25, 1121),
    ],
    "steps4k": [
        *_levels(range(5), "4k", STEPS, 24, 1131),
        *_levels(range(5, 6), "4k", _PLAIN, 24, 1131),
        *_levels(range(5), "4k", STEPS, 4, 1141, "after"),
        Stage("4k", (*_PLAIN, "story_judge"), 12, 1151, "none", settings=_of(LEVELS[2], (*_PLAIN, "story_judge"))),
    ],
    # The seed of tests, which no part above uses.
    "test4k": [Stage("4k", FIRST, 100, 42)],
    "test8k": [Stage("8k", FIRST, 100, 42)],
    "teststeps4k": [Stage("4k", STEPS, 50, 42, settings=_of(LEVELS[2], STEPS))],
}


def encode(
    stage: Stage, tokenizer: str, test: bool, samples: list[Sample]
) -> list[tuple[Sample, list[int], list[int]]]:
    """Questions with the ids of their prompts and outputs; some of a sample's questions, but all in tests."""
    loaded = load_tokenizer(tokenizer, stage.template)
    encoded = []
    for sample in samples:
        draw, asked = random.Random(str(sample["id"])), list(questions(sample))
        for question in asked if test else draw.sample(asked, min(ASKED, len(asked))):
            output, prompt = target(question), loaded.ids(question["prompt"], later=question["later"])
            if stage.preset == "ruler":
                output = f" {question['answer']}"
            elif stage.template == "none":
                output = f"\n\n{output}"
            elif not test and output.startswith("<answer>") and draw.random() < BEGUN:
                prompt += loaded.backend.encode("<answer>\n", add_special_tokens=False).ids
                output = output.removeprefix("<answer>\n")
            encoded.append((question, prompt, loaded.backend.encode(output + END, add_special_tokens=False).ids))
    return encoded


def rows(folder: Path) -> Iterator[Sample]:
    """Rows of a data set."""
    columns = [
        *("id", "task", "prompt", "question", "answer_prefix", "answer", "answers", "metric", "evidence", "params"),
        "turns",
    ]
    for path in sorted(folder.glob("*/*.parquet")):
        yield from pq.read_table(path, columns=columns).to_pylist()


def make(part: str, again: int, tokenizer: str, path: Path) -> None:
    """Write one part, with later seeds for later rounds."""
    encoded: list[tuple[list[int], list[int]]] = []
    tasks: list[str] = []
    ids: list[str] = []
    for number, first in enumerate(PARTS[part]):
        stage = replace(first, seed=first.seed + 1000 * again)
        folder = path.parent / f"data-{path.stem}-{number}"
        command = [sys.executable, "-m", "sparse_tasks", "generate", "--length", stage.length, "--output", str(folder)]
        command += ["--samples", str(stage.samples), "--seed", str(stage.seed), "--preset", stage.preset]
        command += ["--tokenizer", tokenizer, "--chat-template", stage.template]
        command += ["--question-position", stage.position] if stage.position else []
        command += [word for task in stage.tasks for word in ("--task", task)]
        command += [word for name, value in stage.settings.items() for word in ("--set", f"{name}={value}")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        samples = list(rows(folder))
        chunks = [samples[start : start + 20] for start in range(0, len(samples), 20)]
        with ProcessPoolExecutor() as pool:
            for some in pool.map(partial(encode, stage, tokenizer, part.startswith("test")), chunks):
                encoded += [(prompt, output) for _, prompt, output in some]
                tasks += [str(question["task"]) for question, _, _ in some]
                ids += [str(question["id"]) for question, _, _ in some]
        if not part.startswith("test"):
            shutil.rmtree(folder)
        print(f"{path.stem}: {folder.name}, {len(samples)} samples", flush=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            ids=np.concatenate([np.array(prompt + output, np.uint16) for prompt, output in encoded]),
            prompt=np.array([len(prompt) for prompt, _ in encoded], np.int32),
            output=np.array([len(output) for _, output in encoded], np.int32),
            task=np.array([ALL.index(task) for task in tasks], np.int16),
            tasks=np.array(ALL),
            id=np.array(ids),
        )
    os.replace(unfinished, path)  # a running training only takes complete files


if __name__ == "__main__":
    tokenizer, work = sys.argv[1], Path(sys.argv[2])
    for name in sys.argv[3:]:
        part, _, again = name.partition("+")
        if not (work / f"{name}.npz").exists():
            make(part, int(again or 0), tokenizer, work / f"{name}.npz")
