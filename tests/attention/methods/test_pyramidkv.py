"""Guards PyramidKV: capacities are linear over the layers and sum to the budget; within a layer it is SnapKV."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.pyramidkv import PyramidKV
from sparse_tasks.attention.methods.snapkv import SnapKV
from tests.attention.methods.naive import kept_lists, make_sequence


def over_layers(method: PyramidKV, n_k: int, layers: int) -> list[int]:
    return [method.tokens(n_k, n_k, Layer(i, layers)) for i in range(layers)]


@settings(max_examples=100, deadline=None)
@given(
    n_k=st.integers(1, 200_000), capacity=st.integers(1, 250_000), layers=st.integers(1, 80), beta=st.integers(1, 40)
)
def test_linear_capacities_sum_to_the_budget(n_k: int, capacity: int, layers: int, beta: int) -> None:
    found = over_layers(PyramidKV(capacity=capacity, beta=beta), n_k, layers)
    mean = min(capacity, n_k)
    assert sum(found) == layers * mean
    assert min(found) >= 1
    assert max(found) <= n_k
    if layers > 1:
        last = max(mean / beta, 1, 2 * mean - n_k)
        step = 2 * (mean - last) / (layers - 1)
        for i, tokens in enumerate(found):
            assert abs(tokens - (last + step * (layers - 1 - i))) < 1 + 1e-6


def test_an_example() -> None:
    # From 1950 to 50 in steps of 633 and a third.
    assert over_layers(PyramidKV(capacity=1000), 100_000, 4) == [1950, 1316, 684, 50]
    assert over_layers(PyramidKV(capacity=1000, beta=1), 100_000, 3) == [1000, 1000, 1000]
    # The first layer has no more than the prompt: 1200 to 800.
    assert over_layers(PyramidKV(capacity=1000), 1200, 3) == [1200, 1000, 800]


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_each_layer_keeps_as_snapkv_does(impl: str) -> None:
    q, k = make_sequence(30, 90, 4, 2, 64)
    method = PyramidKV(capacity=20, beta=4, window=16, kernel=3, sinks=2, recent=8)
    for i, capacity in enumerate((35, 20, 5)):
        same = SnapKV(capacity=capacity, window=16, kernel=3, sinks=2, recent=8)
        kept = method.keep(q, k, layer=Layer(i, 3), impl=impl)
        assert kept_lists(kept) == kept_lists(same.keep(q, k, impl=impl))
        assert kept.counts.tolist() == [capacity] * 2


def test_a_model_of_one_layer_and_the_default() -> None:
    q, k = make_sequence(2, 1100, 2, 2, 16)
    assert PyramidKV().keep(q, k, impl="torch").counts.tolist() == [1024, 1024]
    assert PyramidKV(sparsity=0.5).keep(q, k, impl="torch").counts.tolist() == [550, 550]
