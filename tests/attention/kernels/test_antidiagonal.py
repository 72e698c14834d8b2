"""Guards XAttention's scores: the cells that are read, causality, partial groups and blocks, against nested loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels import antidiagonal
from sparse_tasks.attention.kernels.antidiagonal import antidiagonal_scores
from sparse_tasks.core.errors import UsageError


def make(n_q: int, n_k: int, heads: int, kv_heads: int, size: int) -> tuple[Tensor, Tensor]:
    maker = torch.Generator().manual_seed(n_k)
    return torch.randn(n_q, heads, size, generator=maker), torch.randn(n_k, kv_heads, size, generator=maker)


def naive(q: Tensor, k: Tensor, block: int, stride: int, scale: float) -> Tensor:
    """Every antidiagonal summed pair by pair of positions, in fp64."""
    (n_q, heads, _), n_k = q.shape, len(k)
    before = n_k - n_q
    first, columns = before // block, ceil_div(n_k, block)
    out = torch.zeros(heads, ceil_div(n_k, block) - first, columns, dtype=torch.float64)
    for head in range(heads):
        products = q[:, head].double() @ k[:, head * k.shape[1] // heads].double().T * scale
        for row in range(out.shape[1]):
            groups = 0
            for a in range((first + row) * block // stride, (first + row + 1) * block // stride):
                queries = range(a * stride, (a + 1) * stride)
                if not any(before <= position < n_k for position in queries):
                    continue
                groups += 1
                scores = []
                for b in range(a + 1):
                    pairs = zip(reversed(queries), range(b * stride, (b + 1) * stride), strict=True)
                    cells = [products[i - before, j] for i, j in pairs if before <= i < n_k and j < n_k]
                    scores.append(float(sum(cells)) / stride)
                exponentials = [math.exp(score) for score in scores]
                for b, exponential in enumerate(exponentials):
                    out[head, row, b * stride // block] += exponential / sum(exponentials)
            out[head, row] /= groups
    return out


@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "block", "stride"),
    [
        (64, 64, 2, 1, 64, 16, 4),
        (50, 93, 2, 2, 96, 16, 8),
        (3, 70, 4, 1, 16, 32, 8),
        (37, 37, 1, 1, 128, 16, 16),
        (20, 45, 1, 1, 32, 5, 5),
    ],
)
def test_scores_match_loops(n_q: int, n_k: int, heads: int, kv_heads: int, size: int, block: int, stride: int) -> None:
    q, k = make(n_q, n_k, heads, kv_heads, size)
    found = antidiagonal_scores(q, k, block=block, stride=stride, scale=0.3, impl="torch")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), naive(q, k, block, stride, 0.3), rtol=1e-4, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(n_k=st.integers(1, 200), missing=st.integers(0, 150), stride=st.sampled_from([1, 4, 8]))
def test_rows_sum_to_one_over_causal_blocks(n_k: int, missing: int, stride: int) -> None:
    n_q = max(1, n_k - missing)
    scores = antidiagonal_scores(*make(n_q, n_k, 1, 1, 16), block=16, stride=stride)
    torch.testing.assert_close(scores.sum(2), torch.ones(scores.shape[:2]))
    row = torch.arange(scores.shape[1])[:, None] + (n_k - n_q) // 16
    later = torch.arange(scores.shape[2]) > row
    assert (scores[:, later] == 0).all()
    assert (scores[:, ~later] > 0).all()


def test_stride_one_equals_attention() -> None:
    q, k = make(48, 48, 1, 1, 32)
    products = (q[:, 0] @ k[:, 0].T * 32**-0.5).masked_fill(~torch.ones(48, 48).tril().bool(), float("-inf"))
    expected = products.softmax(-1).view(3, 16, 3, 16).sum(3).mean(1)
    torch.testing.assert_close(antidiagonal_scores(q, k, block=16, stride=1)[0], expected)


@pytest.mark.parametrize("cells", [1, 600, 2000, 7000, 40_000])
def test_bounded_memory_gives_the_same_result(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    """One head and query block at a time, parts of a group, whole groups, all: 192 cells per head and query block."""
    q, k = make(150, 190, 8, 2, 32)
    whole = antidiagonal_scores(q, k, block=16, stride=4)
    monkeypatch.setattr(antidiagonal, "_CELLS", cells)
    torch.testing.assert_close(antidiagonal_scores(q, k, block=16, stride=4), whole)


def test_heads_are_taken_in_groups_or_equal_parts_of_one() -> None:
    for heads, group in ((12, 1), (12, 3), (8, 8), (12, 6)):
        for most in range(15):
            taken = antidiagonal._whole_groups(most, heads, group)
            assert 1 <= taken <= max(1, min(most, heads))
            assert taken % group == 0 or group % taken == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"block": 20}, "block"), ({"stride": 0}, "stride"), ({"scale": -1.0}, "scale"), ({"impl": "fast"}, "impl")],
)
def test_bad_input_is_named(arguments: dict[str, object], field: str) -> None:
    q, k = make(10, 10, 1, 1, 16)
    with pytest.raises(UsageError) as error:
        antidiagonal_scores(q, k, **arguments)  # type: ignore[arg-type]
    assert error.value.field == field
