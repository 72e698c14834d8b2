"""Guards the made queries and keys: the structure that they are made for is there, and the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.examples import structured
from sparse_tasks.core.errors import UsageError

N = 2048


def attention(head: int, kv_head: int) -> Tensor:
    """Attention of one head, ``[N, N]``."""
    q, k, _ = structured(N, 4, 1, 64, seed=3)
    scores = q[:, head] @ k[:, kv_head].T * 64**-0.5
    return scores.masked_fill(torch.ones(N, N, dtype=torch.bool).triu(1), float("-inf")).softmax(1)


def test_shapes_and_seed() -> None:
    q, k, v = structured(100, 6, 3, 48, seed=1)
    assert (q.shape, k.shape, v.shape) == ((100, 6, 48), (100, 3, 48), (100, 3, 48))
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in (q, k, v))
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), structured(100, 6, 3, 48, seed=1), strict=True))
    assert not torch.equal(k, structured(100, 6, 3, 48, seed=2)[1])


def test_attention_is_sparse() -> None:
    for head in range(4):
        ordered = attention(head, 0)[N // 2 :].sort(descending=True).values
        needed = (ordered.cumsum(1) < 0.9).sum(1).float().mean() / (0.75 * N)
        assert needed < 0.25  # of random numbers, more than half


def test_some_heads_have_verticals_and_sinks() -> None:
    columns = attention(0, 0)[N // 2 :, : N // 2].mean(0)
    assert columns[:4].min() > 10 * columns.median()
    assert (columns > 10 * columns.median()).sum() > 8


def test_some_heads_have_a_far_slash() -> None:
    weights = attention(1, 0)[N // 2 :]
    query = torch.arange(N // 2, N)
    by_distance = torch.stack([weights[torch.arange(N // 2), query - d].mean() for d in range(N // 2)])
    assert by_distance[0] > 10 * by_distance.median()
    assert by_distance[64:].max() > 10 * by_distance.median()


def test_keys_that_get_attention_are_short() -> None:
    _, k, _ = structured(N, 4, 1, 64, seed=3)
    weight = attention(0, 0)[N // 2 :, : N // 2].mean(0)
    best = weight.topk(20).indices
    assert k[best, 0].norm(dim=1).mean() < k[:, 0].norm(dim=1).quantile(0.1)


@pytest.mark.parametrize(
    ("arguments", "field"), [((0,), "n"), ((9, 0), "query_heads"), ((9, 3, 2), "q"), ((9, 2, 2, 40), "head_size")]
)
def test_invalid_sizes_are_refused(arguments: tuple[int, ...], field: str) -> None:
    with pytest.raises(UsageError) as error:
        structured(*arguments)
    assert error.value.field == field
