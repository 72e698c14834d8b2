"""Sorting: events read by their key words, and by other means than the oracle's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.task import Draft
from tests.generators.drafts import context_of, draft_of, fill, prompt_of, task_of

NAME = "reason_sort"
WORDS = {
    "first fairs": r"first fair",
    "openings of bridges": r"bridge",
    "castings of bells": r"\bbell\b",
    "sieges": r"[Ss]iege|besieged",
    "floods": r"flood|under water|high water|river rose|dyke",
    "fires": r"fire|flames|Flames|smoke|burned",
}
PLACE = re.compile(r"((?:[A-Z][a-z]+ )+[A-Z][a-z]+)")


def events(draft: Draft) -> list[tuple[str, str, int]]:
    found = []
    for line in context_of(draft).splitlines()[2:]:
        if year := re.search(r"\b(\d{4})\b", line):
            kind = next(kind for kind, words in WORDS.items() if re.search(words, line))
            place = PLACE.findall(re.sub(r"^(?:At|Soldiers besieged) ", "", line))
            assert len(place) == 1, line
            found.append((kind, place[0], int(year[1])))
    return found


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.integers(0, 80), st.integers(0, 100), st.integers(0, 2**32))
def test_gold_are_all_events_of_the_kind_by_year(steps: int, more: int, lures: int, seed: int) -> None:
    draft = fill(draft_of(NAME, seed, steps + more, steps=steps, lures=lures), 3)
    (kind,) = (kind for kind in WORDS if f"exactly {steps} {kind}." in draft.question)
    found = sorted((year, place) for reported, place, year in events(draft) if reported == kind)
    assert draft.answers == [f"{place}: {year}" for year, place in found]
    assert len(found) == len({year for year, _ in found}) == len({place for _, place in found}) == steps
    assert draft.answer == "\n".join(draft.answers) == task_of(NAME).oracle(prompt_of(draft))


def test_other_events_lure() -> None:
    for lures, low, high in ((0, 0, 0), (25, 0.15, 0.35), (100, 1, 1)):
        draft = draft_of(NAME, lures, 300, lures=lures)
        places = {line.partition(":")[0] for line in draft.answers}
        others = [place in places for _, place, _ in events(draft)]
        assert low <= (sum(others) - 16) / (300 - 16) <= high


def test_every_kind_is_asked_for() -> None:
    assert len({draft_of(NAME, seed, 20).drawn["kind"] for seed in range(60)}) == len(WORDS)


def test_an_event_less_or_twice_is_noticed() -> None:
    draft = draft_of(NAME, "changed", 60)
    prompt, reported = prompt_of(draft), draft.marks()[3].first.text
    with pytest.raises(DataError, match=r"15 .* are told of"):
        task_of(NAME).oracle(prompt.replace(reported, "", 1))
    year, other = (mark.label for mark in draft.marks()[3:5])
    with pytest.raises(DataError, match="of the same year"):
        task_of(NAME).oracle(prompt.replace(reported, reported.replace(year, other), 1))
