"""Guards SpargeAttn: shares of mean blocks as written out, all of what is unlike itself, and its place in a budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.methods.spargeattn import SpargeAttn
from sparse_tasks.attention.ops.means import self_similarity
from tests.attention.methods.naive import Array, block_lists, cells, make_sequence, pooled_products

BLOCK = 128


def coherent(n_q: int, n_k: int, heads: int, kv_heads: int, unlike: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys that point the same way within a block, but in about a share of the blocks."""
    q, k = make_sequence(n_k, n_k, heads, kv_heads, 64)
    make = torch.Generator().manual_seed(n_k)
    for x in (q, k):
        for start in range(0, n_k, BLOCK):
            some = x[start : start + BLOCK]
            away = torch.rand(x.shape[1], generator=make) < unlike
            some += torch.where(away, 0.0, 4.0)[:, None] * torch.randn(1, x.shape[1], 64, generator=make)
    return q[-n_q:], k


def cosine(x: Array) -> float:
    """Mean over all pairs."""
    directions = x / np.linalg.norm(x, axis=1, keepdims=True)
    return float(np.mean(directions @ directions.T))


def blocks_of(x: torch.Tensor, first: int) -> list[Array]:
    """Tokens of each block, where ``x`` begins at position ``first``: float64 ``[tokens, head_size]``."""
    end = first + len(x)
    starts = range(first - first % BLOCK, end, BLOCK)
    return [x[max(s - first, 0) : s + BLOCK - first].double().numpy() for s in starts]


def written_out(q: torch.Tensor, k: torch.Tensor, cdf: float, similarity: float) -> list[list[list[int]]]:
    first, group = len(k) - len(q), q.shape[1] // k.shape[1]
    found = []
    for head, rows in enumerate(pooled_products(q, k, BLOCK)):
        queries = [cosine(x) < similarity for x in blocks_of(q[:, head], first)]
        keys = [cosine(x) < similarity for x in blocks_of(k[:, head // group], 0)]
        lists = []
        for r, (row, unlike) in enumerate(zip(rows, queries, strict=True)):
            diagonal = first // BLOCK + r
            taken = {0, diagonal} | {c for c in range(diagonal + 1) if keys[c] or unlike}
            trusted = [c for c in range(diagonal + 1) if not keys[c] or c in (0, diagonal)]
            weights = {c: float(np.exp(row[c] - max(row[: diagonal + 1]))) for c in trusted}
            held, total = weights[diagonal] + (weights[0] if diagonal else 0.0), sum(weights.values())
            for c in sorted(set(trusted) - {0, diagonal}, key=lambda c: (-weights[c], c)):
                if held / total < cdf:
                    taken.add(c)
                held += weights[c]
            lists.append(sorted(taken))
        found.append(lists)
    return found


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "cdf", "similarity"),
    [(900, 900, 4, 2, 0.9, 0.6), (333, 801, 2, 1, 0.5, 0.6), (700, 700, 2, 2, 0.7, -1.0), (300, 700, 2, 1, 0.0, 1.0)],
)
def test_like_naive(impl: str, n_q: int, n_k: int, heads: int, kv_heads: int, cdf: float, similarity: float) -> None:
    q, k = coherent(n_q, n_k, heads, kv_heads, 0.2)
    index = SpargeAttn(cdf=cdf, similarity=similarity).select(q, k, impl=impl)
    assert isinstance(index, BlockIndex)
    found = block_lists(index)
    assert found == written_out(q, k, cdf, similarity)
    if similarity == 1:
        assert all(len(blocks) == (n_k - n_q) // BLOCK + r + 1 for head in found for r, blocks in enumerate(head))


@pytest.mark.parametrize(("n", "offset"), [(300, 0), (200, 70), (5, 127)])
def test_self_similarity_is_the_mean_over_all_pairs(n: int, offset: int) -> None:
    x = torch.randn(n, 2, 16, generator=torch.Generator().manual_seed(n)) + 0.5
    found = self_similarity(x, BLOCK, offset=offset, impl="torch")
    expected = [[cosine(block) for block in blocks_of(x[:, head], offset)] for head in range(2)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_dissimilar_blocks_come_first_within_a_sparsity(sparsity: float) -> None:
    q, k = coherent(1500, 1500, 2, 2, 0.15)
    index = SpargeAttn(sparsity=sparsity).select(q, k, impl="torch")
    assert isinstance(index, BlockIndex)
    keys = [[cosine(x) < 0.6 for x in blocks_of(k[:, head], 0)] for head in range(2)]
    queries = [[cosine(x) < 0.6 for x in blocks_of(q[:, head], 0)] for head in range(2)]
    unlike, others, left, total = 0, 0, 0, 0
    for head, rows in enumerate(block_lists(index)):
        for r, blocks in enumerate(rows):
            total += sum(cells(r, c, BLOCK, 1500, 1500) for c in blocks)
            for c in range(1, r):
                if queries[head][r] or keys[head][c]:
                    unlike, left = unlike + 1, left + (c not in blocks)
                else:
                    others += c in blocks
    assert unlike > 10
    assert left == 0 or others == 0
    assert total == pytest.approx(2 * (1 - sparsity) * 1500 * 1501 / 2, abs=BLOCK**2)
