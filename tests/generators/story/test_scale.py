"""Two million tokens: names stay unique, answers stay unique, and nothing takes long."""

from __future__ import annotations

import time

import pytest

from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import audit, read
from sparse_tasks.generators.story.task import StoryTask
from sparse_tasks.generators.story.world import simulate
from tests.generators.drafts import KINDS, draft_of, fill, prompt_of, task_of

# About as many chapters as two million tokens of Qwen2.5 hold.
CHAPTERS = 8_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["story_retrieval", "story_filtering"])
def test_a_story_of_two_million_tokens_has_one_answer(name: str) -> None:
    draft = draft_of(name, "long", CHAPTERS)
    prompt = prompt_of(draft)
    # 4.4 characters a token at most.
    assert len(prompt) / 4.4 > 1_600_000
    assert task_of(name).oracle(prompt) == draft.answer
    assert len(draft.marks()) == {"story_retrieval": 16, "story_filtering": 3}[name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_aggregation_over_thousands_of_chapters_has_one_answer(kind: str) -> None:
    draft = draft_of("story_aggregation", "long", 1_200, kind=kind)
    assert task_of("story_aggregation").oracle(prompt_of(draft)) == draft.answer


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["ja_JP", "ta_IN"])
def test_a_locale_with_few_names_has_enough_people(locale: str) -> None:
    prompt = prompt_of(draft_of("story_retrieval", "few names", 2_500, locale=locale))
    people = {fact.name for _, fact in read(prompt).facts("Meeting")}
    assert len(people) > 1_600


def test_telling_a_story_of_64k_tokens_takes_next_to_no_time() -> None:
    # Generous: about 0.03 s on one core of 2024.
    task, stream = task_of("story_retrieval"), Stream("speed")
    assert isinstance(task, StoryTask)
    chronicle = simulate(stream.fork(1), task.plan(stream.fork(2), 220, Depth()))
    best = min(_seconds(stream, chronicle) for _ in range(5))
    assert best < 0.3


def _seconds(stream: Stream, chronicle: object) -> float:
    began = time.process_time()  # whatever else the machine does
    Narrator(stream.fork(3), chronicle)  # type: ignore[arg-type]
    return time.process_time() - began
