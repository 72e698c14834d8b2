"""Guards the prompt: in one piece, in stretches and in chunks it comes out the same, and as the reference says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, LineIndex
from sparse_tasks.attention.method import PrefillMethod
from sparse_tasks.attention.ops.lines import line_index
from sparse_tasks.attention.prefill import attend, sparse_prefill
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.core.errors import UsageError
from tests.attention.toys import BLOCK, Loud, Near


def make(n: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    maker = torch.Generator().manual_seed(n)
    return [torch.randn(n, heads, 16, generator=maker).to(dtype) for heads in (4, 2, 2)]


def near(n_q: int, n_k: int, blocks: int) -> Tensor:
    """Mask of ``Near``, bool ``[n_q, n_k]``."""
    rows = [
        [j <= i and (j < BLOCK or i // BLOCK - j // BLOCK < blocks) for j in range(n_k)] for i in range(n_k - n_q, n_k)
    ]
    return torch.tensor(rows)


def masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float | None = None) -> Tensor:
    """By torch."""
    out: Tensor = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (q, k, v)), attn_mask=seen, scale=scale, enable_gqa=True
    )
    return out.transpose(0, 1)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [0, 1, 16, 50, 64, 1000])
@pytest.mark.parametrize(("n_q", "n_k"), [(130, 130), (70, 150), (1, 99)])
def test_chunked_queries_match_one_call(at_once: int, n_q: int, n_k: int) -> None:
    """Also where they begin within a block, and where the first are so short that they see everything."""
    q, k, v = make(n_k)
    out, indices = sparse_prefill(Near(near=3, at_once=at_once), q[-n_q:], k, v, impl="torch")
    same(out, masked(q[-n_q:], k, v, near(n_q, n_k, 3)))
    assert sum(index.n_q for index in indices) == n_q
    end = n_k - n_q
    for index in indices:
        end += index.n_q
        assert index.n_k == end
        assert index.n_q <= (at_once or n_q)
    assert sum(int(index.seen()) for index in indices if isinstance(index, BlockIndex)) == near(n_q, n_k, 3).sum()


@pytest.mark.parametrize("cuts", [[40, 200], [1, 65, 130, 200], [16, 17, 18, 200]])
@pytest.mark.parametrize("at_once", [0, 48])
def test_prompt_chunks_match_one_call(cuts: list[int], at_once: int) -> None:
    """The budget is that of the whole prompt, whose length they are told."""
    q, k, v = make(200)
    method = Near(sparsity=0.75, at_once=at_once)
    whole, _ = sparse_prefill(method, q, k, v, impl="torch")
    pieces = [
        sparse_prefill(method, q[start:end], k[:end], v[:end], length=200, impl="torch")[0]
        for start, end in zip([0, *cuts], cuts, strict=False)
    ]
    same(torch.cat(pieces), whole)
    same(whole, masked(q, k, v, near(200, 200, 3)))  # a quarter of 200 is three blocks


def test_without_a_length_the_budget_is_that_of_the_keys() -> None:
    q, k, v = make(160)
    for n_k, blocks in ((160, 5), (96, 3)):
        out, _ = sparse_prefill(Near(sparsity=0.5), q[:n_k], k[:n_k], v[:n_k], impl="torch")
        same(out, masked(q[:n_k], k[:n_k], v[:n_k], near(n_k, n_k, blocks)))


@pytest.mark.parametrize("method", [None, Near(near=99), Near(near=99, at_once=32)])
def test_dense_is_dense(method: PrefillMethod | None) -> None:
    """Where there is no method, or where it says that everything is seen."""
    q, k, v = make(150)
    out, indices = sparse_prefill(method, q[70:], k, v, impl="torch")
    same(out, attention_reference(q[70:], k, v))
    assert all((index.density() == 1).all() for index in indices)


def test_the_scale_reaches_the_kernel() -> None:
    q, k, v = make(80)
    out, _ = sparse_prefill(Near(near=2, at_once=40), q, k, v, scale=0.6, impl="torch")
    same(out, masked(q, k, v, near(80, 80, 2), scale=0.6))


def lines(n_q: int, n_k: int) -> LineIndex:
    """The first key, and the last tile."""
    one, zero = torch.ones(1, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    return line_index(zero, one, zero, one, block_q=64, unit=64, n_q=n_q, n_k=n_k, impl="torch")


@dataclass(frozen=True)
class Lines(PrefillMethod):
    """A method that selects lines."""

    name: ClassVar[str] = "lines"
    exact: ClassVar[bool] = True

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> LineIndex:
        return lines(len(q), len(k))


def test_each_type_of_index_has_its_kernel() -> None:
    q, k, v = make(150)
    position = torch.arange(150)
    tile = position[:, None] // 64 == position // 64
    seen = (tile | (position == 0)) & (position <= position[:, None])
    out, indices = sparse_prefill(Lines(), q[60:], k, v, impl="torch")
    assert isinstance(indices[0], LineIndex)
    same(out, masked(q[60:], k, v, seen[60:]))
    same(attend(q, k, v, lines(150, 150), scale=0.1, impl="torch"), masked(q, k, v, seen, scale=0.1))
    blocks = BlockIndex.dense(150, 150, 64, 64)
    same(
        attend(q, k, v, blocks, scale=0.1, impl="torch"),
        masked(q, k, v, torch.ones(150, 150).tril().bool(), scale=0.1),
    )


@pytest.mark.parametrize(
    ("method", "length", "field"),
    [("near", None, "method"), (Near, None, "method"), (Loud(), None, "method"), (Near(), 9, "length")],
)
def test_other_objects_and_too_short_a_length_are_refused(method: Any, length: int | None, field: str) -> None:
    q = torch.randn(10, 2, 16)
    with pytest.raises(UsageError) as error:
        sparse_prefill(method, q, q, q, length=length, impl="torch")
    assert error.value.field == field


def test_arrays_are_refused() -> None:
    array: Any = torch.randn(10, 2, 16).numpy()
    with pytest.raises(UsageError, match=r"torch\.as_tensor"):
        sparse_prefill(None, array, array, array, impl="torch")
