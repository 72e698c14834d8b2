"""Guards TidalDecode and LessIsMore: what layers select, like plain loops, and who reads what others have selected."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.handing import HandingMethod
from sparse_tasks.attention.methods.less_is_more import LessIsMore
from sparse_tasks.attention.methods.tidal import Tidal
from sparse_tasks.core.shape import Shape
from tests.attention.methods.naive import Array, attention, make_sequence, page_lists, top
from tests.attention.toys import small_llama

LENGTHS = (70, 33, 9)
LAYERS = 8


def made(seed: int) -> tuple[Tensor, list[Tensor], PagedCache]:
    """Queries of a step, ``[batch, 4, 16]``, keys of each sequence, and their cache."""
    rows = torch.randn(len(LENGTHS), 2, max(LENGTHS), 16, generator=torch.Generator().manual_seed(seed))
    q, _ = make_sequence(len(LENGTHS), 1, 4, 2, 16, seed=seed + 100)
    cache = PagedCache.contiguous(rows, rows, torch.tensor(LENGTHS, dtype=torch.int32))
    return q, [row[:, :n].transpose(0, 1) for row, n in zip(rows, LENGTHS, strict=True)], cache


def weights(q: Tensor, k: Tensor) -> Array:
    """True attention of a query, summed over groups: ``[kv_heads, n]``."""
    summed: Array = attention(q[None], k)[:, 0].reshape(2, 2, -1).sum(1)
    return summed


def test_tidal_selects_by_the_true_attention() -> None:
    q, keys, cache = made(0)
    found = page_lists(Tidal(token_budget=9).select(q, cache, None, impl="torch"))
    for row, k in enumerate(keys):
        assert found[row] == [top(head, 9, {len(k) - 1}) for head in weights(q[row], k)]


@pytest.mark.parametrize("recent", [0.0, 0.25, 1.0])
def test_less_is_more_takes_the_best_of_each_head_in_turn(recent: float) -> None:
    q, keys, cache = made(1)
    found = page_lists(LessIsMore(token_budget=9, recent=recent).select(q, cache, None, impl="torch"))
    for row, k in enumerate(keys):
        n = len(k)
        ranks = [sorted(range(n), key=lambda i, head=head: (-head[i], i)) for head in weights(q[row], k)]  # type: ignore[misc]
        always = {n - 1, *range(max(0, n - math.ceil(9 * recent)), n)}
        best = sorted(set(range(n)) - always, key=lambda i: (min(rank.index(i) for rank in ranks), i))
        expected = sorted([*always, *best][: min(n, 9)] if len(always) < 9 else sorted(always)[-9:])
        assert found[row] == [expected, expected]


@pytest.mark.parametrize("kind", [Tidal, LessIsMore])
def test_layers_read_the_selection_of_the_last_selecting_layer(kind: type[HandingMethod]) -> None:
    method = kind(sparsity=0.7, first=2, again=5)
    handed: dict[object, PageIndex] = {}
    found, alone = [], []
    for number in range(LAYERS):
        q, _, cache = made(number)
        cache = replace(cache, layer=Layer(number, LAYERS))
        alone.append(page_lists(method.select(q, cache, None, impl="torch")))
        found.append(page_lists(method.select(q, replace(cache, handed=handed), None, impl="torch")))
    assert [number for number in range(LAYERS) if method.selects(Layer(number, LAYERS))] == [0, 1, 5]
    for number, source in enumerate((0, 1, 1, 1, 1, 5, 5, 5)):
        assert found[number] == alone[source]
    assert len({str(lists) for lists in alone}) == LAYERS


def test_two_attentions_of_a_step_pass_on_separately() -> None:
    handed: dict[object, PageIndex] = {}
    q, _, cache = made(0)
    few, many = Tidal(token_budget=3), Tidal(token_budget=9)
    for method in (few, many):
        method.select(q, replace(cache, handed=handed), None, impl="torch")
    below = replace(cache, layer=Layer(4, LAYERS), handed=handed)
    assert few.select(q, below, None, impl="torch").counts.tolist() == [[3, 3]] * 3
    assert many.select(q, below, None, impl="torch").counts.tolist() == [[9, 9]] * 3


def test_selecting_layers_read_every_key() -> None:
    shape = Shape(
        hidden_size=64, layers=8, query_heads=4, kv_heads=2, head_size=16, mlp_size=64, vocabulary=100,
        tied_embeddings=True, window=None, windowed_layers=0, experts=0, active_experts=0, expert_size=0,
        shared_expert_size=0, dense_layers=0,
    )  # fmt: skip
    assert Tidal(first=2, again=5).index_reads(shape, 1000) == 2 * 16 * 1000 * 3 / 8
    assert Tidal(first=2, again=90).index_reads(shape, 1000) == 2 * 16 * 1000 * 2 / 8


@pytest.mark.parametrize("name", ["tidal", "less_is_more"])
def test_layers_of_a_model_pass_on_selections(name: str) -> None:
    """In transformers, with two sequences of a batch, step by step."""
    pytest.importorskip("transformers")
    from sparse_tasks.attention.attention import Attention
    from sparse_tasks.attention.huggingface import SparseRun, attended_by

    found: dict[int, list[str]] = {}

    class Spy(SparseRun):
        def _count_decode(self, number: int, index: PageIndex, cached: int) -> None:
            found.setdefault(number, []).append(str(page_lists(index)))
            super()._count_decode(number, index, cached)

    model = small_llama(5)
    ids = torch.randint(1, 64, (2, 60))
    mask = torch.ones_like(ids)
    mask[1, :20] = 0
    arguments = {"first": 1, "again": 3}
    run = Spy(Attention.parse(name, sparsity=0.8, arguments=arguments), "torch")
    with torch.inference_mode(), attended_by(model, run):
        model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert len(found[0]) == 2 * 4
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4]
    assert found[0] != found[3]
    density = run.density("decode")
    assert density is not None
    assert density.computed == pytest.approx(0.2, abs=0.02)
