"""Story retrieval: sixteen facts of named chapters."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.generators.story.reader import read
from tests.generators.drafts import chapters_of, draft_of, prompt_of, task_of

NAME = "story_retrieval"


def asked(question: str) -> list[tuple[str, int]]:
    return [
        (words, int(n))
        for words, n in re.findall(r"^\d+\. (At which place|Whom|Which thing) .*Chapter (\d+)", question, re.M)
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 64), st.integers(0, 40), st.integers(0, 2**32))
def test_asks_the_given_number_of_questions_on_different_facts(questions: int, more: int, seed: int) -> None:
    size = task_of(NAME, questions=questions).smallest() + more
    draft = draft_of(NAME, seed, size, questions=questions)
    reported = asked(draft.question)
    assert len(reported) == len(draft.answers) == questions
    assert len(set(reported)) == questions
    # Different chapters while there are enough of them.
    assert len({n for _, n in reported}) == min(questions, size)
    assert max(Counter(n for _, n in reported).values()) == -(-questions // size)
    assert all(1 <= n <= size for _, n in reported)
    assert draft.answer == "\n".join(f"{i}. {text}" for i, text in enumerate(draft.answers, 1))
    assert task_of(NAME).oracle(prompt_of(draft)) == draft.answer


def test_answers_stand_in_the_chapters_that_are_named() -> None:
    for seed in range(20):
        draft = draft_of(NAME, seed, 30)
        chapters = chapters_of(prompt_of(draft))
        for (_, number), answer in zip(asked(draft.question), draft.answers, strict=True):
            assert answer in chapters[number - 1]


def test_each_sort_of_fact_is_asked_as_often_as_the_others() -> None:
    sorts = Counter(words for seed in range(60) for words, _ in asked(draft_of(NAME, seed, 20).question))
    assert set(sorts) == {"At which place", "Whom", "Which thing"}
    assert max(sorts.values()) < 1.3 * min(sorts.values())


def test_order_of_the_questions_says_nothing_about_the_chapters() -> None:
    # If questions came in the order of the chapters, one reading would answer them like a list.
    rising = falling = 0
    for seed in range(40):
        numbers = [n for _, n in asked(draft_of(NAME, seed, 30).question)]
        rising += sum(a < b for a, b in itertools.pairwise(numbers))
        falling += sum(a > b for a, b in itertools.pairwise(numbers))
    assert 0.8 < rising / falling < 1.25


def test_the_thing_of_a_chapter_is_not_the_only_thing_in_it() -> None:
    others, reported = 0, 0
    for seed in range(20):
        draft = draft_of(NAME, seed, 40)
        for page in read(prompt_of(draft)).pages:
            kinds = Counter(fact.kind for fact in page.facts if fact.thing)
            assert kinds["Purchase"] + kinds["GiftReceived"] == 1
            reported += 1
            others += sum(kinds.values()) > 1
    assert others / reported > 0.6


def test_places_and_people_come_back_so_that_a_name_alone_decides_nothing() -> None:
    again = {"Arrival": 0, "Meeting": 0}
    for seed in range(10):
        for kind in again:
            names = [fact.name for _, fact in read(prompt_of(draft_of(NAME, seed, 60))).facts(kind)]
            again[kind] += len(names) - len(set(names))
    assert again["Arrival"] > 20
    assert again["Meeting"] > 60


@pytest.mark.parametrize("locale", ["ja_JP", "ar_SA", "ka_GE", "bg_BG"])
def test_names_of_other_alphabets_are_asked_for(locale: str) -> None:
    for seed in range(5):
        draft = draft_of(NAME, seed, 20, locale=locale)
        assert task_of(NAME).oracle(prompt_of(draft)) == draft.answer
        people = [a for (words, _), a in zip(asked(draft.question), draft.answers, strict=True) if words == "Whom"]
        assert people
        assert all(not name.isascii() for name in people)


def test_evidence_is_the_sentence_that_says_so() -> None:
    draft = draft_of(NAME, "evidence", 30)
    marks = draft.marks()
    assert [mark.label for mark in marks] == draft.answers
    for mark, (words, number) in zip(marks, asked(draft.question), strict=True):
        sentence = mark.first.text[mark.start : mark.end]
        page = read(prompt_of(draft)).pages[number - 1]
        kinds = {"At which place": ("Arrival",), "Whom": ("Meeting",)}.get(words, ("Purchase", "GiftReceived"))
        assert sentence in [fact.sentence for fact in page.facts if fact.kind in kinds]
