"""Guards patterns: each predicate against its definition written out, and mask, count and density of one another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention import patterns
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.patterns import Blocks, Columns, Everything, Pattern, block_interactions
from tests.attention.toys import Where

N = 37
Rule = Callable[[int, int, int], bool]


def flags(*shape: int, share: float = 0.4, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


COLUMNS, TILES = flags(2, N), flags(2, 5, 8, seed=2)  # tiles of 8 by 5
NEAR = Where(lambda i, j: i - j < 3)

CASES: list[tuple[Pattern, Rule]] = [
    (Everything(), lambda h, i, j: True),
    (NEAR, lambda h, i, j: j in (i, i - 1, i - 2)),
    (Columns(COLUMNS), lambda h, i, j: bool(COLUMNS[h, j])),
    (Blocks(TILES, 8, 5), lambda h, i, j: bool(TILES[h, i // 8, j // 5])),
    # Of one head with two, on either side, and nested.
    (Columns(COLUMNS) | NEAR, lambda h, i, j: bool(COLUMNS[h, j]) or i - j < 3),
    (NEAR | Columns(COLUMNS[:1]), lambda h, i, j: bool(COLUMNS[0, j]) or i - j < 3),
    (Columns(COLUMNS[:1]) | (NEAR | Blocks(TILES, 8, 5)),
     lambda h, i, j: bool(COLUMNS[0, j]) or i - j < 3 or bool(TILES[h, i // 8, j // 5])),
]  # fmt: skip


def written_out(rule: Rule, heads: int, n_q: int, n_k: int) -> Tensor:
    return torch.tensor(
        [[[j <= i and rule(h, i, j) for j in range(n_k)] for i in range(n_k - n_q, n_k)] for h in range(heads)]
    )


@pytest.mark.parametrize("n_q", [N, 11, 1])
@pytest.mark.parametrize(("pattern", "rule"), CASES, ids=lambda x: type(x).__name__ if isinstance(x, Pattern) else "")
def test_predicate_is_its_definition(pattern: Pattern, rule: Rule, n_q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = written_out(rule, pattern.heads, n_q, N)
    assert torch.equal(pattern.mask(n_q, N), expected)
    count = pattern.count(n_q, N)
    assert count.dtype == torch.int64
    assert count.tolist() == [int(head.sum()) for head in expected]
    assert pattern.density(n_q, N).tolist() == [int(c) / causal_count(n_q, N) for c in count]
    monkeypatch.setattr(patterns, "_CELLS", 5 * N)  # counted in slices, of which the last is shorter
    assert torch.equal(pattern.count(n_q, N), count)


def test_heads_come_from_the_parts() -> None:
    assert [NEAR.heads, Columns(COLUMNS).heads, Blocks(TILES, 8, 5).heads] == [1, 2, 2]
    assert (NEAR | Columns(COLUMNS)).heads == (Columns(COLUMNS) | NEAR).heads == 2


@pytest.mark.parametrize(("n_q", "n_k"), [(1, 1), (5, 5), (1, 9), (4, 9)])
def test_dense_interactions_are_the_lower_triangle(n_q: int, n_k: int) -> None:
    assert causal_count(n_q, n_k) == sum(i + 1 for i in range(n_k - n_q, n_k))
    assert Everything().density(n_q, n_k).tolist() == [1.0]


@settings(max_examples=60, deadline=None)
@given(
    n_k=st.integers(1, 90),
    missing=st.integers(0, 80),
    block_q=st.integers(1, 40),
    block_k=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_tiles_are_counted_in_closed_form(n_k: int, missing: int, block_q: int, block_k: int, seed: int) -> None:
    """Rows of the grid before the first query's are not there: row 0 stands for its block."""
    n_q = max(1, n_k - missing)
    first_row = (n_k - n_q) // block_q
    rows, columns = -(-n_k // block_q) - first_row, -(-n_k // block_k)
    blocks = Blocks(flags(3, rows, columns, seed=seed), block_q, block_k, first_row)
    assert torch.equal(blocks.count(n_q, n_k), Pattern.count(blocks, n_q, n_k))


@settings(max_examples=60, deadline=None)
@given(n_k=st.integers(1, 60), missing=st.integers(0, 50), block_q=st.integers(1, 24), block_k=st.integers(1, 24))
def test_interactions_of_two_blocks_match_a_loop(n_k: int, missing: int, block_q: int, block_k: int) -> None:
    """Including blocks before the queries, after the diagonal, or past the end, which have none."""
    n_q = max(1, n_k - missing)
    rows, columns = torch.arange(n_k // block_q + 2), torch.arange(n_k // block_k + 2)
    expected = torch.zeros(len(rows), len(columns), dtype=torch.int64)
    for i in range(n_k - n_q, n_k):
        for j in range(i + 1):
            expected[i // block_q, j // block_k] += 1
    found = block_interactions(rows[:, None], columns, block_q, block_k, n_q, n_k)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)
    assert int(found.sum()) == causal_count(n_q, n_k)
