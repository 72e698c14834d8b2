"""Guards block-sparse attention: kernel and twin against fp32, on ragged shapes, with NaN in all that is not theirs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.block_sparse import block_sparse_attention
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.prompts import attention_in, check, close, epsilon, make_prompt
from tests.attention.toys import block_index

KERNELS = ["triton", "torch"]
# Triton's interpreter multiplies bfloat16 as integers, so 16-bit types are float16 there.


def make_index(n_q: int, n_k: int, block_q: int, block_k: int, heads: int, seed: int, share: float = 0.5) -> BlockIndex:
    """Random blocks in lists with garbage past their counts."""
    maker = torch.Generator().manual_seed(seed)
    rows, columns = BlockIndex.rows(n_q, n_k, block_q), ceil_div(n_k, block_k)
    kept = torch.rand(heads, rows, columns, generator=maker) < share
    index = block_index(kept, block_q, block_k, n_q, n_k)
    return poison(index)


def poison(index: BlockIndex) -> BlockIndex:
    """With garbage past the counts, and room for more of it."""
    blocks = torch.nn.functional.pad(index.blocks, (0, 3))
    past = torch.arange(blocks.shape[2]) >= index.counts[..., None]
    garbage = torch.tensor([2**31 - 1, -5, 10**6], dtype=torch.int32).repeat(ceil_div(blocks.shape[2], 3))
    return dataclasses.replace(index, blocks=torch.where(past, garbage[: blocks.shape[2]], blocks))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "block_q", "block_k", "index_heads", "dtype"),
    [
        (200, 200, 4, 2, 64, 64, 64, 2, torch.float16),
        (130, 130, 2, 2, 96, 128, 64, 2, torch.float32),
        (100, 100, 4, 1, 128, 32, 32, 4, torch.float16),
        (140, 140, 2, 1, 16, 128, 32, 2, torch.float32),
        (90, 300, 2, 1, 16, 128, 16, 1, torch.float16),
        (140, 140, 2, 2, 64, 16, 128, 2, torch.float16),
        pytest.param(130, 130, 4, 2, 80, 128, 128, 4, torch.float16, marks=pytest.mark.nightly),
        pytest.param(100, 100, 8, 1, 32, 16, 16, 8, torch.float32, marks=pytest.mark.nightly),
        pytest.param(70, 70, 1, 1, 256, 64, 64, 1, torch.float16, marks=pytest.mark.nightly),
        pytest.param(70, 70, 2, 1, 48, 64, 16, 1, torch.float32, marks=pytest.mark.nightly),
        # Chunks: from within a tile, from its border, from within a query block of a gathered tile, one token.
        (75, 205, 4, 2, 64, 64, 64, 4, torch.float16),
        (64, 192, 2, 1, 32, 64, 64, 1, torch.float32),
        (61, 200, 2, 1, 64, 16, 64, 2, torch.float32),
        (1, 130, 8, 2, 64, 64, 64, 2, torch.float32),
        (5, 5, 1, 1, 16, 16, 16, 1, torch.float32),
        pytest.param(90, 210, 2, 2, 64, 32, 16, 2, torch.float16, marks=pytest.mark.nightly),
        pytest.param(33, 161, 2, 1, 64, 128, 128, 1, torch.float32, marks=pytest.mark.nightly),
        pytest.param(1, 83, 2, 1, 16, 16, 16, 2, torch.float16, marks=pytest.mark.nightly),
    ],
)
def test_like_fp32(
    impl: str,
    n_q: int,
    n_k: int,
    heads: int,
    kv_heads: int,
    size: int,
    block_q: int,
    block_k: int,
    index_heads: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    index = make_index(n_q, n_k, block_q, block_k, index_heads, seed)
    check(make_prompt(n_q, n_k, heads, kv_heads, size, dtype, seed), index, impl, seed)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n_q", "n_k", "block_q", "block_k"), [(150, 150, 64, 64), (70, 190, 16, 32), (1, 70, 128, 64)]
)
def test_the_index_of_all_blocks_is_dense_attention(
    impl: str, n_q: int, n_k: int, block_q: int, block_k: int, seed: int
) -> None:
    q, k, v = make_prompt(n_q, n_k, 4, 2, 32, torch.float32, seed)
    out = block_sparse_attention(q, k, v, poison(BlockIndex.dense(n_q, n_k, block_q, block_k)), impl=impl)
    queries, keys, values = (x.transpose(0, 1).contiguous() for x in (q, k, v))
    mask = torch.arange(n_k) <= torch.arange(n_k - n_q, n_k)[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
    )
    torch.testing.assert_close(out, expected[0].transpose(0, 1), rtol=1e-4, atol=1e-5, msg=lambda m: f"{m} seed {seed}")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("block_q", "block_k"), [(64, 64), (16, 16)])
def test_queries_that_see_nothing_get_zero(impl: str, block_q: int, block_k: int, seed: int) -> None:
    """Rows without a block, in a tile of its own or in one that others share; and heads without any."""
    index = make_index(150, 150, block_q, block_k, 2, seed, share=1.0)
    index.counts[0, ::2] = 0
    index.counts[1] = 0
    out = check(make_prompt(150, 150, 4, 2, 32, torch.float32, seed), index, impl, seed)
    blind = torch.arange(150) // block_q % 2 == 0
    assert (out[blind, :2] == 0).all()
    assert (out[~blind, :2] != 0).all()
    assert (out[:, 2:] == 0).all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("block_q", [16, 64])
def test_blocks_after_the_diagonal_are_not_seen(impl: str, block_q: int, seed: int) -> None:
    """An index may list them: a kernel lets no later key in, and no key past the end, which is NaN."""
    rows, columns = BlockIndex.rows(90, 150, block_q), ceil_div(150, 16)
    blocks = torch.arange(columns, dtype=torch.int32).expand(1, rows, columns).contiguous()
    index = BlockIndex(blocks, torch.full((1, rows), columns, dtype=torch.int32), block_q, 16, 90, 150)
    prompt = make_prompt(90, 150, 2, 1, 32, torch.float32, seed)
    out = check(prompt, index, impl, seed)
    close(out, attention_reference(*prompt), attention_reference(*prompt), epsilon(torch.float32), f"seed {seed}")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("order", [(1, 0, 2), (1, 2, 0), (2, 1, 0)])
def test_any_strides_work(impl: str, order: tuple[int, int, int], seed: int) -> None:
    """Heads outermost, as transformers has them; tokens side by side; all transposed."""
    inputs = make_prompt(70, 100, 4, 2, 32, torch.float32, seed)
    back = tuple(order.index(axis) for axis in range(3))
    q, k, v = (x.permute(order).contiguous().permute(back) for x in inputs)
    assert not q.is_contiguous()
    index = make_index(70, 100, 64, 32, 2, seed)
    out = check((q, k, v), index, impl, seed)
    assert torch.equal(out, block_sparse_attention(*inputs, index, impl=impl))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("block_q", [16, 64])
def test_an_index_may_be_a_view(impl: str, block_q: int, seed: int) -> None:
    """One list for all heads, expanded; or lists cut from longer ones."""
    inputs = make_prompt(100, 130, 4, 2, 16, torch.float32, seed)
    index = make_index(100, 130, block_q, 32, 2, seed)
    first = dataclasses.replace(index, blocks=index.blocks[:1].expand(4, -1, -1), counts=index.counts[:1].expand(4, -1))
    check(inputs, first, impl, seed)
    counts = index.counts.clamp_max(2).T.contiguous().T
    check(inputs, dataclasses.replace(index, blocks=index.blocks[..., :2], counts=counts), impl, seed)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_the_scale_is_applied_to_scores(impl: str, seed: int) -> None:
    inputs = make_prompt(70, 70, 2, 1, 64, torch.float32, seed)
    check(inputs, make_index(70, 70, 64, 16, 1, seed, share=0.8), impl, seed, scale=0.5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_scores_beyond_the_range_of_exponentials_do_not_overflow(impl: str, seed: int) -> None:
    """The largest of a row changes from block to block by more than an exponential can hold."""
    q, k, v = make_prompt(130, 130, 1, 1, 16, torch.float32, seed)
    index = make_index(130, 130, 64, 16, 1, seed, share=0.7)
    out = block_sparse_attention(q * 1000, k, v, index, impl=impl)
    expected = attention_in(torch.float64, q * 1000, k, v, index.pattern().mask(130, 130), 0.25)
    # Among scores in the thousands, those that tie in fp32 need not in fp64.
    assert out.isfinite().all(), seed
    assert ((out - expected).abs().amax(2) < 0.01).float().mean() > 0.97, seed


def prompt(**shapes: tuple[int, ...]) -> dict[str, Any]:
    """Inputs that fit, but for the shapes given."""
    tensors = {"q": (100, 4, 32), "k": (100, 2, 32), "v": (100, 2, 32)} | shapes
    return {name: torch.zeros(shape) for name, shape in tensors.items()}


DENSE = BlockIndex.dense(100, 100, 64, 64)
SIZES = "has to be 16, 32, 64 or 128"


@pytest.mark.parametrize(
    ("changed", "field", "value", "remedy"),
    [
        ({"blocks": DENSE.blocks.long()}, "index.blocks", "torch.int64", "has to be torch.int32"),
        ({"counts": DENSE.counts.long()}, "index.counts", "torch.int64", "has to be torch.int32"),
        ({"n_q": 99}, "index", (99, 100), "has other lengths than q and k, (100, 100)"),
        ({"n_k": 101}, "index", (100, 101), "has other lengths than q and k, (100, 100)"),
        (
            {"blocks": DENSE.blocks.repeat(3, 1, 1), "counts": DENSE.counts.repeat(3, 1)},
            *("index", 3, "heads have to be 1, 2 (KV heads) or 4 (query heads)"),
        ),
        ({"blocks": DENSE.blocks[:, :1]}, "index.blocks", (1, 1, 2), "has to be [heads, 2, width]"),
        ({"blocks": DENSE.blocks[0]}, "index.blocks", (2, 2), "has to be [heads, 2, width]"),
        ({"counts": DENSE.counts[:, :1]}, "index.blocks", (1, 2, 2), "has to be [heads, 2, width]"),
        ({"block_k": 48}, "index.block_k", 48, SIZES),
        ({"block_k": 256}, "index.block_k", 256, SIZES),
        ({"block_q": 50}, "index.block_q", 50, SIZES),
    ],
)
def test_an_invalid_index_is_named(changed: dict[str, Any], field: str, value: object, remedy: str) -> None:
    with pytest.raises(UsageError) as error:
        block_sparse_attention(**prompt(), index=dataclasses.replace(DENSE, **changed), impl="torch")
    assert (error.value.field, error.value.value, error.value.remedy) == (field, value, remedy)


@pytest.mark.parametrize("scale", [0.0, -0.1, math.inf, math.nan])
def test_a_scale_must_be_positive_and_finite(scale: float) -> None:
    with pytest.raises(UsageError, match=r"^scale: .* has to be above 0 and finite"):
        block_sparse_attention(**prompt(), index=DENSE, scale=scale, impl="torch")
