"""Lines in order: the longest common subsequence, over the larger list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.evaluators.metrics.sequence_fraction import sequence_fraction

GOLD = ["The tinker rides at daybreak.", "Who knows.", "Over the hill the heron wanders.", "So it went."]


@pytest.mark.parametrize(
    ("lines", "right"),
    [
        (GOLD, 4),
        (GOLD[:2], 2),
        (GOLD[2:], 2),
        ([], 0),
        # A line that is wrong or left out costs itself alone.
        ([GOLD[0], "Who cares.", *GOLD[2:]], 3),
        ([GOLD[0], *GOLD[2:]], 3),
        ([GOLD[1], GOLD[0], *GOLD[2:]], 3),
        (GOLD[::-1], 1),
        # Clothes make no mistake.
        ([f"{n}. {line}" for n, line in enumerate(GOLD, 1)], 4),
        ([f"> {line}" for line in GOLD], 0),
        ([line.upper() for line in GOLD], 4),
    ],
)
def test_lines_in_order_count(lines: list[str], right: int) -> None:
    assert sequence_fraction("\n".join(lines), GOLD) == right / 4


def test_lines_too_many_cost() -> None:
    assert sequence_fraction("\n".join([*GOLD, *GOLD[:1]]), GOLD) == 4 / 5


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.lists(st.integers(0, 5), min_size=2, max_size=12))
def test_it_is_the_longest_common_subsequence(gold: list[int], given: list[int]) -> None:
    """Against the textbook's table."""
    table = [[0] * (len(given) + 1) for _ in range(len(gold) + 1)]
    for i, one in enumerate(gold):
        for j, other in enumerate(given):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    lines = ["\n".join(f"line {'abcdef'[n]}" for n in numbers) for numbers in (gold, given)]
    assert sequence_fraction(lines[1], lines[0].split("\n")) == table[-1][-1] / max(len(gold), len(given))
