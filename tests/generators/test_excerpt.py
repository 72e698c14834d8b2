"""Excerpts: the prompt's own words, in order, with the evidence, and gaps that say how much is missing."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.generators.excerpt import Piece, excerpt

GAP = re.compile(r"\[… ([\d,]+) characters …\]")


def span(start: int, end: int) -> dict[str, Any]:
    return {"start": start, "end": end, "depth": 0.0, "label": ""}


def places(prompt: str, pieces: list[Piece]) -> list[tuple[str, int, int]]:
    """Kind, start and end of each piece, if the pieces and gaps make up the prompt."""
    at, found = 0, []
    for kind, words in pieces:
        if kind == "gap":
            reported = GAP.fullmatch(words)
            assert reported, words
            length = int(reported[1].replace(",", ""))
        else:
            assert prompt[at : at + len(words)] == words
            length = len(words)
        assert length > 0
        found.append((kind, at, at + length))
        at += length
    assert at == len(prompt)
    return found


_WORDS = st.sampled_from(["a", "otter", "“Yes,”", "漢字", "x" * 40, "1,234", "\n", "\n\n", "", "the", "quay."])
_PROMPTS = st.lists(_WORDS, min_size=1, max_size=400).map(" ".join) | st.text(max_size=300)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]], int]:
    prompt = draw(_PROMPTS)
    ends = draw(st.lists(st.integers(0, len(prompt)), max_size=12, unique=True).map(sorted))
    spans = [span(first, last) for first, last in zip(ends[::2], ends[1::2], strict=False)]
    return prompt, draw(st.permutations(spans)), draw(st.integers(1, 60))


@given(cases())
def test_pieces_and_gaps_make_up_the_prompt(case: tuple[str, list[dict[str, Any]], int]) -> None:
    prompt, evidence, margin = case
    found = places(prompt, excerpt(prompt, evidence, margin))
    kinds = [kind for kind, _, _ in found]
    assert set(kinds) <= {"text", "evidence", "gap"}
    assert all(pair != ("gap", "gap") for pair in pairwise(kinds))


@given(cases())
def test_the_ends_and_the_evidence_are_kept(case: tuple[str, list[dict[str, Any]], int]) -> None:
    prompt, evidence, margin = case
    found = places(prompt, excerpt(prompt, evidence, margin))
    gone = {i for kind, start, end in found if kind == "gap" for i in range(start, end)}
    marked = {i for kind, start, end in found if kind == "evidence" for i in range(start, end)}
    # A window's first blank may go.
    assert not {i for i in gone if not prompt[i].isspace()} & set(range(2 * margin))
    assert not {i for i in gone if not prompt[i].isspace()} & set(range(len(prompt) - 4 * margin, len(prompt)))
    inside = {i for one in evidence for i in range(one["start"], one["end"])}
    assert marked <= inside
    for one in evidence:
        start, end = one["start"], one["end"]
        if end - start <= 2 * margin:
            assert {i for i in range(start, end) if not prompt[i].isspace()} <= marked
        else:  # of long evidence, both ends
            for i in (*range(start, start + margin), *range(end - margin, end)):
                assert i in marked or prompt[i].isspace()
    assert inside - gone == marked


@given(cases())
def test_with_a_large_margin_the_prompt_is_shown_whole(case: tuple[str, list[dict[str, Any]], int]) -> None:
    prompt, evidence, _ = case
    found = places(prompt, excerpt(prompt, evidence, len(prompt) + 1, most=10**6))
    assert "gap" not in {kind for kind, _, _ in found}
    marked = {i for kind, start, end in found if kind == "evidence" for i in range(start, end)}
    assert marked == {i for one in evidence for i in range(one["start"], one["end"])}


def test_a_long_prompt_shows_both_ends_and_the_evidence_between_gaps() -> None:
    prompt = "word " * 1_000 + "the secret is here " + "word " * 1_000
    pieces = excerpt(prompt, [span(5_000, 5_018)], 20)
    assert [kind for kind, _ in pieces] == ["text", "gap", "text", "evidence", "text", "gap", "text"]
    assert pieces[3] == ("evidence", "the secret is here")
    assert pieces[1] == ("gap", "[… 4,940 characters …]")
    assert places(prompt, pieces)


def test_no_word_is_cut() -> None:
    prompt = " ".join(f"word{i:04d}" for i in range(2_000))
    for margin in range(5, 40):
        for kind, words in excerpt(prompt, [span(9_000, 9_008)], margin):
            if kind != "gap":
                assert all(re.fullmatch(r"word\d{4}", word) for word in words.split())


def test_a_long_word_between_two_windows_is_shown_once() -> None:
    # The first window is prolonged to the end of the word, past the beginning of the second.
    prompt = "a " * 50 + "x" * 200 + " b" * 50
    for margin in range(1, 60):
        for start in range(0, 150, 7):
            shown = "".join(words for kind, words in excerpt(prompt, [span(start, start + 2)], margin) if kind != "gap")
            assert shown.count("x") <= 200
    assert excerpt("x" * 200, [], 10) == [("text", "x" * 200)]


def test_near_windows_are_joined() -> None:
    prompt = "word " * 1_000
    apart = excerpt(prompt, [span(2_000, 2_004), span(2_500, 2_504)], 100)
    joined = excerpt(prompt, [span(2_000, 2_004), span(2_240, 2_244)], 100)
    assert [kind for kind, _ in apart].count("gap") == 3
    assert [kind for kind, _ in joined].count("gap") == 2


def test_of_many_spans_some_are_shown_evenly() -> None:
    prompt = "word " * 20_000
    evidence = [span(5 * i, 5 * i + 4) for i in range(1_000, 19_000, 100)]
    found = places(prompt, excerpt(prompt, evidence, 20, most=8))
    shown = [start for kind, start, _ in found if kind == "evidence"]
    assert len(shown) == 8
    steps = [later - earlier for earlier, later in pairwise(shown)]
    assert max(steps) - min(steps) <= 500
    assert (
        len([kind for kind, _, _ in places(prompt, excerpt(prompt, evidence, 20, most=1_000)) if kind == "evidence"])
        == 180
    )


@pytest.mark.parametrize("prompt", ["", " ", "\n\n", "word"])
def test_tiny_prompts_are_shown_whole(prompt: str) -> None:
    assert "".join(words for _, words in excerpt(prompt, [], 5)) == prompt


def test_overlapping_spans_are_marked_once() -> None:
    prompt = "one two three four five"
    pieces = excerpt(prompt, [span(4, 13), span(8, 18), span(8, 13)], 100)
    assert pieces == [
        ("text", "one "),
        ("evidence", "two three"),
        ("evidence", " four"),
        ("text", " five"),
    ]
