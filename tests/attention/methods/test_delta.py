"""Guards Delta attention: each anchor's difference corrects the queries up to the next one, and is counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.index import CorrectedIndex
from sparse_tasks.attention.inspection import seen_of_dense
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.method import METHODS, Correction, Phase, PrefillMethod
from sparse_tasks.attention.methods.delta import Delta
from sparse_tasks.attention.methods.vertical_slash import VerticalSlash
from sparse_tasks.attention.ops import correction
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import index_reference
from tests.attention.vllm.served import HEADS, Alone, Served, Text, same
from tests.methods import OURS

OTHERS = [
    name for name in OURS if METHODS.get(name).phase is Phase.PREFILL and not issubclass(METHODS.get(name), Correction)
]


def prefill(name: str, sparsity: float = 0.8, **arguments: object) -> PrefillMethod:
    method = Attention.parse(name, sparsity=sparsity, arguments=arguments).prefill
    assert method is not None
    return method


@pytest.mark.parametrize("name", OTHERS)
def test_any_prefill_method_can_be_corrected(name: str) -> None:
    q, k, v = structured(700, 4, 2, 32, seed=1)
    out, indices = sparse_prefill(prefill(f"{name}+delta"), q, k, v, impl="torch")
    assert any(isinstance(index, CorrectedIndex) for index in indices)
    expected = [index_reference(q[i.n_k - i.n_q : i.n_k], k[: i.n_k], v[: i.n_k], i) for i in indices]
    torch.testing.assert_close(out, torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softmax", [Softmax(), Softmax(sinks=torch.tensor([1.0, -2.0, 4.0, 0.0]), soft_cap=3.0)])
@pytest.mark.parametrize(("n_q", "n_k", "every"), [(300, 300, 64), (131, 300, 50), (130, 257, 300), (5, 200, 8)])
def test_like_naive_in_chunks_and_under_any_softmax(
    n_q: int, n_k: int, every: int, softmax: Softmax, dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correction, "_ROWS", rows)
    q, k, v = (x.to(dtype) for x in structured(n_k, 4, 2, 32, seed=n_q))
    method = prefill("streaming_llm+delta", 0.7, **{"delta.every": every})
    out, (index,) = sparse_prefill(method, q[-n_q:], k, v, softmax=softmax, impl="torch")
    assert isinstance(index, CorrectedIndex)
    assert index.every == every
    expected = index_reference(q[-n_q:], k, v, index, softmax=softmax)
    tolerance = 1e-4 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)
    # Anchors are dense.
    dense = attention_reference(q[-n_q:], k, v, softmax=softmax)
    places = [row for row in range(n_q) if row == 0 or (n_k - n_q + row) % every == 0]
    torch.testing.assert_close(out[places].float(), dense[places], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n_q", "n_k"), [(700, 700), (333, 700), (700 - 128, 700), (1, 700)])
def test_anchors_are_counted_in_addition_to_the_index(n_q: int, n_k: int) -> None:
    q, k, v = structured(n_k, 4, 2, 32)
    for name in ("vertical_slash+delta", "block_sparse+delta"):
        _, (index,) = sparse_prefill(prefill(name), q[-n_q:], k, v, impl="torch")
        assert isinstance(index, CorrectedIndex)
        first = n_k - n_q
        dense = sum(p + 1 for p in range(first, n_k) if p == first or p % 64 == 0)
        assert torch.equal(index.computed(), index.sparse.computed() + dense)
        of_selected = (index.selected_density() - index.sparse.selected_density()) * causal_count(n_q, n_k)
        assert of_selected.tolist() == pytest.approx([dense] * len(of_selected))
        seen = index.sparse.pattern().mask(n_q, n_k)
        for row in range(n_q):
            if row == 0 or (first + row) % 64 == 0:
                seen[:, row, : first + row + 1] = True
        assert torch.equal(index.pattern().mask(n_q, n_k), seen)


def test_sparsity_is_that_of_both() -> None:
    q, k, v = structured(6000, 4, 2, 32)
    for sparsity in (0.5, 0.9, 0.95):
        _, indices = sparse_prefill(prefill("vertical_slash+delta", sparsity), q, k, v, impl="torch")
        assert float(indices[0].density().mean()) == pytest.approx(1 - sparsity, abs=0.005)
        assert isinstance(indices[0], CorrectedIndex)
        # Dense queries take no more than half of what is left.
        assert indices[0].every == max(64, math.ceil(2 / (1 - sparsity)))


def test_attention_is_dense_if_anchors_cost_more_than_sparsity_saves() -> None:
    q, k, v = structured(600, 4, 2, 32)
    out, (index,) = sparse_prefill(prefill("vertical_slash+delta", 0.01), q, k, v, impl="torch")
    assert not isinstance(index, CorrectedIndex)
    assert index.density().tolist() == [1.0]
    torch.testing.assert_close(out, attention_reference(q, k, v), rtol=1e-4, atol=1e-4)


def test_composition_is_by_name_in_any_order_and_parameters_have_their_owners() -> None:
    arguments = {"delta.every": 32, "vertical_slash.window": 16, "quest.page": 32}
    both = Attention.parse("vertical_slash+delta+quest", sparsity=0.9, arguments=arguments)
    assert both.prefill == Delta(of=VerticalSlash(sparsity=0.9, window=16), every=32)
    assert [method.name for method in both.methods] == ["delta", "quest"]
    assert both.label == "vertical_slash+delta+quest-0.9"
    assert both.oracle.method == "oracle_lines+oracle_decode"
    again = Attention.parse("quest+delta+vertical_slash", sparsity=0.9, arguments=arguments)
    assert again.methods == both.methods
    alone = Attention.parse("delta", sparsity=0.9)
    assert alone.prefill != both.prefill
    assert alone.prefill != Attention.parse("vertical_slash+delta", sparsity=0.9).prefill
    copied = Attention.of(*both.methods)
    assert (copied.method, copied.methods) == (both.method, both.methods)


@pytest.mark.parametrize("name", ["delta+delta", "vertical_slash+block_sparse+delta", "vertical_slash+delta+delta"])
def test_a_method_is_corrected_only_once(name: str) -> None:
    with pytest.raises(UsageError, match="one for prefill and one for decode or evict"):
        Attention.parse(name, sparsity=0.9)


def test_needs_come_from_the_corrected_method() -> None:
    assert prefill("vertical_slash+delta").observes == VerticalSlash().observes
    assert (Delta().exact, prefill("vertical_slash+delta").exact) == (True, False)
    assert (Delta().any_softmax, prefill("xattention+delta").any_softmax) == (True, False)
    with pytest.raises(UsageError, match="does not go with a model that has a soft cap"):
        prefill("xattention+delta").under(Softmax(soft_cap=3.0))


@pytest.mark.parametrize("cells", [1, 1 << 24])
def test_errors_come_from_the_corrected_method(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_tasks.attention.inspection._CELLS", cells)
    q, k, v = structured(300, 4, 2, 32, seed=2)
    method = prefill("block_sparse+delta", 0.7, **{"block_sparse.block": 16})
    out, (index,) = sparse_prefill(method, q[50:], k, v, impl="torch")
    assert isinstance(index, CorrectedIndex)
    dense, (held, _, off, norm) = seen_of_dense(q[50:], k, v, index.sparse.pattern(), every=index.every)
    torch.testing.assert_close(off.float(), (out - dense).square().sum((0, 2)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.float(), dense.square().sum((0, 2)), rtol=1e-3, atol=1e-3)
    _, (uncorrected, *_) = seen_of_dense(q[50:], k, v, index.pattern())
    torch.testing.assert_close(held, uncorrected, rtol=1e-4, atol=1e-4)


def test_a_correction_brings_a_window_nearer_to_dense_attention_at_the_same_sparsity() -> None:
    """The point of the method: values that all queries far away would see are missing in a window alone."""
    q, k, v = structured(3000, 4, 2, 32, seed=3)
    v = v + 2.0 * torch.linspace(-1, 1, len(v))[:, None, None]
    dense = attention_reference(q, k, v)
    off = {}
    for name in ("streaming_llm", "streaming_llm+delta"):
        out, _ = sparse_prefill(prefill(name, 0.9), q, k, v, impl="torch")
        off[name] = float((out - dense).norm() / dense.norm())
    assert off["streaming_llm+delta"] < 0.7 * off["streaming_llm"]


def test_vllm_matches_the_single_sequence() -> None:
    attention = Attention.of(*(replace(m, sparsity=0.6) for m in (METHODS.get("block_sparse")(block=16), Delta())))
    assert attention.method == "block_sparse+delta"
    text = Text("a", 400, 2, 1)
    served, cuts = Served(attention), [150, 290, 400]
    served.add(text)
    found = [served.step(a=count)["a"] for count in (150, 140, 110)]
    alone = Alone(attention, text)
    same(torch.cat(found, 1), alone.chunks(*cuts))
    served.step(a=1)
    assert served.session.counter is not None
    taken = served.session.counter.take("a")
    assert taken is not None
    assert taken["prefill"]["densities"] == pytest.approx(alone.computed, rel=1e-9)
    assert len(alone.computed) == 2 * HEADS
    assert max(alone.computed) < 0.8
