"""Guards Kascade: what is measured of heads, like plain loops; the best anchors of all; who reads whose tokens."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.calibration import Calibration
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.measuring import Measuring
from sparse_tasks.attention.method import ONLY, Layer
from sparse_tasks.attention.methods.kascade import KascadeDecode, KascadePrefill, _anchored
from sparse_tasks.attention.ops.anchors import best_anchors
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import Array, attention, block_lists, make_sequence, page_lists, top
from tests.attention.toys import small_llama

LAYERS = 6


K = TypeVar("K", KascadeDecode, KascadePrefill)


def calibrated(method: K, similarity: Tensor) -> K:
    """The method in a model of which that was measured."""
    measured = Calibration("kascade", 1, "m", "made ones", {"similarity": similarity})
    chosen, heads = _anchored(measured, method.anchors)
    return method._bound(measured=heads, chosen=chosen)


def held(mass: Array, other: Array, count: int) -> float:
    """The share of what its best tokens hold of a head's attention that the best of another one's do; over queries."""
    shares = []
    for own, theirs in zip(mass, other, strict=True):
        best, wanted = (top(x, count, set()) for x in (theirs, own))
        shares.append(own[best].sum() / own[wanted].sum())
    return float(np.mean(shares))


@pytest.mark.parametrize("plain", [True, False])
def test_shares_of_each_others_attention_are_measured(plain: bool) -> None:
    n_q, n_k = 100, 130
    softmax = Softmax() if plain else Softmax(sinks=torch.tensor([1.0, -1.0, 3.0, 0.0]))
    method, rows = KascadeDecode().under(softmax), np.linspace(50, 99, 50).round().astype(int)
    masses: list[list[Array]] = []
    sums: list[Tensor | None] = [None] * 3
    for prompt in range(2):
        handed: list[Tensor] = []
        masses.append([])
        for layer in range(3):
            q, k = make_sequence(n_q, n_k, 4, 2, 16, seed=10 * prompt + layer)
            sums[layer] = method.measure(sums[layer], q, k, handed)
            weights = attention(q, k)
            if not plain:
                scores = torch.einsum("nhd,mhd->hnm", q.double(), k.double().repeat_interleave(2, 1)) / 4
                scores.masked_fill_(torch.arange(n_k) > torch.arange(30, n_k)[:, None], float("-inf"))
                weights = softmax.of(slice(None), 4, 1).weights(scores).numpy()
            masses[-1].append(weights.reshape(2, 2, n_q, n_k).sum(1)[:, rows])
    found = method.tensors([x for x in sums if x is not None])["similarity"]
    assert found.shape == (3, 2, 3, 2)
    for layer in range(3):
        for earlier in range(layer + 1):
            for head in range(2):
                for other in range(2):
                    shares = [held(of[layer][head], of[earlier][other], n_k // 10) for of in masses]
                    assert float(found[layer, head, earlier, other]) == pytest.approx(np.mean(shares), abs=1e-4)
        assert (found[layer, :, layer + 1 :] == 0).all()
        torch.testing.assert_close(found[layer, :, layer].diagonal(), torch.ones(2))


def test_layers_that_differ_in_kv_heads_are_refused() -> None:
    """No head of one could say which head of the other it is like."""
    handed: list[Tensor] = []
    KascadeDecode().measure(None, *make_sequence(40, 40, 4, 2, 16), handed)
    with pytest.raises(UsageError, match=r"^method: 'kascade' .* differ in KV heads \(2 and 4\)") as error:
        KascadeDecode().measure(None, *make_sequence(40, 40, 4, 4, 16), handed)
    assert error.value.field == "method"


@settings(max_examples=60, deadline=None)
@given(layers=st.integers(1, 7), number=st.integers(1, 9), seed=st.integers(0, 999))
def test_the_anchors_are_optimal(layers: int, number: int, seed: int) -> None:
    similarity = torch.rand(layers, layers, generator=torch.Generator().manual_seed(seed)).tril()
    similarity.fill_diagonal_(1.0)

    def total(anchors: tuple[int, ...]) -> float:
        ends = [*anchors, layers]
        return sum(float(similarity[first:end, first].sum()) for first, end in pairwise(ends))

    every = [(0, *rest) for rest in combinations(range(1, layers), min(number, layers) - 1)]
    found = best_anchors(similarity, number)
    assert tuple(found) in every
    assert total(tuple(found)) == pytest.approx(max(map(total, every)), abs=1e-5)


SOURCES = [(0, 0, 1), (0, 1, 0), (0, 0, 1), (3, 0, 1), (3, 1, 0), (3, 1, 1)]
"""Of each layer under ``similar`` the anchor, and its heads."""


def similar() -> Tensor:
    """Layers 0 to 2 are alike, and 3 to 5; in odd layers heads have changed places, and in layer 5 both are one's."""
    similarity = torch.full((LAYERS, 2, LAYERS, 2), 0.1)
    for layer in range(LAYERS):
        for anchor in range(layer + 1):
            for head in range(2):
                other = 1 if layer == 5 else (head + layer + anchor) % 2
                similarity[layer, head, anchor, other] = 0.9 if layer // 3 == anchor // 3 else 0.2
        similarity[layer, :, layer] = torch.eye(2)
        similarity[layer, :, layer + 1 :] = 0
    return similarity


