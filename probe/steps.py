"""Explanations that the probe learns to write before its answers, derived from the prompt like an oracle's answer.

Tasks that need steps get them spelt out, one per line and in text order, so that each line needs one look at the
context. Look-ups get none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any, Final

import code_steps
import msgspec
import reason_steps

from sparse_tasks.core.sample import Turn
from sparse_tasks.core.turns import messages, request_id, stem_of
from sparse_tasks.generators.story.reader import Story, read

Sample = Mapping[str, Any]
"""A row of a data set."""

_ACQUIRED: Final = ("Purchase", "GiftReceived")


def target(sample: Sample) -> str:
    """The probe's target output: an explanation where it helps, and the answer in its tags."""
    answer = f"<answer>\n{sample['answer']}\n</answer>"
    lines = STEPS[sample["task"]](sample) if sample["task"] in STEPS else []
    return "\n".join(["<explanation>", *lines, "</explanation>", answer]) if lines else answer


def questions(sample: Sample) -> Iterator[Sample]:
    """A row for each question of a sample: ``prompt`` is the first message, ``later`` the following ones in a chat."""
    if not sample["turns"]:
        yield {**sample, "later": (), "level": ""}
        return
    turns = msgspec.convert(sample["turns"], list[Turn])
    stem = stem_of(sample["prompt"], sample["question"], sample["answer_prefix"])
    ending = sample["prompt"].removeprefix(stem + sample["question"])
    for number, turn in enumerate(turns):
        first, *later = messages(stem, turns, number, ending)
        yield {
            **sample, "id": request_id(sample["id"], number), "prompt": first, "later": tuple(later),
            "question": turn.question, "answer": turn.answer, "answers": turn.answers, "metric": turn.metric,
            "level": turn.level,
        }  # fmt: skip


def _multihop(sample: Sample) -> list[str]:
    """Acquisitions from the first to the named one."""
    story = _story(sample)
    given = _asked(story, r"Find the (.+?) in that list")[1]
    things = [fact.thing for _, fact in story.facts(*_ACQUIRED)]
    return [f"{number}. {thing}" for number, thing in enumerate(things[: things.index(given) + 1], 1)]


def _filtering(sample: Sample) -> list[str]:
    """The purchase of each chapter."""
    return [
        f"Chapter {page.number}: {', '.join(f.thing for f in page.facts if f.kind == 'Purchase') or 'nothing'}"
        for page in _story(sample).pages
    ]


def _aggregation(sample: Sample) -> list[str]:
    return _KINDS[json.loads(sample["params"])["drawn"]["kind"]](_story(sample))


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


def _judge(sample: Sample) -> list[str]:
    """Each sale of a thing of the material, with its cost."""
    story = _story(sample)
    heard = story.tongue.heard("judge", story.question)
    if heard is None:
        raise ValueError(f"no question of sales in {story.question!r}")
    cost: dict[str, int | None] = {}
    lines = []
    for _, fact in story.facts(*_ACQUIRED, "Sale"):
        if not story.tongue.is_of(heard["material"], fact.thing):
            continue
        if fact.kind != "Sale":
            cost[fact.thing] = fact.amount if fact.kind == "Purchase" else None
        elif (before := cost[fact.thing]) is None:
            lines.append(f"{fact.thing}: a gift")
        else:
            verdict = "more" if fact.amount > before else "less" if fact.amount < before else "as much"
            lines.append(f"{fact.thing}: {before}, {fact.amount}, {verdict}")
    return lines


def _turn(sample: Sample) -> list[str]:
    """The steps of a question in a session, by its wording; facts of chapters have none."""
    return next((steps(sample) for words, steps in _TURNS.items() if words in sample["question"]), [])


def _ladder(sample: Sample) -> list[str]:
    """The facts; for sums, with the running total."""
    if sample["level"] == "retrieve":
        return []
    facts = next(turn["answers"] for turn in sample["turns"] if turn["level"] == "retrieve")
    if sample["task"] not in ("ladder_retrieval", "ladder_aggregation"):
        return list(facts)
    totals = accumulate(int(fact.rpartition(" ")[2]) for fact in facts)
    return [f"{fact}, in all {total}" for fact, total in zip(facts, totals, strict=True)]


def _story(sample: Sample) -> Story:
    """The story of a row, with its question, which may be in a later message."""
    return replace(read(sample["prompt"]), question=sample["question"])


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
_TURNS: Final[dict[str, Callable[[Sample], list[str]]]] = {
    "in that list": _multihop,
    "buys nothing": _filtering,
    "pay for things made of": lambda sample: _spent(_story(sample)),
    "pay the most": lambda sample: _dearest(_story(sample)),
    "in more chapters": lambda sample: _met(_story(sample)),
}
STEPS: Final[dict[str, Callable[[Sample], list[str]]]] = {
    "story_multihop": _multihop,
    "story_filtering": _filtering,
    "story_aggregation": _aggregation,
    "story_judge": _judge,
    "qa_biographies": _biographies,
    "turns_story": _turn,
    **dict.fromkeys(("ladder_retrieval", "ladder_multivalue", "ladder_multihop"), _ladder),
    **dict.fromkeys(("ladder_filtering", "ladder_aggregation"), _ladder),
    **reason_steps.STEPS,
    **code_steps.STEPS,
}
"""By task; those that are not here have none."""
