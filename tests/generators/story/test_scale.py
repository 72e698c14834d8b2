"""Two million tokens: names stay unique and answers stay unique."""

from __future__ import annotations

import pytest

from sparse_tasks.generators.story.reader import audit, read
from tests.generators.drafts import KINDS, draft_of, fill, prompt_of, task_of

pytestmark = pytest.mark.nightly

# About the chapters of two million tokens of Qwen2.5.
CHAPTERS = 8_000


@pytest.mark.parametrize("name", ["story_retrieval", "story_filtering"])
def test_a_story_of_two_million_tokens_has_one_answer(name: str) -> None:
    draft = draft_of(name, "long", CHAPTERS)
    prompt = prompt_of(draft)
    # 4.4 characters a token at most.
    assert len(prompt) / 4.4 > 1_600_000
    assert task_of(name).oracle(prompt) == draft.answer
    assert len(draft.marks()) == {"story_retrieval": 16, "story_filtering": 3}[name]


@pytest.mark.parametrize("kind", KINDS)
def test_an_aggregation_over_thousands_of_chapters_has_one_answer(kind: str) -> None:
    draft = draft_of("story_aggregation", "long", 1_200, kind=kind)
    assert task_of("story_aggregation").oracle(prompt_of(draft)) == draft.answer


def test_a_long_story_repeats_no_name_and_contradicts_itself_nowhere() -> None:
    draft = fill(draft_of("story_multihop", "names", CHAPTERS), 20)
    prompt = prompt_of(draft)
    assert audit(prompt) == []
    assert task_of("story_multihop").oracle(prompt) == draft.answer
    story = read(prompt)
    acquired = [fact.thing for _, fact in story.facts("Purchase", "GiftReceived")]
    assert len(set(acquired)) == len(acquired) == CHAPTERS
    places = {fact.name for _, fact in story.facts("Arrival")}
    people = {fact.name for _, fact in story.facts("Meeting")}
    assert len(places) > 0.85 * CHAPTERS
    assert len(people) > 0.7 * CHAPTERS
    # Names do not grow without end either.
    assert max(len(name.split()) for name in people) <= 4
    assert max(len(name.split()) for name in places) <= 3
    assert max(len(thing.split()) for thing in acquired) <= 6


@pytest.mark.parametrize("locale", ["ja_JP", "ta_IN"])
def test_a_locale_with_few_names_has_enough_people(locale: str) -> None:
    prompt = prompt_of(draft_of("story_retrieval", "few names", 2_500, locale=locale))
    people = {fact.name for _, fact in read(prompt).facts("Meeting")}
    assert len(people) > 1_600