def step(number: int, handed: dict[object, PageIndex] | None) -> tuple[Tensor, PagedCache]:
    """Queries of a step of two sequences, and the cache of a layer."""
    rows = torch.randn(2, 2, 70, 16, generator=torch.Generator().manual_seed(number))
    q, _ = make_sequence(2, 2, 4, 2, 16, seed=number + 100)
    cache = PagedCache.contiguous(rows, rows, torch.tensor([70, 41], dtype=torch.int32))
    return q, replace(cache, layer=Layer(number, LAYERS), handed=handed)


def test_heads_read_the_selection_of_the_most_similar_head() -> None:
    method = calibrated(KascadeDecode(anchors=2, sparsity=0.7), similar())
    handed: dict[object, PageIndex] = {}
    found, alone = [], []
    for number in range(LAYERS):
        q, cache = step(number, None)
        alone.append(page_lists(method.select(q, cache, None, impl="torch")))
        q, cache = step(number, handed)
        found.append(page_lists(method.select(q, cache, None, impl="torch")))
    assert [method.selects(Layer(number, LAYERS)) for number in range(LAYERS)] == [True, False, False] * 2
    for lists, (anchor, *heads) in zip(found, SOURCES, strict=True):
        assert lists == [[sequence[head] for head in heads] for sequence in alone[anchor]]
    assert all(len(sequence[0]) == len(sequence[1]) for lists in found for sequence in lists)


def test_without_a_calibration_anchors_are_spread_and_heads_keep_their_number() -> None:
    method, handed = KascadeDecode(sparsity=0.7, anchors=2), dict[object, PageIndex]()
    found = []
    for number in range(LAYERS):
        q, cache = step(number, handed)
        found.append(page_lists(method.select(q, cache, None, impl="torch")))
    assert found[0] == found[1] == found[2] != found[3] == found[4] == found[5]
    assert [KascadeDecode(anchors=9).selects(Layer(number, LAYERS)) for number in range(LAYERS)] == [True] * LAYERS
    assert KascadeDecode().selects(ONLY)


@pytest.mark.parametrize(("layers", "heads"), [(LAYERS - 1, 2), (LAYERS, 1)])
def test_wrong_layers_or_heads_are_refused(layers: int, heads: int) -> None:
    method = calibrated(KascadeDecode(anchors=2, sparsity=0.7), similar()[:layers, :heads, :layers, :heads])
    handed: dict[object, PageIndex] = {}
    q, cache = step(0, handed)
    method.select(q, cache, None, impl="torch")
    q, cache = step(1, handed)
    with pytest.raises(UsageError, match=rf"kascade_decode\.calibration: .* has heads of \({layers}, {heads}\) layers"):
        method.select(q, cache, None, impl="torch")


def test_sequences_of_a_batch_are_measured_separately() -> None:
    pytest.importorskip("transformers")
    from sparse_tasks.attention.huggingface import attended_by

    model = small_llama(3)
    ids = torch.randint(1, 64, (2, 80))
    mask = torch.ones_like(ids)
    mask[1, :30] = 0
    together, alone = (
        Measuring(KascadeDecode(), model.config, "torch"),
        Measuring(KascadeDecode(), model.config, "torch"),
    )
    with torch.inference_mode():
        with attended_by(model, together):
            model(ids, attention_mask=mask)
        with attended_by(model, alone):
            model(ids[:1])
            model(ids[1:, 30:])
    assert (together.prompts, together.tokens) == (alone.prompts, alone.tokens) == (2, 130)
    found, expected = together.tensors()["similarity"], alone.tensors()["similarity"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found[2, :, 0] < 1).all()


