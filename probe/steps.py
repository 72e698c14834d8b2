"""Explanations that the probe learns to write before its answers, derived from the prompt as an oracle reads it.

A task that needs steps gets them spelled out, one a line and in the order of the text, so that each line needs one
look at the context. Look-ups get none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from sparse_tasks.generators.story.reader import Story, read

Sample = Mapping[str, Any]
"""A row of a data set."""

_ACQUIRED: Final = ("Purchase", "GiftReceived")


def target(sample: Sample) -> str:
    """The output that the probe is trained to give: an explanation where one helps, and the answer in its tags."""
    answer = f"<answer>\n{sample['answer']}\n</answer>"
    lines = _STEPS[sample["task"]](sample) if sample["task"] in _STEPS else []
    return "\n".join(["<explanation>", *lines, "</explanation>", answer]) if lines else answer


def _multihop(sample: Sample) -> list[str]:
    """Acquisitions from the first to the named one."""
    story = read(sample["prompt"])
    given = _asked(story, r"Find the (.+?) in that list")[1]
    things = [fact.thing for _, fact in story.facts(*_ACQUIRED)]
    return [f"{number}. {thing}" for number, thing in enumerate(things[: things.index(given) + 1], 1)]


def _filtering(sample: Sample) -> list[str]:
    """The purchase of each chapter."""
    return [
        f"Chapter {page.number}: {', '.join(f.thing for f in page.facts if f.kind == 'Purchase') or 'nothing'}"
        for page in read(sample["prompt"]).pages
    ]


def _aggregation(sample: Sample) -> list[str]:
    return _KINDS[json.loads(sample["params"])["drawn"]["kind"]](read(sample["prompt"]))


def _spent(story: Story) -> list[str]:
    material, total, lines = _asked(story, r"pay for things made of (\S+)\?")[1], 0, []
    for _, fact in story.facts("Purchase"):
        if material in fact.thing.split():
            total += fact.amount
            lines.append(f"{fact.thing}: {fact.amount}, in all {total}")
    return lines


def _costly(story: Story) -> list[str]:
    asked = _asked(story, r"pay for things made of (\S+) that cost more than (\d+) crowns? each")
    total, lines = 0, []
    for _, fact in story.facts("Purchase"):
        if asked[1] in fact.thing.split():
            more = fact.amount > int(asked[2])
            total += more * fact.amount
            lines.append(f"{fact.thing}: {fact.amount}, {'more' if more else 'not more'}, in all {total}")
    return lines


def _dearest(story: Story) -> list[str]:
    most, lines = 0, []
    for _, fact in story.facts("Purchase"):
        most = max(most, fact.amount)
        lines.append(f"{fact.thing}: {fact.amount}, most {most}")
    return lines


def _kept(story: Story) -> list[str]:
    material = _asked(story, r"Which things made of (\S+) does")[1]
    signs = dict.fromkeys(_ACQUIRED, "+") | dict.fromkeys(("Sale", "GiftGiven"), "-")
    return [f"{signs[fact.kind]} {fact.thing}" for _, fact in story.facts(*signs) if material in fact.thing.split()]


def _met(story: Story) -> list[str]:
    counts, lines = Counter[str](), []
    for page, fact in story.facts("Meeting"):
        counts[fact.name] += 1
        lines.append(f"Chapter {page.number}: {fact.name}, {counts[fact.name]}")
    return lines


def _purse(story: Story) -> list[str]:
    purse = story.setting_out.amount
    lines = [str(purse)]
    for _, fact in story.facts("Purchase", "Sale", "Wage"):
        change = -fact.amount if fact.kind == "Purchase" else fact.amount
        purse += change
        lines.append(f"{change:+}: {purse}")
    return lines


def _biographies(sample: Sample) -> list[str]:
    """The value of the first of two hops."""
    if json.loads(sample["params"])["drawn"]["hops"] == 1:
        return []
    return [mark["label"] for mark in sample["evidence"] if mark["label"] not in sample["answers"]][:1]


def _asked(story: Story, pattern: str) -> re.Match[str]:
    match = re.search(pattern, story.question)
    if match is None:
        raise ValueError(f"no question like {pattern!r} in {story.question!r}")
    return match


_KINDS: Final[dict[str, Callable[[Story], list[str]]]] = {
    "spent": _spent,
    "costly": _costly,
    "dearest": _dearest,
    "kept": _kept,
    "met": _met,
    "purse": _purse,
}
_STEPS: Final[dict[str, Callable[[Sample], list[str]]]] = {
    "story_multihop": _multihop,
    "story_filtering": _filtering,
    "story_aggregation": _aggregation,
    "qa_biographies": _biographies,
}
