"""Judging: sales compared with acquisitions, from the events as read, independent of the oracle."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.generators.story.reader import read
from sparse_tasks.generators.task import Draft
from tests.generators.drafts import draft_of, fill, prompt_of, task_of

NAME = "story_judge"


def sold(draft: Draft) -> list[tuple[int, int, str]]:
    """Of each thing of the material that is sold: what it cost, what it brought, and how it came."""
    story = read(prompt_of(draft))
    material = draft.question.split("made of ")[1].split(",")[0]
    facts = [fact for page in story.pages for fact in page.facts if material in fact.thing.split()]
    found = []
    for place, fact in enumerate(facts):
        if fact.kind == "Sale":
            (came,) = [
                one for one in facts[:place] if one.thing == fact.thing and one.kind in ("Purchase", "GiftReceived")
            ]
            found.append((came.amount, fact.amount, came.kind))
    return found


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(4, 20), st.integers(0, 12), st.integers(0, 3), st.integers(0, 2**32))
def test_gold_counts_the_sales_of_each_class(sales: int, more: int, distractors: int, seed: int) -> None:
    draft = fill(draft_of(NAME, seed, sales + 1 + more, sales=sales, distractors=distractors), 1)
    found = sold(draft)
    bought = [(cost, price) for cost, price, how in found if how == "Purchase"]
    counts = {
        "more": sum(price > cost for cost, price in bought),
        "less": sum(price < cost for cost, price in bought),
        "equal": sum(price == cost for cost, price in bought),
        "gift": len(found) - len(bought),
    }
    assert draft.answers == [f"{name}: {count}" for name, count in counts.items()]
    assert sum(counts.values()) == sales
    assert len(draft.marks()) == 2 * sales
    assert draft.answer == "\n".join(draft.answers) == task_of(NAME).oracle(prompt_of(draft))
    assert task_of(NAME).audit(prompt_of(draft)) == []
    assert min(price for _, price, _ in found) >= 1


def test_all_distributions_are_about_as_likely() -> None:
    answers = Counter(draft_of(NAME, seed, 5, sales=4).answer for seed in range(350))
    assert len(answers) == 35
    assert max(answers.values()) < 25
    often = Counter(draft_of(NAME, seed, 9).answer for seed in range(200)).most_common(1)[0][1]
    assert often / 200 < 0.05


def test_sales_lie_chapters_behind_what_came_before() -> None:
    draft = draft_of(NAME, "far", 60)
    places = {id(passage): place for place, passage in enumerate(draft.body)}
    marks = [places[id(mark.first)] for mark in draft.marks()]
    assert sum(late - early > 40 for early, late in zip(marks[::2], marks[1::2], strict=True)) >= 3


def test_one_wrong_count_scores_zero() -> None:
    draft = draft_of(NAME, "wrong", 9)
    for place, line in enumerate(draft.answers):
        name, count = line.split(": ")
        lines = [*draft.answers[:place], f"{name}: {int(count) + 1}", *draft.answers[place + 1 :]]
        assert score("set_match", f"<answer>{chr(10).join(lines)}</answer>", draft.answers).value == 0.0
    backwards = "\n".join(draft.answers[::-1])
    assert score("set_match", f"<answer>{backwards}</answer>", draft.answers).value == 1.0


def test_a_sale_less_is_noticed() -> None:
    draft = draft_of(NAME, "changed", 12)
    mark = draft.marks()[1]
    reported = mark.first.text[mark.start : mark.end]
    with pytest.raises(DataError, match="7 things are sold"):
        task_of(NAME).oracle(prompt_of(draft).replace(reported, "Nothing happened.", 1))
