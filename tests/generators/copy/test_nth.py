"""Copying: pieces divided here by their headings, line by line, and counted by other means than the oracle's."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.generators.depth import parse_depth
from sparse_tasks.generators.task import Draft
from tests.generators.drafts import (
    context_of,
    depths,
    draft_of,
    farthest_from_uniform,
    fill,
    prompt_of,
    task_of,
)

NAME = "copy_nth"
SAMPLES = 100
HEADING = re.compile(r"(Song of|Letter about|Dream of|Speech on) the [a-z' -]+")


def pieces(draft: Draft) -> list[tuple[str, list[str]]]:
    """Headings and lines of all pieces."""
    found: list[tuple[str, list[str]]] = []
    for line in context_of(draft).splitlines()[2:]:
        if HEADING.fullmatch(line):
            found.append((line, []))
        elif line:
            found[-1][1].append(line)
    return found


def kinds_of(line: str) -> list[str]:
    """Where a line cannot belong but to one kind of piece."""
    signs = {"Song": "heron", "Letter": "Please|Christmas", "Dream": "badger", "Speech": "town wall|mayor"}
    return [kind for kind, sign in signs.items() if re.search(sign, line)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 9), st.integers(4, 60), st.integers(0, 40), st.integers(0, 2**32))
def test_gold_is_the_nth_piece_with_the_heading(alike: int, lines: int, more: int, seed: int) -> None:
    draft = fill(draft_of(NAME, seed, alike + 1 + more, alike=alike, lines=lines), 3)
    heading = re.search(r'heading "(.+?)"', draft.question)
    number = re.search(r"number (\d+) of them", draft.question)
    assert heading is not None
    assert number is not None
    found = [text for title, text in pieces(draft) if title == heading[1]]
    assert len(found) == alike
    assert found[int(number[1]) - 1] == draft.answers
    assert len(draft.answers) == lines
    assert draft.answer == "\n".join(draft.answers) == task_of(NAME).oracle(prompt_of(draft))
    assert all(kind in title for title, text in pieces(draft) for line in text for kind in kinds_of(line))
    assert len(draft.marks()) == int(number[1])  # the piece, and the headings of those to count before it


def test_the_needle_is_like_the_haystack() -> None:
    reported = pieces(draft_of(NAME, "haystack", 400))
    often = Counter(title for title, _ in reported)
    assert 3 <= sorted(often.values())[len(often) // 2] <= 5  # as often as the heading asked for: four times
    assert {title.partition(" ")[0] for title in often} == {"Song", "Letter", "Dream", "Speech"}
    assert {len(text) for _, text in reported} == set(range(12, 21))
    lines = Counter(line for _, text in reported for line in text)
    assert set(lines.values()) == {1}  # no line tells two pieces apart wrongly
    assert not [line for line in lines if re.search(r"\b[Aa] (?!one)[aeiou]", line)]


def test_every_number_is_asked_for_and_every_depth() -> None:
    drafts = [draft_of(NAME, seed, 24) for seed in range(200)]
    assert min(Counter(draft.drawn["n"] for draft in drafts).values()) > 200 / 4 / 2
    assert farthest_from_uniform([depths(draft)[-1] for draft in drafts]) < 0.12
    deep = [draft_of(NAME, seed, 60, parse_depth("0.8-0.9")) for seed in range(20)]
    assert all(0.75 < depths(draft)[-1] < 0.95 for draft in deep)


def test_no_part_of_a_copy_is_won_without_the_piece() -> None:
    # Of the smallest size; another piece with the same heading is as wrong as that of another sample.
    drafts = [draft_of(NAME, f"guess {i}", 5) for i in range(SAMPLES)]
    likes = []
    for draft in drafts:
        wrong = [text for _, text in pieces(draft) if text != draft.answers]
        likes.append("\n".join(wrong[0]))
    often = Counter(line for draft in drafts for line in draft.answers).most_common(16)
    guesses = {
        "another piece": likes,
        "another sample's answer": [draft.answer for draft in [*drafts[1:], drafts[0]]],
        "the lines seen most often": ["\n".join(line for line, _ in often)] * SAMPLES,
        "the question": [draft.question for draft in drafts],
    }
    for guess, texts in guesses.items():
        values = [
            score("sequence_fraction", f"<answer>{text}</answer>", draft.answers).value
            for text, draft in zip(texts, drafts, strict=True)
        ]
        assert sum(values) / SAMPLES < 0.02, guess


def test_giving_back_everything_wins_next_to_nothing() -> None:
    draft = draft_of(NAME, "everything", 60)
    assert score("sequence_fraction", f"<answer>{context_of(draft)}</answer>", draft.answers).value < 0.02


@pytest.mark.parametrize("lines", [16, 400])
def test_the_gold_answer_fits_into_the_budget(lines: int, qwen: PromptTokenizer) -> None:
    for seed in range(4):
        draft = draft_of(NAME, f"budget {seed}", 6, lines=lines)
        assert len(qwen.ids(draft.answer)) + 512 <= task_of(NAME, lines=lines).budget() == 512 + 32 * lines


def test_a_piece_less_or_more_is_noticed() -> None:
    draft = draft_of(NAME, "changed", 12)
    prompt, (title, text) = prompt_of(draft), next(one for one in pieces(draft) if one[0] in draft.question)
    piece = f"{title}\n\n" + "".join(f"{line}\n" for line in text) + "\n"
    assert piece in prompt
    with pytest.raises(DataError, match="3 pieces have the heading"):
        task_of(NAME).oracle(prompt.replace(piece, "", 1))
    with pytest.raises(DataError, match="5 pieces have the heading"):
        task_of(NAME).oracle(prompt.replace(piece, piece * 2, 1))
    with pytest.raises(DataError, match="an end of it is missing"):
        task_of(NAME).oracle(prompt.replace("The collection ends here.", ""))
