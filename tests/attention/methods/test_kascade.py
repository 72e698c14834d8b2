"""Guards Kascade: what is measured of heads, like plain loops; the best anchors of all; who reads whose tokens."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

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
from sparse_tasks.attention.methods.kascade import Kascade, _anchored
from sparse_tasks.attention.ops.anchors import best_anchors
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import Array, attention, make_sequence, page_lists, top

LAYERS = 6


def calibrated(similarity: Tensor, anchors: int, **settings: float) -> Kascade:
    """The method in a model of which that was measured."""
    measured = Calibration("kascade", 1, "m", "made ones", {"similarity": similarity})
    chosen, heads = _anchored(measured, anchors)
    return Kascade(anchors=anchors, **settings)._bound(measured=heads, chosen=chosen)  # type: ignore[arg-type]


def held(mass: Array, other: Array, count: int) -> float:
    """The share of what its best tokens hold of a head's attention that the best of another one's do; over queries."""
    shares = []
    for own, theirs in zip(mass, other, strict=True):
        best, wanted = (top(x, count, set()) for x in (theirs, own))
        shares.append(own[best].sum() / own[wanted].sum())
    return float(np.mean(shares))


@pytest.mark.parametrize("plain", [True, False])
def test_measured_is_what_heads_hold_of_each_others_attention(plain: bool) -> None:
    n_q, n_k = 100, 130
    softmax = Softmax() if plain else Softmax(sinks=torch.tensor([1.0, -1.0, 3.0, 0.0]))
    method, rows = Kascade().under(softmax), np.linspace(50, 99, 50).round().astype(int)
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


@settings(max_examples=60, deadline=None)
@given(layers=st.integers(1, 7), number=st.integers(1, 9), seed=st.integers(0, 999))
def test_no_other_anchors_hold_more(layers: int, number: int, seed: int) -> None:
    similarity = torch.rand(layers, layers, generator=torch.Generator().manual_seed(seed)).tril()
    similarity.fill_diagonal_(1.0)

    def total(anchors: tuple[int, ...]) -> float:
        ends = [*anchors, layers]
        return sum(float(similarity[first:end, first].sum()) for first, end in pairwise(ends))

    every = [(0, *rest) for rest in combinations(range(1, layers), min(number, layers) - 1)]
    found = best_anchors(similarity, number)
    assert tuple(found) in every
    assert total(tuple(found)) == pytest.approx(max(map(total, every)), abs=1e-5)


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


def test_heads_read_what_those_most_like_them_have_selected() -> None:
    method = calibrated(similar(), 2, sparsity=0.7)
    handed: dict[object, PageIndex] = {}
    found, alone = [], []
    for number in range(LAYERS):
        q, cache = step(number, None)
        alone.append(page_lists(method.select(q, cache, None, impl="torch")))
        q, cache = step(number, handed)
        found.append(page_lists(method.select(q, cache, None, impl="torch")))
    assert [method.selects(Layer(number, LAYERS)) for number in range(LAYERS)] == [True, False, False] * 2
    sources = [(0, 0, 1), (0, 1, 0), (0, 0, 1), (3, 0, 1), (3, 1, 0), (3, 1, 1)]
    for lists, (anchor, *heads) in zip(found, sources, strict=True):
        assert lists == [[sequence[head] for head in heads] for sequence in alone[anchor]]
    assert all(len(sequence[0]) == len(sequence[1]) for lists in found for sequence in lists)


def test_without_a_calibration_anchors_are_spread_and_heads_stay() -> None:
    method, handed = Kascade(sparsity=0.7, anchors=2), dict[object, PageIndex]()
    found = []
    for number in range(LAYERS):
        q, cache = step(number, handed)
        found.append(page_lists(method.select(q, cache, None, impl="torch")))
    assert found[0] == found[1] == found[2] != found[3] == found[4] == found[5]
    assert [Kascade(anchors=9).selects(Layer(number, LAYERS)) for number in range(LAYERS)] == [True] * LAYERS
    assert Kascade().selects(ONLY)


@pytest.mark.parametrize(("layers", "heads"), [(LAYERS - 1, 2), (LAYERS, 1)])
def test_another_number_of_layers_or_heads_is_refused(layers: int, heads: int) -> None:
    method = calibrated(similar()[:layers, :heads, :layers, :heads], 2, sparsity=0.7)
    handed: dict[object, PageIndex] = {}
    q, cache = step(0, handed)
    method.select(q, cache, None, impl="torch")
    q, cache = step(1, handed)
    with pytest.raises(UsageError, match=rf"kascade\.calibration: .* has heads of \({layers}, {heads}\) layers"):
        method.select(q, cache, None, impl="torch")


def test_sequences_of_a_batch_are_measured_as_if_alone() -> None:
    transformers = pytest.importorskip("transformers")
    from sparse_tasks.attention.huggingface import attended_by

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(1, 64, (2, 80))
    mask = torch.ones_like(ids)
    mask[1, :30] = 0
    together, alone = Measuring(Kascade(), config, "torch"), Measuring(Kascade(), config, "torch")
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
