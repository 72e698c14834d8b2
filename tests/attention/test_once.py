"""Guards what is made once from lengths: the same for all layers, of each kind of arguments its own, bounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sparse_tasks.attention.index import BlockIndex, LineIndex
from sparse_tasks.attention.kernels.block_sparse import dense_index
from sparse_tasks.attention.method import METHODS, PrefillMethod
from sparse_tasks.attention.once import ENTRIES, cached_result, numbers_on
from sparse_tasks.attention.prefill import select_stretches
from tests.attention.methods.naive import make_sequence

CPU = torch.device("cpu")


def test_layers_share_tensors_that_depend_on_lengths() -> None:
    for name in ("streaming_llm", "tri_shape", "window_prefill"):
        method = METHODS.get(name)(sparsity=0.8)
        assert isinstance(method, PrefillMethod)
        layers = [
            [index for _, index in select_stretches(method, *make_sequence(700, 700, 2, 1, 16), impl="torch")]
            for _ in range(2)
        ]
        assert [id(index) for index in layers[0]] == [id(index) for index in layers[1]]


@pytest.mark.parametrize(
    ("n_q", "n_k", "sparsity"), [(700, 700, 0.8), (100, 700, 0.8), (700, 700, 0.7), (600, 600, 0.8)]
)
def test_lengths_and_sparsities_have_separate_entries(n_q: int, n_k: int, sparsity: float) -> None:
    method = METHODS.get("streaming_llm")(sparsity=sparsity, sinks=4)
    assert isinstance(method, PrefillMethod)
    index = method.select(*make_sequence(n_q, n_k, 2, 1, 16), impl="torch")
    assert isinstance(index, LineIndex)
    assert (index.n_q, index.n_k) == (n_q, n_k)
    assert index.slashes is not None
    assert index.slashes.shape[1] == method.at(n_k).window  # type: ignore[attr-defined]


def test_small_dense_indices_are_cached() -> None:
    small, large = (700, 700), (40_000, 40_000)
    for n_q, n_k in (small, large, (90, 300)):
        index, expected = dense_index(CPU, n_q, n_k), BlockIndex.dense(n_q, n_k, 128, 128)
        assert torch.equal(index.blocks, expected.blocks)
        assert torch.equal(index.counts, expected.counts)
        assert (index.n_q, index.n_k) == (n_q, n_k)
    assert dense_index(CPU, *small) is dense_index(CPU, *small)
    assert dense_index(CPU, *large) is not dense_index(CPU, *large)


def test_the_cache_is_bounded_and_has_no_inference_tensors() -> None:
    calls = []

    @cached_result
    def zeros(device: torch.device, size: int) -> Tensor:
        calls.append(size)
        return torch.zeros(size, device=device)

    with torch.inference_mode():
        assert not zeros(CPU, 3).is_inference()
    for size in [3, *range(10, 10 + ENTRIES), 3]:
        assert len(zeros(CPU, size)) == size
    assert calls == [3, *range(10, 10 + ENTRIES), 3]


def test_fake_tensors_are_not_cached() -> None:
    for _ in range(2):
        with FakeTensorMode():
            method = METHODS.get("streaming_llm")(sparsity=0.8)
            assert isinstance(method, PrefillMethod)
            assert method.select(torch.empty(90, 2, 16), torch.empty(901, 1, 16), impl="torch") is not None
    index = method.select(torch.zeros(90, 2, 16), torch.zeros(901, 1, 16), impl="torch")
    assert isinstance(index, LineIndex)
    assert int(index.column_counts) == 4


def test_host_numbers_are_copied_once() -> None:
    rows = ((3, 1), (0, 2))
    with FakeTensorMode():
        assert numbers_on(CPU, rows).shape == (2, 2)
    with torch.inference_mode():
        numbers = numbers_on(CPU, rows)
    assert numbers is numbers_on(CPU, rows)
    assert numbers.tolist() == [[3, 1], [0, 2]]
    assert not numbers.is_inference()
