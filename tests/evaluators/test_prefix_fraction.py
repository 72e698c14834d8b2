"""Steps before the first mistake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.evaluators.metrics.prefix_fraction import prefix_fraction, steps_before_mistake

GOLD = ["Chapter 7: 215; old brass bell", "Chapter 9: 204; nothing", "Chapter 12: 1250; old brass bell; ivory comb"]


@pytest.mark.parametrize(
    ("lines", "right"),
    [
        (GOLD, 3),
        (GOLD[:2], 2),
        (GOLD[:1], 1),
        ([], 0),
        # Correct steps after a mistake do not count.
        (["Chapter 7: 214; old brass bell", *GOLD[1:]], 0),
        ([GOLD[0], "Chapter 9: 204", GOLD[2]], 1),
        ([GOLD[0], GOLD[2]], 1),
        ([GOLD[0], GOLD[0], *GOLD[1:]], 1),
        (GOLD[::-1], 0),
        # Clothes make no mistake.
        ([f"{n}. {line}" for n, line in enumerate(GOLD, 1)], 3),
        ([f"- **{line}**" for line in GOLD], 3),
        ([line.upper() for line in GOLD], 3),
        ([*GOLD[:2], "Chapter 12: 1,250; old brass bell; ivory comb."], 3),
        ([*GOLD[:2], "Chapter 12: 1250; old brass bell; ivory co"], 2),
    ],
)
def test_steps_count_up_to_the_first_mistake(lines: list[str], right: int) -> None:
    answer = "\n".join(lines)
    assert steps_before_mistake(answer, GOLD) == (right, len(lines))
    assert prefix_fraction(answer, GOLD) == right / max(3, len(lines))


def test_steps_beyond_the_end_cost() -> None:
    assert prefix_fraction("\n".join([*GOLD, "Chapter 13: 1; nothing"]), GOLD) == 3 / 4


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from(["wrong", "left out", "twice", "cut off"]))
def test_a_mistake_anywhere_is_found_at_its_place(n: int, place: int, sort: str) -> None:
    gold = [f"{417 + 31 * i}: {i * i}, {i}" for i in range(n)]
    place = min(place, n - 1)
    wrong = {
        "wrong": ["5: 6, 7"],
        "left out": [],
        "twice": [gold[place - 1] if place else "5: 6, 7"],
        "cut off": ["41"],
    }
    answer = [*gold[:place], *wrong[sort], *gold[place + (sort != "twice") :]]
    assert steps_before_mistake("\n".join(answer), gold)[0] == place
