"""Story multi-hop: the thing acquired so many acquisitions before another."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.generators.story.reader import read
from tests.generators.drafts import draft_of, prompt_of, task_of

NAME = "story_multihop"


def asked(question: str) -> tuple[str, int]:
    found = re.search(r"Find the (.+?) in that list and go back (\d+) steps?\.", question)
    assert found is not None
    return found[1], int(found[2])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 16), st.integers(0, 40), st.integers(0, 2**32))
def test_answer_lies_so_many_acquisitions_back(hops: int, more: int, seed: int) -> None:
    draft = draft_of(NAME, seed, hops + 1 + more, hops=hops)
    given_thing, steps = asked(draft.question)
    acquired = [f.thing for _, f in read(prompt_of(draft)).facts("Purchase", "GiftReceived")]
    assert steps == hops
    assert acquired[acquired.index(given_thing) - hops] == draft.answer
    assert acquired.index(given_thing) >= hops
    assert draft.answers == [draft.answer]
    assert task_of(NAME).oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("hops", range(1, 6))
def test_evidence_is_the_chain_from_the_answer_to_the_given_thing(hops: int) -> None:
    for seed in range(10):
        draft = draft_of(NAME, seed, 40, hops=hops)
        labels = [mark.label for mark in draft.marks()]
        assert (labels[0], labels[-1], len(labels)) == (draft.answer, asked(draft.question)[0], hops + 1)
        for mark in draft.marks():
            assert mark.label in mark.first.text[mark.start : mark.end]


def test_a_chapter_has_one_acquisition_bought_or_given() -> None:
    # The paper's setting; gifts count like purchases, so that "bought" alone does not find the way back.
    gifts = total = 0
    for seed in range(10):
        for page in read(prompt_of(draft_of(NAME, seed, 40))).pages:
            kinds = [fact.kind for fact in page.facts if fact.kind in ("Purchase", "GiftReceived")]
            assert len(kinds) == 1
            gifts += kinds == ["GiftReceived"]
            total += 1
    assert 0.1 < gifts / total < 0.3


def test_things_that_are_not_acquired_stand_between_given_and_gold() -> None:
    misleading = 0
    for seed in range(40):
        draft = draft_of(NAME, seed, 30)
        prompt = prompt_of(draft)
        story = read(prompt)
        order = [fact.thing for _, fact in story.facts("Purchase", "GiftReceived", "Seen", "Asked", "Hearsay")]
        gold, given_thing = order.index(draft.answer), order.index(asked(draft.question)[0])
        misleading += abs(given_thing - gold) > 1
    # Taking the last thing named before the given one is usually wrong.
    assert misleading / 40 > 0.6


def test_gold_is_not_the_only_thing_of_its_kind() -> None:
    for seed in range(20):
        draft = draft_of(NAME, seed, 40)
        things = {fact.thing for _, fact in read(prompt_of(draft)).facts("Purchase", "GiftReceived")}
        assert len(things) == 40


def test_one_step_and_many_are_asked_in_good_english() -> None:
    assert "go back 1 step." in draft_of(NAME, 1, 9, hops=1).question
    assert "go back 4 steps." in draft_of(NAME, 1, 9, hops=4).question
