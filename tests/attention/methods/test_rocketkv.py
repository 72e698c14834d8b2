"""Guards RocketKV: what stays, and the chunks that steps read, like plain loops; both stages share the sparsity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.methods.rocketkv import RocketKV
from sparse_tasks.attention.steps import Memory
from tests.attention.methods.naive import Array, attention, ends, kept_lists, make_sequence, top


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_k", "heads", "kv_heads", "size", "dtype"),
    [(70, 4, 2, 64, torch.float32), (51, 3, 3, 96, torch.float16), (90, 8, 1, 128, torch.float32)],
)
def test_kept_tokens_match_naive(impl: str, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    q, k = make_sequence(n_k, n_k, heads, kv_heads, size, dtype)
    sums = attention(q, k)[:, -9:].sum(1).reshape(kv_heads, -1, n_k).sum(1)
    largest = np.array([[head[max(0, i - 2) : i + 3].max() for i in range(n_k)] for head in sums])
    expected = [top(head, 22, ends(n_k, 0, 6)) for head in largest]
    method = RocketKV(capacity=22, token_budget=7, window=9, kernel=5, recent=6)
    kept = method.keep(q, k, impl=impl)
    assert kept_lists(kept) == expected
    assert kept.capacity == 7


def read_by(q: Tensor, k: Tensor, kept: list[int], chunk: int, r: int, count: int, prompt: int) -> list[int]:
    """Tokens that the last query reads in one KV head, all of whose queries ``q`` has, ``[group, size]``."""
    queries, keys, size = q.double().numpy(), k.double().numpy(), q.shape[1]
    largest = np.argsort(-np.abs(queries).sum(0), kind="stable")[:r]
    weights: Array = np.zeros(len(kept))
    for query in queries:
        scores = np.zeros(len(kept))
        for place in range(len(kept)):
            first = place // chunk * chunk
            members = keys[kept[first : first + chunk]]
            bound = sum(
                query[i] * (members[:, i].max() if queries[:, i].sum() > 0 else members[:, i].min()) for i in largest
            )
            share = np.abs(query[largest]).sum() / np.abs(query).sum()
            scores[place] = bound / math.sqrt(size * share)
        exponentials = np.exp(scores - scores.max())
        weights += exponentials / exponentials.sum()
    written = {place for place, token in enumerate(kept) if token >= prompt}
    return [kept[place] for place in top(weights, count + len(written), written)]


@pytest.mark.parametrize(("chunk", "r"), [(1, 16), (3, 16), (3, 5), (4, 1), (100, 3)])
def test_steps_match_a_loop(chunk: int, r: int) -> None:
    n, steps = 60, 8
    q, k = make_sequence(n + steps, n + steps, 4, 2, 16)
    method = RocketKV(capacity=26, token_budget=9, chunk=chunk, r=r, window=8, kernel=3, recent=4)
    memory = Memory(method, impl="torch")
    memory.read(q[:n], k[:n], k[:n])
    kept = kept_lists(method.keep(q[:n], k[:n], impl="torch"))
    for position in range(n, n + steps):
        _, index = memory.step(q[position : position + 1], k[: position + 1], k[: position + 1])
        for head in range(2):
            kept[head].append(position)
            found = index.pages[0, head, : index.counts[0, head]].tolist()
            assert found == read_by(q[position, 2 * head : 2 * head + 2], k[:, head], kept[head], chunk, r, 9, n)


def test_chunks_of_one_token_and_all_components_are_the_true_attention() -> None:
    q, k = make_sequence(60, 60, 4, 2, 16)
    rows = k.transpose(0, 1)[None]
    cache = PagedCache.contiguous(rows, rows, torch.tensor([60], dtype=torch.int32))
    positions = torch.arange(60, dtype=torch.int32).expand(1, 2, 60)
    counts = torch.full((1, 2), 60, dtype=torch.int32)
    method = RocketKV(capacity=30, token_budget=9, chunk=1, r=16)
    expected = torch.tensor(attention(q[-1:], k)[:, 0]).view(2, 2, 60).sum(1).float()
    torch.testing.assert_close(method.weigh(q[-1:], cache, positions, counts)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("split", [0.0, 0.3, 0.5, 1.0])
def test_both_stages_share_the_sparsity(split: float) -> None:
    method = RocketKV(sparsity=0.9, split=split)
    at = method.at(4000)
    assert (at.capacity, at.token_budget) == (math.floor(4000 * 0.1**split), 400)
    assert at.capacity is not None
    left = at.capacity / 400
    assert method._chunk() == at._chunk() == math.ceil(round(math.sqrt(left), 2))
    reduced = method._chunk() * 64 / method._components(64)
    assert reduced == pytest.approx(left, rel=0.1)  # what judging reads is such a share of what is kept


def test_new_tokens_are_read_in_addition_to_the_budget() -> None:
    n, steps = 100, 30
    q, k = make_sequence(n + steps, n + steps, 4, 2, 16)
    memory = Memory(RocketKV(sparsity=0.9), impl="torch")
    memory.read(q[:n], k[:n], k[:n])
    for position in range(n, n + steps):
        _, index = memory.step(q[position : position + 1], k[: position + 1], k[: position + 1])
        assert index.counts.tolist() == [[10 + position + 1 - n] * 2]
        assert all(set(range(n, position + 1)) <= set(head.tolist()) for head in index.pages[0])


def test_steps_do_not_synchronise() -> None:
    """Fake tensors have no values: any read fails."""
    with FakeTensorMode():
        lengths, table = torch.empty(2, dtype=torch.int32), torch.empty(2, 9, dtype=torch.int32)
        cache = PagedCache(torch.empty(30, 16, 2, 64), torch.empty(30, 16, 2, 64), table, lengths)
        positions, counts = torch.empty(2, 2, 50, dtype=torch.int32), torch.empty(2, 2, dtype=torch.int32)
        weights = RocketKV(sparsity=0.9).weigh(torch.empty(2, 4, 64), cache, positions, counts)
        assert weights.shape == (2, 2, 50)
