"""The walk: distances computed here by relaxation, from sentences read by other means than the oracle's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.task import Draft
from tests.generators.drafts import context_of, draft_of, fill, prompt_of, task_of

NAME = "reason_walk"
PLACE = re.compile(r"(?<![A-Za-z])(?:(?:Whoever|From|There|The|Of|In|A|Straight) )?((?:[A-Z][a-z]+ )+[A-Z][a-z]+)")
BACKWARDS = re.compile(r"There is a road|Straight to|.* can be reached ")


def roads(draft: Draft) -> list[tuple[str, str]]:
    found = []
    for line in context_of(draft).splitlines()[2:]:
        names = PLACE.findall(line)
        if len(names) == 2:
            found.append((names[1], names[0]) if BACKWARDS.match(line) else (names[0], names[1]))
        else:
            assert not names, line  # filler
    return found


def distances(place: str, reported: list[tuple[str, str]]) -> dict[str, int]:
    far = {place: 0}
    for _ in reported:
        before = dict(far)
        for start, end in reported:
            if start in far:
                far[end] = min(far.get(end, len(reported)), far[start] + 1)
        if far == before:
            break
    return {name: distance for name, distance in far.items() if name != place}


def gold(draft: Draft) -> dict[str, int]:
    reported = roads(draft)
    place = re.search(r"(?:reached from|which places can) ([A-Z][\w ]+?)(?: be reached)?, and over", draft.question)
    assert place is not None
    if "From which places" in draft.question:
        return distances(place[1], [(end, start) for start, end in reported])
    return distances(place[1], reported)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(2, 40),
    st.integers(0, 80),
    st.integers(1, 6),
    st.sampled_from(["layers", "ancestors"]),
    st.integers(0, 2**32),
)
def test_gold_are_all_places_by_distance_then_by_name(steps: int, more: int, width: int, kind: str, seed: int) -> None:
    size = task_of(NAME, steps=steps).smallest() + more
    draft = fill(draft_of(NAME, seed, size, steps=steps, width=width, kind=kind), 3)
    far = gold(draft)
    ordered = sorted(far, key=lambda name: (far[name], name))
    assert draft.answers == [f"{name}: {far[name]}" for name in ordered]
    assert len(ordered) == len(draft.marks()) == steps
    assert draft.answer == "\n".join(draft.answers) == task_of(NAME).oracle(prompt_of(draft))
    reported = roads(draft)
    assert len(set(reported)) == len(reported) >= size


def test_width_makes_layers() -> None:
    layers = {
        width: [draft_of(NAME, seed, 120, steps=60, width=width).drawn["layers"] for seed in range(10)]
        for width in (1, 3, 10)
    }
    assert set(layers[1]) == {60}
    assert 15 < sum(layers[3]) / 10 < 28
    assert 4 < sum(layers[10]) / 10 < 11


def test_roads_from_elsewhere_lead_astray() -> None:
    # Followed the wrong way round, they lead to more places than are asked for.
    for seed in range(10):
        draft = draft_of(NAME, seed, 150, kind="layers")
        places = {line.partition(":")[0] for line in draft.answers}
        assert sum(end in places and start not in places for start, end in roads(draft)) > 10


def test_a_road_more_or_less_is_noticed() -> None:
    draft = draft_of(NAME, "changed", 60, kind="layers")
    prompt, last = prompt_of(draft), draft.marks()[-1]
    with pytest.raises(DataError, match="15 places can be reached"):
        task_of(NAME).oracle(prompt.replace(last.first.text, "", 1))
    with pytest.raises(DataError, match="told of twice"):
        task_of(NAME).oracle(prompt.replace(last.first.text, last.first.text * 2, 1))
    with pytest.raises(DataError, match="can be read in 0 ways"):
        task_of(NAME).oracle(prompt.replace(last.first.text, "There may be a road.\n", 1))
