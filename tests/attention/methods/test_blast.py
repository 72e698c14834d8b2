"""Guards BLASST: the index is what a kernel computes that skips as the paper says; a sparsity finds the threshold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention import prefill
from sparse_tasks.attention.index import BlockIndex, SkipIndex, computed_by
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.methods.blast import Blast
from sparse_tasks.attention.ops import true_mass
from sparse_tasks.attention.prefill import attend, sparse_prefill
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.attention.steps import select_prompt
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import block_lists, make_sequence

QUERIES, BLOCK = 64, 128


def uneven(n_q: int, n_k: int, heads: int, kv_heads: int) -> tuple[Tensor, Tensor]:
    """A sequence some of whose blocks have scores near zero."""
    q, k = make_sequence(n_q, n_k, heads, kv_heads, 64)
    size = torch.tensor([1.0, 0.5, 0.0, 0.7, 0.1, 0.9]).repeat(-(-n_k // (6 * BLOCK))).repeat_interleave(BLOCK)[:n_k]
    return q * 3, k * size[:, None, None]


def skipping_kernel(
    q: Tensor, k: Tensor, v: Tensor, threshold: float, softmax: Softmax = PLAIN
) -> tuple[Tensor, list[list[list[int]]]]:
    """An online softmax from the diagonal backwards, block by block, and the blocks that it does not skip."""
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    first = n_k - n_q
    out, read = torch.zeros(n_q, heads, v.shape[2]), []
    for head in range(heads):
        keys, values = (x[:, head * kv_heads // heads] for x in (k, v))
        read.append([])
        for row in range(first // QUERIES, -(-n_k // QUERIES)):
            position = torch.arange(max(row * QUERIES, first), min((row + 1) * QUERIES, n_k))
            running = torch.full((len(position),), -math.inf)
            total, sums = torch.zeros(len(position)), torch.zeros(len(position), v.shape[2])
            if softmax.sinks is not None:
                running, total = softmax.sinks[head].expand(len(position)), torch.ones(len(position))
            taken = []
            own = row * QUERIES // BLOCK
            for column in range(own, -1, -1):
                key = torch.arange(column * BLOCK, min((column + 1) * BLOCK, n_k))
                scores = softmax.capped(q[position - first, head] @ keys[key].T * size**-0.5)
                scores = scores.masked_fill(key > position[:, None], -math.inf)
                highest = scores.amax(1)
                if column < own and bool((highest - running < math.log(threshold)).all()):
                    continue
                taken.append(column)
                new = running.maximum(highest)
                weights, shrink = (scores - new[:, None]).exp(), (running - new).exp()
                total, sums = total * shrink + weights.sum(1), sums * shrink[:, None] + weights @ values[key]
                running = new
            out[position - first, head] = sums / total[:, None]
            read[head].append(taken[::-1])
    return out, read


@pytest.mark.parametrize("at_once", [1, 1 << 22])  # blocks of queries one by one, and together
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "threshold"),
    [
        (700, 700, 4, 2, 0.2),
        (333, 801, 2, 1, 0.1),  # a chunk that begins within a block
        (500, 500, 3, 3, 0.5),
    ],
)
def test_the_index_is_what_a_skipping_kernel_reads(
    n_q: int, n_k: int, heads: int, kv_heads: int, threshold: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(true_mass, "_CELLS", at_once)
    q, k = uneven(n_q, n_k, heads, kv_heads)
    v = torch.randn(n_k, kv_heads, 32)
    expected, read = skipping_kernel(q, k, v, threshold)
    index = Blast(scale=threshold * n_k).select(q, k, impl="torch")
    assert index is not None
    assert block_lists(index) == read
    assert (
        sum(len(row) for head in read for row in head)
        < int(BlockIndex.dense(n_q, n_k, QUERIES, BLOCK).mask().sum()) * heads
    )
    torch.testing.assert_close(attend(q, k, v, index, impl="torch"), expected, rtol=1e-4, atol=1e-5)
    skipping = SkipIndex.new(threshold, heads, n_q, n_k, "cpu")
    torch.testing.assert_close(attend(q, k, v, skipping, impl="torch"), expected, rtol=1e-4, atol=1e-5)
    assert skipping.mask().equal(index.mask())
    assert skipping.computed().equal(index.computed())


@pytest.mark.parametrize("softmax", [Softmax(soft_cap=4.0), Softmax(sinks=torch.tensor([6.0, -3.0]))])
def test_sinks_and_caps_count_as_in_the_kernel(softmax: Softmax) -> None:
    q, k = uneven(600, 600, 2, 1)
    v = torch.randn(600, 1, 64)
    expected, read = skipping_kernel(q, k, v, 0.2, softmax)
    index = Blast(scale=0.2 * 600).under(softmax).select(q, k, impl="torch")
    assert index is not None
    assert block_lists(index) == read
    torch.testing.assert_close(attend(q, k, v, index, softmax=softmax, impl="torch"), expected, rtol=1e-4, atol=1e-5)
    skipping = SkipIndex.new(0.2, 2, 600, 600, "cpu")
    torch.testing.assert_close(attend(q, k, v, skipping, softmax=softmax, impl="torch"), expected, rtol=1e-4, atol=1e-5)
    assert skipping.mask().equal(index.mask())


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
def test_a_sparsity_finds_one_threshold_for_all_heads(sparsity: float) -> None:
    q, k = uneven(1400, 1500, 4, 2)
    index = Blast(sparsity=sparsity).select(q, k, impl="torch")
    assert index is not None
    wanted, largest = 4 * (1 - sparsity) * causal_count(1400, 1500), QUERIES * BLOCK
    assert abs(int(index.computed().sum()) - wanted) <= largest / 2 + 1
    lead, mask = true_mass.block_lead(q, k, QUERIES, BLOCK), index.mask()
    assert lead[mask].min() >= lead[~mask].max()


def test_longer_prompts_have_lower_thresholds() -> None:
    """A chunk counts with its whole prompt."""
    q, k = uneven(900, 900, 2, 1)
    read = [int(index.computed().sum()) for length in (900, 9000, 90000)
            if (index := Blast(scale=90.0).select(q, k, length=length, impl="torch")) is not None]  # fmt: skip
    assert len(read) == 3
    assert read[0] < read[1] < read[2]


def test_a_skipping_kernel_selects_nothing_in_advance_and_counts_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In stretches, and for chunks; a sparsity, of which the threshold is not known before, is selected for."""
    monkeypatch.setattr(prefill, "skips", lambda q, v, impl: True)
    monkeypatch.setattr(Blast, "queries_at_once", 300)
    q, k = uneven(700, 800, 4, 2)
    v = torch.randn(800, 2, 64)
    method = Blast(scale=160.0)
    out, indices = sparse_prefill(method, q, k, v, impl="torch")
    assert [type(index) for index in indices] == [SkipIndex] * 3
    selected = select_prompt(method, q, k, impl="torch")
    for index, twin in zip(indices, selected, strict=True):
        assert isinstance(twin, BlockIndex)
        assert index.computed().equal(twin.computed())
    assert 0.1 < sum(float(index.density().mean()) for index in indices) / 3 < 0.9
    monkeypatch.setattr(prefill, "skips", lambda q, v, impl: False)
    torch.testing.assert_close(out, sparse_prefill(method, q, k, v, impl="torch")[0], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(prefill, "skips", lambda q, v, impl: True)
    assert isinstance(sparse_prefill(Blast(sparsity=0.5), q, k, v, impl="torch")[1][0], BlockIndex)


@pytest.mark.parametrize(("scale", "threshold"), [(0.5, 0.5), (2.0, 0.3)])
def test_the_threshold_accounts_for_the_scale_of_scores(scale: float, threshold: float) -> None:
    q, k = uneven(800, 800, 2, 1)
    v = torch.randn(800, 1, 64)
    index, same = (SkipIndex.new(threshold, 2, 800, 800, "cpu") for _ in range(2))
    out = attend(q, k, v, index, scale=scale, impl="torch")
    torch.testing.assert_close(attend(q * scale * 8, k, v, same, impl="torch"), out, rtol=1e-4, atol=1e-5)
    assert index.mask().equal(same.mask())
    assert not index.mask().equal(BlockIndex.dense(800, 800, QUERIES, BLOCK).mask().expand(2, -1, -1))


def test_the_indices_of_layers_are_counted_at_once_and_the_last_queries_alone() -> None:
    q, k = uneven(500, 620, 2, 1)
    v = torch.randn(620, 1, 64)
    indices = [SkipIndex.new(threshold, 2, 500, 620, "cpu") for threshold in (0.1, 0.5)]
    for index in indices:
        attend(q, k, v, index, impl="torch")
    assert computed_by(indices).equal(torch.stack([index.computed() for index in indices]))
    after = SkipIndex.new(0.5, 2, 210, 620, "cpu")
    attend(q[-210:], k, v, after, impl="torch")
    # The first of its blocks of queries is a part, which may be left out where the whole is not.
    assert indices[1].tail(210).mask()[:, 1:].equal(after.mask()[:, 1:])


@pytest.mark.parametrize(
    ("index", "field"),
    [
        (SkipIndex.new(0.5, 2, 100, 130, "cpu"), "index.kept"),
        (SkipIndex.new(0.5, 1, 130, 130, "cpu"), "index.kept"),
        (SkipIndex.new(0.0, 2, 130, 130, "cpu"), "index.threshold"),
        (SkipIndex.new(1.5, 2, 130, 130, "cpu"), "index.threshold"),
    ],
)
def test_an_invalid_index_is_named(index: SkipIndex, field: str) -> None:
    q, k = uneven(130, 130, 2, 1)
    with pytest.raises(UsageError) as error:
        attend(q, k, k, index, impl="torch")
    assert error.value.field == field
