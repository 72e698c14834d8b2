"""Story filtering: the chapters without a purchase."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.story.reader import read
from tests.generators.drafts import chapters_of, draft_of, prompt_of, task_of

NAME = "story_filtering"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 32), st.integers(0, 30), st.integers(0, 2**32))
def test_gold_are_the_chapters_without_a_purchase(chapters: int, more: int, seed: int) -> None:
    draft = draft_of(NAME, seed, chapters + 1 + more, chapters=chapters)
    without = [
        page.number for page in read(prompt_of(draft)).pages if not [f for f in page.facts if f.kind == "Purchase"]
    ]
    assert draft.answers == [str(number) for number in without]
    assert len(without) == chapters
    assert draft.answer == ", ".join(draft.answers)
    assert task_of(NAME).oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("chapters", range(1, 9))
def test_the_question_gives_the_number_of_chapters(chapters: int) -> None:
    question = draft_of(NAME, chapters, 20, chapters=chapters).question
    assert f"In exactly {chapters} chapter{'s' * (chapters > 1)} " in question
    assert ("Which is it?" if chapters == 1 else "Which are they?") in question
    assert ("the number of this chapter." if chapters == 1 else "the numbers of these chapters") in question


def test_chapters_without_a_purchase_are_not_bare() -> None:
    # They hold things, prices and gifts like the others; their length and their words give nothing away.
    events, money, purchases_nearly, gold_length, other_length = 0, 0, 0, [], []
    total = 0
    for seed in range(30):
        draft = draft_of(NAME, seed, 20)
        prompt = prompt_of(draft)
        texts = chapters_of(prompt)
        for page, text in zip(read(prompt).pages, texts, strict=True):
            distractors = [fact for fact in page.facts if fact.kind not in ("Arrival", "Meeting", "Purchase")]
            if str(page.number) in draft.answers:
                total += 1
                events += bool(distractors)
                money += bool(re.search(r"\d crown", text))
                purchases_nearly += bool(re.search(r"\b(bought|paid|price|buy|sold|sale|sell)\b", text))
                gold_length.append(len(text))
            else:
                other_length.append(len(text))
    assert total == 90
    assert events / total > 0.85
    assert money / total > 0.5
    assert purchases_nearly / total > 0.5
    mean_gold, mean_other = sum(gold_length) / len(gold_length), sum(other_length) / len(other_length)
    assert 0.65 < mean_gold / mean_other < 1.0


def test_gifts_come_in_chapters_with_and_without_a_purchase() -> None:
    gifts = {True: 0, False: 0}
    for seed in range(20):
        draft = draft_of(NAME, seed, 30, chapters=8)
        for page in read(prompt_of(draft)).pages:
            gifts[str(page.number) in draft.answers] += any(fact.kind == "GiftReceived" for fact in page.facts)
    assert gifts[True] > 10
    assert gifts[False] > 40


def test_evidence_is_each_of_the_chapters_whole() -> None:
    draft = draft_of(NAME, "evidence", 20)
    for mark, number in zip(draft.marks(), draft.answers, strict=True):
        assert mark.label == f"Chapter {number}"
        assert mark.first.text == f"Chapter {number}\n\n"
        assert mark.start == 0
        first, last = draft.body.index(mark.first), draft.body.index(mark.last)
        assert draft.body[last + 1].text.startswith("Chapter ") if last + 1 < len(draft.body) else True
        assert not [p for p in draft.body[first + 1 : last + 1] if p.text.startswith("Chapter ")]
        assert mark.end == len(mark.last.text.rstrip())


def test_a_shallow_depth_puts_them_at_the_beginning_even_where_there_is_hardly_room() -> None:
    draft = draft_of(NAME, 1, 9, Depth(0.0, 0.0), chapters=4)
    assert draft.answers == [str(page.number) for page in read(prompt_of(draft)).pages[:4]]


def test_the_first_chapter_has_any_number() -> None:
    firsts = [read(prompt_of(draft_of(NAME, seed, 4))).pages[0].number for seed in range(300)]
    assert len(set(firsts)) > 80
    assert set(firsts) <= set(range(1, 101))
