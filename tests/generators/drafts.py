"""Drafts without a tokenizer: a task's own work, before and without any fitting."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prose.people import locales
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Task

STORIES = ("story_retrieval", "story_multihop", "story_filtering", "story_aggregation")
ALL_LOCALES = [
    locale if locale in ("en_US", "ja_JP", "ka_GE", "pl_PL") else pytest.param(locale, marks=pytest.mark.nightly)
    for locale in locales()
]
"""Every locale; few of them for each commit."""
KINDS = ("spent", "costly", "dearest", "kept", "met", "purse")


def task_of(name: str, **settings: object) -> Task:
    return TASKS.get(name).from_settings(settings)


def draft_of(name: str, key: object, size: int, depth: Depth | None = None, **settings: object) -> Draft:
    """The draft of a task with a key of one's own."""
    return task_of(name, **settings).compose(Stream("test", name, key), size, depth or Depth())


def prompt_of(draft: Draft) -> str:
    """The prompt that states its question before and after the context."""
    return draft.preview + context_of(draft) + draft.question


def context_of(draft: Draft) -> str:
    return draft.intro + "".join(draft.texts())


def depths(draft: Draft) -> list[float]:
    """Where each piece of evidence begins, as a share of the context."""
    starts, at = {}, len(draft.intro)
    for passage in draft.body:
        starts[id(passage)] = at
        at += len(passage.text) + sum(map(len, passage.followers))
    return [(starts[id(mark.first)] + mark.start) / at for mark in draft.marks()]


def fill(draft: Draft, times: int) -> Draft:
    """The draft with filler of every size after its passages."""
    for _ in range(times):
        for make in draft.offers:
            offer = make()
            if offer is not None:
                offer.accept()
    return draft


def chapters_of(prompt: str) -> list[str]:
    """The chapters of a story, each without its heading, found by other means than the reader's."""
    story = prompt[: prompt.rindex("\nThe story ends here.\n")]
    parts = story.split("\nChapter ")[1:]
    return [part.partition("\n")[2].strip("\n") for part in parts]


def farthest_from_uniform(values: Sequence[float]) -> float:
    """The Kolmogorov-Smirnov statistic against the uniform distribution on [0, 1]."""
    ordered, n = sorted(values), len(values)
    return max(max((i + 1) / n - value, value - i / n) for i, value in enumerate(ordered))