@pytest.mark.parametrize(("n_q", "n_k", "block"), [(500, 500, 16), (170, 420, 32), (300, 300, 128)])
def test_blocks_follow_a_groups_attention_and_are_passed_on(n_q: int, n_k: int, block: int) -> None:
    number, own = (1 if block == 128 else 3), 128 // block
    method = calibrated(KascadePrefill(anchors=2, block=block, token_budget=number * block + 5), similar())
    handed: dict[object, Any] = {}
    expected = []
    for layer, (anchor, *heads) in enumerate(SOURCES):
        q, k = make_sequence(n_q, n_k, 4, 2, 16, seed=layer)
        index = method.in_layer(Layer(layer, LAYERS), handed).select(q * 3, k, impl="torch")
        assert index is not None
        assert (index.block_q, index.block_k) == (128, block)
        weights = attention(q * 3, k).reshape(2, 2, n_q, n_k).sum(1)
        first, lists = n_k - n_q, list[list[list[int]]]()
        for head in range(2):
            lists.append([])
            for row in range(first // 128, -(-n_k // 128)):
                of_tile = weights[head, max(0, row * 128 - first) : (row + 1) * 128 - first].sum(0)
                sums = np.array([of_tile[c * block : (c + 1) * block].sum() for c in range(row * own)])
                itself = [c for c in range(row * own, (row + 1) * own) if c * block < n_k]
                lists[-1].append([*top(sums, number, set()), *itself])
        expected.append(lists)
        assert block_lists(index) == [expected[anchor][head] for head in heads]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(130, 1500), sparsity=st.floats(0.05, 0.95), block=st.sampled_from([16, 32, 64, 128]))
def test_no_other_number_of_blocks_is_nearer(n: int, sparsity: float, block: int) -> None:
    q, k = make_sequence(n, n, 1, 1, 16)
    index = KascadePrefill(sparsity=sparsity, block=block).select(q, k, impl="torch")

    def off(number: int) -> float:
        of_rows = [min(number * block, row * 128) for row in range(-(-n // 128))]
        read = sum(of_rows[position // 128] + position % 128 + 1 for position in range(n))
        return abs(read / (n * (n + 1) / 2) - (1 - sparsity))

    density = 1.0 if index is None else float(index.density().mean())
    found = abs(density - (1 - sparsity))
    assert found == pytest.approx(min(off(number) for number in range(1, -(-n // block) + 1)), abs=1e-9)


def test_chunks_and_prompts_pass_on_separately() -> None:
    method, handed = KascadePrefill(anchors=1, sparsity=0.6), dict[object, Any]()
    q, k = make_sequence(600, 600, 4, 2, 16)
    whole = method.in_layer(Layer(0, 2), handed).select(q, k, impl="torch")
    again = method.in_layer(Layer(1, 2), handed)
    assert whole is not None
    assert again.select(q + 1, k - 1, impl="torch") is whole
    assert again.select(q[:500], k[:500], length=600, impl="torch") is not whole
    assert replace(method, sparsity=0.5).in_layer(Layer(1, 2), handed).select(q, k, impl="torch") is not whole
    assert method.in_layer(Layer(1, 2)).select(q, k, impl="torch") is not whole


@pytest.mark.parametrize("name", ["kascade_prefill", "kascade_prefill+delta"])
def test_layers_of_a_model_pass_on_a_prompts_selection(name: str) -> None:
    """In transformers, with two sequences of a batch; also where another method corrects it."""
    pytest.importorskip("transformers")
    from sparse_tasks.attention.attention import Attention
    from sparse_tasks.attention.huggingface import SparseRun, attended_by
    from sparse_tasks.attention.index import BlockIndex, CorrectedIndex

    found: dict[int, list[str]] = {}

    class Spy(SparseRun):
        def _count_prefill(self, number: int, indices: list[Any]) -> None:
            for index in indices:
                sparse = index.sparse if isinstance(index, CorrectedIndex) else index
                assert isinstance(sparse, BlockIndex)
                found.setdefault(number, []).append(str(block_lists(sparse)))
            super()._count_prefill(number, indices)

    model = small_llama(5)
    ids = torch.randint(1, 64, (2, 450))
    mask = torch.ones_like(ids)
    mask[1, :20] = 0
    arguments = {"kascade_prefill.anchors": 2}
    run = Spy(Attention.parse(name, sparsity=0.7, arguments=arguments), "torch")
    with torch.inference_mode(), attended_by(model, run):
        model(ids, attention_mask=mask)
    assert len(found[0]) == len(set(found[0])) == 2
    assert found[0] == found[1] != found[2] == found[3] == found[4]
