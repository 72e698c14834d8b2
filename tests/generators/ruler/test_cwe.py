"""Common words extraction."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.generators.ruler.words import joined
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS
from tests.generators.drafts import context_of, depths, draft_of, farthest_from_uniform, fill, prompt_of, task_of

NAME = "ruler_cwe"


def words_of(text: str) -> list[str]:
    lines = re.findall(r"^(\d+)\. (\S+)$", text, re.M)
    assert [int(number) for number, _ in lines] == list(range(1, len(lines) + 1))
    return [word for _, word in lines]


def oracle(prompt: str) -> str:
    return task_of(NAME).oracle(prompt)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 20),
    st.integers(4, 40),
    st.integers(1, 10),
    st.integers(0, 300),
    st.integers(0, 6),
    st.integers(0, 2**32),
)
def test_common_and_rare_words_occur_as_often_as_set(
    words: int, common: int, rare: int, more: int, offers: int, seed: int
) -> None:
    rare = min(rare, common - 1)
    draft = fill(draft_of(NAME, seed, 10 + more, words=words, common=common, rare=rare), offers)
    counts = Counter(words_of(context_of(draft)))
    assert sorted(counts.values()) == [rare] * (10 + more + offers) + [common] * words
    assert sorted(word for word, n in counts.items() if n == common) == draft.answers
    assert draft.answer == ", ".join(draft.answers) == oracle(prompt_of(draft))
    assert draft.answers == sorted(draft.answers)


@pytest.mark.parametrize(("rare", "common"), [(4, 4), (30, 30), (7, 5), (999, 999)])
def test_rare_words_as_frequent_as_common_ones_are_refused(rare: int, common: int) -> None:
    with pytest.raises(UsageError, match="is not below"):
        TASKS.get(NAME).from_settings({"rare": rare, "common": common})


def test_places_of_a_common_word_are_spread_over_the_list() -> None:
    pooled = [d for seed in range(10) for d in depths(draft_of(NAME, f"spread {seed}", 400))]
    assert len(pooled) == 10 * 300
    assert farthest_from_uniform(pooled) < 0.035


def test_places_differ_from_sample_to_sample() -> None:
    # RULER's list has its common words at the same places in every sample.
    placed = []
    for seed in range(12):
        draft = draft_of(NAME, f"slots {seed}", 300)
        gold = set(draft.answers)
        placed.append({i for i, word in enumerate(words_of(context_of(draft))) if word in gold})
    for i, one in enumerate(placed):
        for other in placed[i + 1 :]:
            # By chance a quarter of the places are the same.
            assert len(one & other) / len(one) < 0.45


def test_a_word_taken_in_later_stands_anywhere_too() -> None:
    late = []
    for seed in range(40):
        draft = draft_of(NAME, f"late {seed}", 300)
        before = set(words_of(context_of(draft)))
        for _ in range(4):
            offer = draft.offers[0]()
            assert offer is not None
            offer.accept()
        listed = words_of(context_of(draft))
        assert len(listed) == 300 + 3 * 304
        late += [i / len(listed) for i, word in enumerate(listed) if word not in before]
    assert len(late) == 40 * 4 * 3
    assert farthest_from_uniform(late) < 0.09


def test_no_word_is_profane() -> None:
    profane = set((files("wonderwords") / "assets" / "profanitylist.txt").read_text(encoding="utf-8").splitlines())
    assert len(profane) > 900
    listed = set(words_of(context_of(draft_of(NAME, "clean", 12_000, rare=1))))
    assert len(listed) > 12_000
    assert not {part for word in listed for part in word.split("-")} & profane


def test_two_decent_words_do_not_make_a_profane_one() -> None:
    # Some fifty of seventy million pairs do; here every ninth would.
    words = ["hard", "core", "bread", "butter"]
    pairs = {joined(Stream("decent", i), words, words, frozenset({"butter"})) for i in range(200)}
    assert pairs == {f"{a}-{b}" for a in ("hard", "core", "bread") for b in ("hard", "core", "bread")} - {"hard-core"}


def test_beyond_the_vocabulary_words_are_joined_in_pairs_without_an_answer() -> None:
    draft = draft_of(NAME, "pairs", 20_000, rare=1)
    counts = Counter(words_of(context_of(draft)))
    single = {word for word in counts if "-" not in word}
    pairs = {word for word in counts if "-" in word}
    assert 8_000 < len(single) < 9_000
    assert len(single) + len(pairs) == 20_010
    for pair in pairs:
        first, second = pair.split("-")
        assert {first, second} <= single
        assert not {first, second} & set(draft.answers)
    assert set(draft.answers) < single
    assert oracle(prompt_of(draft)) == draft.answer


def test_one_word_is_asked_for_in_good_english() -> None:
    one, many = draft_of(NAME, 1, 20, words=1), draft_of(NAME, 1, 20)
    assert "One word is more frequent in the list than all others. Which is it?" in one.question
    assert "10 words are more frequent in the list than all others. Which are they?" in many.question
    assert len(one.answers) == 1
    assert oracle(prompt_of(one)) == one.answer


def test_a_common_word_less_gives_another_verdict() -> None:
    draft = draft_of(NAME, "less", 100, rare=3, common=4)
    prompt = prompt_of(draft)
    gold = draft.answers[4]
    # One place of a common word given to another word: it is no longer distinguishable from rare ones.
    broken = re.sub(rf"(?m)^(\d+)\. {gold}$", r"\1. zzz", prompt, count=1)
    with pytest.raises(DataError, match="cannot be told"):
        oracle(broken)
    # All places of it: another word is common.
    assert oracle(re.sub(rf"(?m)^(\d+)\. {gold}$", r"\1. zzz", prompt)) == ", ".join(
        sorted([*(word for word in draft.answers if word != gold), "zzz"])
    )


def test_a_list_that_is_not_numbered_is_found() -> None:
    prompt = prompt_of(draft_of(NAME, "numbers", 40))
    for broken in (
        re.sub(r"(?m)^17\. .*\n", "", prompt),
        re.sub(r"(?m)^17\.", "18.", prompt),
        re.sub(r"(?m)^(17\. .*\n)", r"\1\1", prompt),
    ):
        with pytest.raises(DataError, match="not numbered"):
            oracle(broken)
