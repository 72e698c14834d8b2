"""Guards Tri-shape: the last queries of the whole prompt see everything, the others as StreamingLLM has it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.index import BlockIndex, LineIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.methods.tri_shape import TriShape
from sparse_tasks.attention.prefill import select_stretches, sparse_prefill
from tests.attention.methods.naive import attention, line_lists, make_sequence


def count(length: int, sinks: int, window: int, last: int) -> int:
    """Interactions, query by query."""
    return sum(p + 1 if p >= length - last else min(p + 1, sinks + window) for p in range(length))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 400), last=st.integers(0, 120), data=st.data())
def test_chunks_end_where_the_last_queries_begin(length: int, last: int, data: st.DataObject) -> None:
    n_k = data.draw(st.integers(1, length))
    n_q = data.draw(st.integers(1, n_k))
    stretches = TriShape(window=3, last=last).stretches(n_q, n_k, length)
    assert sum(stretches) == n_q
    assert min(stretches) >= 1
    dense = [position >= length - last for position in range(n_k - n_q, n_k)]
    assert len(stretches) == len(set(dense))
    assert len(set(dense[: stretches[0]])) == 1


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "length"),
    [(300, 300, 300), (90, 250, 250), (90, 250, 260), (90, 250, 400), (20, 250, 250)],
)
def test_the_last_queries_of_the_prompt_see_everything(impl: str, n_q: int, n_k: int, length: int) -> None:
    q, k = make_sequence(n_q, n_k, 4, 2, 16)
    method = TriShape(sinks=3, window=5, last=40)
    found = list(select_stretches(method, q, k, length=length, impl=impl))
    assert torch.equal(torch.cat([queries for queries, _ in found]), q)
    position = n_k - n_q
    for queries, index in found:
        position += len(queries)
        assert (index.n_q, index.n_k) == (len(queries), position)
        if position > length - 40:
            assert position - len(queries) >= length - 40
            assert index.density().tolist() == [1]
        else:
            assert isinstance(index, LineIndex)
            assert line_lists(index)[:2] == ([[0, 1, 2]], [[0, 1, 2, 3, 4]])
    asked = sum(float(i.selected_density()) * causal_count(i.n_q, i.n_k) for _, i in found)
    assert round(asked) == sum(p + 1 if p >= length - 40 else min(p + 1, 8) for p in range(n_k - n_q, n_k))


def test_attention_of_the_last_queries_is_dense() -> None:
    q, k = make_sequence(300, 300, 4, 2, 16)
    v = torch.randn(300, 2, 16, generator=torch.Generator().manual_seed(5))
    out, indices = sparse_prefill(TriShape(window=8, last=30), q, k, v, impl="torch")
    weights = torch.from_numpy(attention(q, k))
    dense = torch.einsum("hij,jhd->ihd", weights, v.double().repeat_interleave(2, 1))
    torch.testing.assert_close(out[-30:].double(), dense[-30:], rtol=1e-4, atol=1e-5)
    assert (out[128:-30].double() - dense[128:-30]).abs().amax((1, 2)).min() > 1e-3
    assert [type(index) for index in indices] == [LineIndex, BlockIndex]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 80), density=st.floats(0.001, 1), last=st.integers(0, 30))
def test_the_window_is_nearest_and_last_queries_leave_half(length: int, density: float, last: int) -> None:
    method = TriShape(sparsity=1 - density, last=last).at(length)
    assert method.window is not None
    wanted = (1 - (1 - density)) * causal_count(length, length)
    dense = sum(range(length - method.last + 1, length + 1))
    assert dense <= wanted / 2
    assert method.last == last or dense + length - method.last > wanted / 2
    error = abs(count(length, 4, method.window, method.last) - wanted)
    assert error <= min(abs(count(length, 4, w, method.last) - wanted) for w in range(1, length + 1)) + 1e-9


def test_long_prompts_have_all_of_the_last_queries() -> None:
    for sparsity in (0.33, 0.8, 0.95):
        method = TriShape(sparsity=sparsity).at(16_384)
        assert method.last == 100
        assert method.window is not None
        found = count(16_384, 4, method.window, 100) / causal_count(16_384, 16_384)
        assert found == pytest.approx(1 - sparsity, abs=1e-4)


def test_a_call_for_both_kinds_of_queries_sees_everything() -> None:
    q, k = make_sequence(200, 200, 2, 1, 16)
    assert TriShape(window=5, last=20).select(q, k, impl="torch") is None
    assert TriShape(window=5, last=20).select(q[:180], k[:180], length=200, impl="torch") is not None
