"""Data that the probe is trained and tested on: data sets of sparse-tasks, encoded with the outputs it shall give.

Usage: data.py TOKENIZER WORK [PART ...]

Each part becomes WORK/PART.npz: ``ids`` (uint16, one sample after another, each a prompt and then its output),
``prompt`` and ``output`` (their lengths in tokens), ``task`` (index into ``tasks``) and ``id``. Parts and data sets
that exist are not made again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from steps import target

from sparse_tasks import generate
from sparse_tasks.core.tokenizers import load_tokenizer

SINGLE: Final = ("ruler_niah_single_1", "ruler_niah_single_2", "ruler_niah_single_3")
NEEDLES: Final = (
    *SINGLE,
    *("ruler_niah_multikey_1", "ruler_niah_multikey_2", "ruler_niah_multikey_3"),
    *("ruler_niah_multivalue", "ruler_niah_multiquery", "ruler_niah"),
)
WORDS: Final = ("ruler_cwe", "ruler_fwe")
STORIES: Final = ("story_retrieval", "story_multihop", "story_filtering", "story_aggregation")
ALL: Final = (*STORIES, "qa_biographies", *NEEDLES, "ruler_vt", *WORDS)
END: Final = "<|im_end|>"
BEGUN: Final = 0.06
"""Share of the answers without steps whose beginning the prompt already holds."""


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
    # The seed of tests, which no part above has.
    "test4k": [Stage("4k", ALL, 100, 42)],
    "test8k": [Stage("8k", ALL, 100, 42)],
}


def encode(
    template: str, tokenizer: str, begun: bool, samples: list[dict[str, object]]
) -> list[tuple[list[int], list[int]]]:
    """Ids of the prompts and of the outputs."""
    loaded = load_tokenizer(tokenizer, template)
    pairs = []
    for sample in samples:
        output, prompt = target(sample), loaded.ids(str(sample["prompt"]))
        if sample["preset"] == "ruler":
            output = f" {sample['answer']}"
        elif template == "none":
            output = f"\n\n{output}"
        elif begun and output.startswith("<answer>") and random.Random(str(sample["id"])).random() < BEGUN:
            prompt += loaded.backend.encode("<answer>\n", add_special_tokens=False).ids
            output = output.removeprefix("<answer>\n")
        pairs.append((prompt, loaded.backend.encode(output + END, add_special_tokens=False).ids))
    return pairs


def rows(stage: Stage, folder: Path) -> Iterator[dict[str, object]]:
    """Rows of a data set, with the preset that they were made with."""
    columns = ["id", "task", "prompt", "answer", "answers", "evidence", "params"]
    for path in sorted(folder.glob("*/*.parquet")):
        for row in pq.read_table(path, columns=columns).to_pylist():
            yield row | {"preset": stage.preset}


def make(part: str, tokenizer: str, work: Path) -> None:
    """Write one part."""
    encoded: list[tuple[list[int], list[int]]] = []
    tasks: list[str] = []
    ids: list[str] = []
    for stage in PARTS[part]:
        folder = work / f"data-{stage.seed}-{stage.length}"
        generate(
            stage.length,
            stage.tasks,
            stage.samples,
            seed=stage.seed,
            tokenizer=tokenizer,
            chat_template=stage.template,
            preset=stage.preset,
            question_position=stage.position,
            settings=stage.settings,
            workers=None,
            output=folder,
        )
        samples = list(rows(stage, folder))
        chunks = [samples[start : start + 50] for start in range(0, len(samples), 50)]
        with ProcessPoolExecutor() as pool:
            for pairs in pool.map(partial(encode, stage.template, tokenizer, not part.startswith("test")), chunks):
                encoded += pairs
        tasks += [str(sample["task"]) for sample in samples]
        ids += [str(sample["id"]) for sample in samples]
        print(f"{part}: {folder.name}, {len(samples)} samples", flush=True)
    np.savez(
        work / f"{part}.npz",
        ids=np.concatenate([np.array(prompt + output, np.uint16) for prompt, output in encoded]),
        prompt=np.array([len(prompt) for prompt, _ in encoded], np.int32),
        output=np.array([len(output) for _, output in encoded], np.int32),
        task=np.array([ALL.index(task) for task in tasks], np.int16),
        tasks=np.array(ALL),
        id=np.array(ids),
    )


if __name__ == "__main__":
    tokenizer, work = sys.argv[1], Path(sys.argv[2])
    for name in sys.argv[3:] or PARTS:
        if not (work / f"{name}.npz").exists():
            make(name, tokenizer, work)
