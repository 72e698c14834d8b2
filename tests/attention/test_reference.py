"""Guards the reference: a softmax written again in numpy, queries that see nothing, groups of heads, scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_tasks.attention import reference
from sparse_tasks.attention.patterns import Columns, Pattern
from sparse_tasks.attention.reference import attention_reference
from tests.attention.toys import Where


def make(n_q: int, n_k: int, heads: int, kv_heads: int, size: int = 16) -> list[Tensor]:
    maker = torch.Generator().manual_seed(n_k)
    return [torch.randn(n, h, size, generator=maker) for n, h in ((n_q, heads), (n_k, kv_heads), (n_k, kv_heads))]


def by_numpy(q: Tensor, k: Tensor, v: Tensor, seen: np.ndarray, scale: float) -> np.ndarray:
    """Query by query in fp64; ``seen`` is ``[query_heads, n_q, n_k]``."""
    queries, keys, values = (x.double().numpy() for x in (q, k, v))
    n_q, heads, _ = queries.shape
    out = np.zeros(queries.shape)
    for head in range(heads):
        kv_head = head // (heads // keys.shape[1])
        for i in range(n_q):
            listed = [j for j in range(len(keys) - n_q + i + 1) if seen[head, i, j]]
            if listed:
                weights = np.exp(keys[listed, kv_head] @ queries[i, head] * scale)
                out[i, head] = weights @ values[listed, kv_head] / weights.sum()
    return out


@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads"), [(20, 20, 1, 1), (7, 33, 4, 2), (1, 12, 6, 1), (1, 1, 2, 2), (9, 30, 8, 2)]
)
@pytest.mark.parametrize("scale", [None, 0.07])
def test_dense_matches_numpy(n_q: int, n_k: int, heads: int, kv_heads: int, scale: float | None) -> None:
    q, k, v = make(n_q, n_k, heads, kv_heads)
    out = attention_reference(q, k, v, scale=scale)
    expected = by_numpy(q, k, v, np.ones((heads, n_q, n_k), bool), 0.25 if scale is None else scale)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_a_pattern_has_one_head_kv_heads_or_query_heads(heads: int) -> None:
    """A pattern of the KV heads is shared by the group of each."""
    q, k, v = make(15, 40, 6, 2)
    kept = torch.rand(heads, 40, generator=torch.Generator().manual_seed(1)) < 0.3
    out = attention_reference(q, k, v, Columns(kept) | Where(lambda i, j: i - j < 2))
    near = np.arange(25, 40)[:, None] - np.arange(40) < 2
    seen = kept.numpy().repeat(6 // heads, 0)[:, None, :] | near
    np.testing.assert_allclose(out.numpy(), by_numpy(q, k, v, seen, 0.25), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [Where(lambda i, j: j < 0), Where(lambda i, j: (j < 3) & (i - j < 5)), Columns(torch.arange(20)[None] == 12)],
)
def test_a_query_that_sees_nothing_gives_zero(pattern: Pattern) -> None:
    q, k, v = make(20, 20, 2, 1)
    out = attention_reference(q, k, v, pattern)
    blind = ~pattern.mask(20, 20)[0].any(1)
    assert blind.any()
    assert (out[blind] == 0).all()
    assert (out[~blind] != 0).all()


def test_low_precision_is_read_and_then_computed_in_32_bits() -> None:
    q, k, v = (x.bfloat16() for x in make(8, 24, 2, 1))
    out = attention_reference(q, k, v)
    assert torch.equal(out, attention_reference(q.float(), k.float(), v.float()))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = make(20, 33, 2, 1)
    near = Where(lambda i, j: i - j < 9)
    whole = attention_reference(q, k, v, near)
    monkeypatch.setattr(reference, "_CELLS", 3 * 33)  # the last slice is shorter
    torch.testing.assert_close(attention_reference(q, k, v, near), whole, rtol=1e-6, atol=1e-6)
