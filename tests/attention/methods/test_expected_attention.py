"""Guards ExpectedAttention: weights in closed form like a plain loop's, positions taken off and put on, and values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.methods.expected_attention import ExpectedAttention
from sparse_tasks.attention.rotary import Rotary
from tests.attention.methods.naive import Array, ends, kept_lists, make_sequence, top

FREQUENCIES = (1.0, 0.2, 0.04)
FUTURE = 9


def rotation(position: int, size: int) -> Array:
    """A matrix that turns numbers 0 and 3, 1 and 4, 2 and 5, and leaves the others."""
    matrix = np.eye(size)
    for i, frequency in enumerate(FREQUENCIES):
        j, angle = i + len(FREQUENCIES), position * frequency
        matrix[i, i] = matrix[j, j] = math.cos(angle)
        matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix


def naive(q: Tensor, k: Tensor, *, sinks: int, turned: bool) -> Array:
    """Expected weights of each KV head, query head by query head, key by key."""
    (n, heads, size), kv_heads = q.shape, k.shape[1]
    queries, keys = q.double().numpy(), k.double().numpy()
    turn = np.mean([rotation(n + i, size) for i in range(FUTURE)], 0) if turned else np.eye(size)
    weights = np.zeros((kv_heads, n))
    for head in range(heads):
        kv_head = head // (heads // kv_heads)
        plain = [rotation(i, size).T @ queries[i, head] if turned else queries[i, head] for i in range(sinks, n)]
        mean, covariance = np.mean(plain, 0), np.cov(np.array(plain).T, bias=True)
        mean, covariance = turn @ mean, turn @ covariance @ turn.T
        scores = np.array([
            mean @ key / math.sqrt(size) + key @ covariance @ key / (2 * size) for key in keys[sinks:, kv_head]
        ])  # fmt: skip
        exponentials = np.exp(scores - scores.max())
        weights[kv_head, sinks:] += exponentials / exponentials.sum() / (heads // kv_heads)
    return weights


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "heads", "kv_heads", "size"), [(70, 4, 2, 16), (51, 3, 3, 32), (90, 8, 1, 64), (23, 2, 2, 16)]
)
def test_like_naive(n: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype, turned: bool) -> None:
    q, k = make_sequence(n, n, heads, kv_heads, size, dtype)
    _, v = make_sequence(n, n, heads, kv_heads, 8, dtype, seed=1)
    method = ExpectedAttention(capacity=15, future=FUTURE, floor=0.01)
    method = method.placed(Rotary(FREQUENCIES)) if turned else method
    expected = naive(q, k, sinks=4, turned=turned)
    torch.testing.assert_close(method.scores(q, k, impl="torch"), torch.tensor(expected).float(), rtol=1e-3, atol=1e-6)
    lengths = np.sqrt((v.double().numpy() ** 2).sum(2)).T
    kept = [top(head, 15, ends(n, 4, 0)) for head in (expected + 0.01) * lengths]
    assert kept_lists(method.keep(q, k, v=v, impl="torch")) == kept
    assert kept_lists(method.keep(q, k, impl="torch")) == [top(head, 15, ends(n, 4, 0)) for head in expected]


def test_weights_are_the_mean_over_normal_queries() -> None:
    """What the paper derives: the mean of exponentials over the distribution of the queries, without any of them."""
    make = torch.Generator().manual_seed(0)
    mixed = torch.randn(8, 8, generator=make)
    queries = torch.randn(200_000, 1, 8, generator=make) @ mixed + torch.randn(8, generator=make)
    keys = torch.randn(200_000, 1, 8, generator=make) * 0.3
    weights = ExpectedAttention(sinks=0).scores(queries, keys, impl="torch")[0, :20]
    exponentials = (queries[:, 0] @ keys[:20, 0].T * 8**-0.5).exp().mean(0)
    torch.testing.assert_close(weights / weights.sum(), exponentials / exponentials.sum(), rtol=0.03, atol=0.0)


def test_positions_of_keys_matter_and_those_of_queries_do_not() -> None:
    """The same queries at other positions, turned by these, are the same distribution."""
    q, k = make_sequence(60, 60, 4, 2, 16)
    rotary, order = Rotary(FREQUENCIES), torch.randperm(60, generator=torch.Generator().manual_seed(0))
    method = ExpectedAttention(capacity=12, sinks=0).placed(rotary)
    positions = torch.arange(60)
    one, other = rotary.turn(q, positions), rotary.turn(q[order], positions)
    assert kept_lists(method.keep(one, k, impl="torch")) == kept_lists(method.keep(other, k, impl="torch"))
    moved = rotary.turn(k, positions + 30)
    assert kept_lists(method.keep(one, k, impl="torch")) != kept_lists(method.keep(one, moved, impl="torch"))


def test_a_token_with_a_zero_value_is_evicted_first() -> None:
    q, k = make_sequence(60, 60, 4, 2, 16)
    v = torch.ones(60, 2, 16)
    v[[11, 30]] = 0.0
    kept = kept_lists(ExpectedAttention(capacity=58).keep(q, k, v=v, impl="torch"))
    assert kept == [[i for i in range(60) if i not in (11, 30)]] * 2


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_prompts_of_only_first_tokens_are_kept(n: int) -> None:
    q, k = make_sequence(n, n, 4, 2, 16)
    assert kept_lists(ExpectedAttention(capacity=5).keep(q, k, v=k, impl="torch")) == [list(range(n))] * 2
    assert [len(head) for head in kept_lists(ExpectedAttention(capacity=1).keep(q, k, v=k, impl="torch"))] == [1, 1]


def test_first_tokens_take_half_of_a_short_budget() -> None:
    assert [ExpectedAttention().fixed(capacity) for capacity in (1, 3, 8, 100)] == [(0, 0), (1, 0), (4, 0), (4, 0)]
