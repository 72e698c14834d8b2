"""Frequent words extraction."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.ruler import fwe
from tests.generators.drafts import context_of, depths, draft_of, farthest_from_uniform, fill, prompt_of, task_of

NAME = "ruler_fwe"


def counts_of(text: str) -> Counter[str]:
    return Counter(re.findall(r"\b[b-df-hj-np-tv-xz]{5,}\b", text.partition("\n\n")[2]))


def oracle(prompt: str) -> str:
    return task_of(NAME).oracle(prompt)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(1.2, 3.0), st.integers(1, 6), st.integers(5, 9), st.integers(0, 60), st.integers(0, 2**32))
def test_answer_is_never_in_doubt(alpha: float, words: int, letters: int, more: int, seed: int) -> None:
    chosen = {"alpha": alpha, "words": words, "letters": letters}
    draft = fill(draft_of(NAME, seed, task_of(NAME, **chosen).smallest() + more, **chosen), 8)
    counted = counts_of(context_of(draft)).most_common()
    assert sorted(word for word, _ in counted[:words]) == draft.answers
    assert counted[words - 1][1] > counted[words][1]
    assert draft.answer == ", ".join(draft.answers) == oracle(prompt_of(draft))


def test_frequencies_are_those_of_the_law() -> None:
    # Zeta of 2 is pi ** 2 / 6: the dots, which do not count, are six of ten words.
    text = context_of(draft_of(NAME, "law", 1_000)).partition("\n\n")[2].split()
    assert len(text) == 20_000
    dots = text.count("...")
    counted = [n for _, n in Counter(word for word in text if word != "...").most_common()]
    for rank, n in enumerate([dots, *counted[:8]], start=1):
        assert n == int(20_000 * 6 / 9.869604401089358 / rank**2)
    assert fwe._zeta(2.0) == pytest.approx(1.6449340668482264, abs=1e-9)
    assert fwe._zeta(1.1) == pytest.approx(10.584448464950809, abs=1e-6)


def test_filling_keeps_the_law() -> None:
    draft = draft_of(NAME, "fill", 400)
    for _ in range(100):
        offer = draft.offers[0]()
        assert offer is not None
        offer.accept()
    counted = [n for _, n in counts_of(context_of(draft)).most_common(3)]
    for rank, n in enumerate(counted, start=2):
        assert n == pytest.approx(10_000 / 1.645 / rank**2, rel=0.12)


def test_places_are_spread_and_differ_from_sample_to_sample() -> None:
    pooled = [d for seed in range(10) for d in depths(fill(draft_of(NAME, f"spread {seed}", 60), 3))]
    assert len(pooled) > 2_000
    assert farthest_from_uniform(pooled) < 0.04
    answers = [set(draft_of(NAME, seed, 20).answers) for seed in range(30)]
    assert len({word for answer in answers for word in answer}) == 90


def test_prompts_that_hold_no_answer_are_refused() -> None:
    draft = draft_of(NAME, "broken", 6)
    prompt = prompt_of(draft)
    counted = counts_of(context_of(draft)).most_common()
    (third, n), (_, m) = counted[2], counted[3]
    assert n > m
    at = prompt.index("Its words are groups")
    with pytest.raises(DataError, match="cannot be told"):
        oracle(prompt[:at] + prompt[at:].replace(third, "...", n - m))
    with pytest.raises(DataError, match="is not a coded word"):
        oracle(prompt.replace(third, "12", 1))
    for cut in ("\nThe coded text ends here.\n", "Below is a coded text.", "words occur"):
        with pytest.raises(DataError, match="cannot be read"):
            oracle(prompt.replace(cut, "?"))


@pytest.mark.parametrize("words", [1, 3])
def test_the_question_is_good_english(words: int) -> None:
    draft = draft_of(NAME, 1, 20, words=words)
    if words == 1:
        assert "Which word occurs most often in the coded text?" in draft.question
    else:
        assert "Which three words occur most often in the coded text?" in draft.question
