"""Frequent words extraction."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import zeta

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.ruler import fwe
from sparse_tasks.generators.sampling import make_sample
from tests.generators.drafts import context_of, depths, draft_of, farthest_from_uniform, fill, prompt_of, task_of
from tests.generators.requests import make_request

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


def frequencies(text: str) -> list[int]:
    """By rank, the dots first."""
    counted = Counter(text.partition("\n\n")[2].split())
    dots = counted.pop("...")
    return [dots, *sorted(counted.values(), reverse=True)]


def by_the_law(alpha: float, n: int) -> list[int]:
    """Rounded as in RULER: down, each separately."""
    shares = (n * rank**-alpha / float(zeta(alpha)) for rank in range(1, n + 2))
    return [int(share) for share in shares if share >= 1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(1.15, 3.5), st.integers(1, 5), st.integers(0, 300), st.integers(0, 40), st.integers(0, 2**32))
def test_frequencies_are_those_of_the_law_however_it_is_filled(
    alpha: float, words: int, more: int, taken: int, seed: int
) -> None:
    chosen = {"alpha": alpha, "words": words}
    size = task_of(NAME, **chosen).smallest() + more
    draft = draft_of(NAME, seed, size, **chosen)
    for i in range(taken):
        offer = draft.offers[i % 3]()
        assert offer is not None
        if i % 4:  # what does not fit is not taken
            offer.accept()
    counted = frequencies(context_of(draft))
    nominal = (n for n in range(int(counted[0] * zeta(alpha)), int((counted[0] + 1) * zeta(alpha)) + 2))
    assert any(counted == by_the_law(alpha, n) for n in nominal)
    if not taken:
        assert size * 20 <= sum(counted) < size * 20 + 20 + len(counted)


def test_the_figures_of_4k_are_rulers() -> None:
    assert fwe._Law(2.0).counts(2060) == by_the_law(2.0, 2060)
    assert fwe._Law(2.0).counts(2060)[:6] == [1252, 313, 139, 78, 50, 34]
    page = (Path(__file__).parents[3] / "docs" / "ruler.md").read_text(encoding="utf-8")
    assert "1,252 dots, then 313, 139, 78, 50, 34" in page
    assert fwe._zeta(2.0) == pytest.approx(1.6449340668482264, abs=1e-9)
    assert fwe._zeta(1.1) == pytest.approx(10.584448464950809, abs=1e-6)


@pytest.mark.parametrize("length", [1024, 4096, 32768])
def test_prompts_keep_the_law_at_exact_length(length: int, qwen: PromptTokenizer) -> None:
    request = make_request([length], [NAME], 2, preset="ruler")
    for index in range(2):
        sample = make_sample(request, qwen, request.tasks[0], length, index)
        assert length - 32 <= sample.input_tokens + sample.max_new_tokens <= length
        text = sample.context.partition("\n\n")[2].partition("Note how")[2].partition("\n\n")[2]
        counted = frequencies(f"\n\n{text}")
        assert any(counted == by_the_law(2.0, n) for n in range(int(1.64 * counted[0]), int(1.65 * counted[0]) + 3))


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
