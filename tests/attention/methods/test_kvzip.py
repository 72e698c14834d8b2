"""Guards KVzip: the largest attention of a repetition, among the keys that the paper sets it, and a budget for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.methods.kvzip import KVzip
from tests.attention.methods.naive import Array, attention, ends, kept_lists, make_sequence


def largest(q: Tensor, k: Tensor) -> Array:
    """Of each KV head and key, over all queries of the group: ``[kv_heads, n_k]``."""
    return attention(q, k).reshape(k.shape[1], -1, len(q), len(k)).max((1, 2))


def best_of_all(scores: Array, count: int, always: set[int]) -> list[list[int]]:
    """The best positions of all heads together, those of ``always`` first."""
    heads, n = scores.shape
    every = [(head, i) for head in range(heads) for i in range(n)]
    kept = sorted(every, key=lambda at: (at[1] not in always, -scores[at], at))[:count]
    return [sorted(i for other, i in kept if other == head) for head in range(heads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "heads", "kv_heads", "size"), [(70, 4, 2, 64), (51, 3, 3, 96), (90, 8, 1, 128), (20, 2, 2, 16)]
)
def test_like_naive(dtype: torch.dtype, n: int, heads: int, kv_heads: int, size: int) -> None:
    q, k = make_sequence(n, n, heads, kv_heads, size, dtype)
    expected = best_of_all(largest(q, k), 15 * kv_heads, ends(n, 4, 0))
    assert kept_lists(KVzip(capacity=15).keep(q, k, impl="torch")) == expected


@pytest.mark.parametrize(("chunk", "first"), [(range(60), 0), (range(20, 50), 4), (range(2, 60), 2)])
def test_a_chunk_is_scored_among_itself_the_first_tokens_and_its_repetition(chunk: range, first: int) -> None:
    """Other tokens of the prompt are no part of the softmax, however well they fit."""
    q, k = make_sequence(35, 95, 4, 2, 32)
    there = torch.cat([k[:first], k[chunk.start : chunk.stop], k[60:]])
    expected = largest(q, there)[:, first : first + len(chunk)]
    found = KVzip().repeated(q, k, chunk)
    torch.testing.assert_close(found, torch.tensor(expected).float(), rtol=1e-4, atol=1e-6)
    others = [i for i in range(first, 60) if i not in chunk]
    k[others] = 9.0
    torch.testing.assert_close(KVzip().repeated(q, k, chunk), found)


def test_scores_in_parts_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = make_sequence(35, 95, 4, 2, 32)
    whole = KVzip().repeated(q, k, range(60))
    monkeypatch.setattr("sparse_tasks.attention.ops.true_mass._CELLS", 300)  # two parts
    torch.testing.assert_close(KVzip().repeated(q, k, range(60)), whole)


def test_heads_of_all_layers_share_the_budget() -> None:
    scores = [torch.rand(heads, 50, generator=torch.Generator().manual_seed(heads)) * weight
              for heads, weight in ((2, 1.0), (3, 0.5), (2, 0.01))]  # fmt: skip
    kept = KVzip(sparsity=0.8).keep_all(scores, impl="torch")
    expected = best_of_all(np.concatenate([of_layer.numpy() for of_layer in scores]), 7 * 10, ends(50, 4, 0))
    assert [head for of_layer in kept for head in kept_lists(of_layer)] == expected
    assert [len(of_layer.counts) for of_layer in kept] == [2, 3, 2]
    assert [len(head) for head in expected[-2:]] == [4, 4]  # first tokens alone
    assert all(of_layer.positions.shape[1] == of_layer.counts.max() for of_layer in kept)


@pytest.mark.parametrize(("length", "most", "sizes"), [(5, 99, [5]), (40, 99, [16, 16, 8]), (40, 9, [9, 9, 9, 9, 4])])
def test_chunks_make_up_the_prompt(length: int, most: int, sizes: list[int]) -> None:
    chunks = KVzip(chunk=16).chunks(length, most)
    assert [position for chunk in chunks for position in chunk] == list(range(length))
    assert [len(chunk) for chunk in chunks] == sizes


def test_later_chunks_get_their_start() -> None:
    first, nothing = KVzip().instruction(range(2048))
    later, before = KVzip().instruction(range(2048, 4096))
    assert (len(nothing), before) == (0, range(2040, 2048))
    assert first.endswith("exactly.")
    assert later.endswith("starting with ")
    assert KVzip(chunk=3).instruction(range(3, 6))[1] == range(3)
