"""Block-sparse kernels of other projects, and ours, with one interface, for ``shootout.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.prefill import attend

__all__ = ["RIVALS", "Rival", "dense_fa4"]


@dataclass(frozen=True)
class Rival:
    """A kernel.

    Attributes:
        name: In tables.
        package: Distribution that contains it; "" if none is needed.
        make: Of q ``[n, heads, size]``, k and v ``[n, kv_heads, size]`` and a block size: a function from a mask, bool
            ``[kv_heads, rows, columns]`` with the diagonal in it, to its index, and one from that to
            ``[n, heads, size]``.
        causal: Whether it masks within the blocks on the diagonal.
    """

    name: str
    package: str
    make: Callable[[Tensor, Tensor, Tensor, int], tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]]
    causal: bool = True


def _lists(mask: Tensor) -> tuple[Tensor, Tensor]:
    """int32 ``[heads, rows, columns]`` and ``[heads, rows]``: read columns, ascending, and their number."""
    columns, counts = select_top(torch.where(mask, 0.0, float("-inf")), mask.shape[2])
    there = torch.arange(mask.shape[2], device=mask.device) < counts[..., None]
    return torch.where(there, columns, 0), counts


def _by_query_head(x: Tensor, heads: int) -> Tensor:
    """Repeat each KV head's entry for its query heads, with a batch of one."""
    return x.repeat_interleave(heads // len(x), 0)[None].contiguous()


def _partial_and_full(mask: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts and lists of the blocks on the diagonal, and of those before it, by query head."""
    rows = torch.arange(mask.shape[1], device=mask.device)
    before = mask.clone()
    before[:, rows, rows] = False
    columns, counts = _lists(before)
    own = torch.zeros_like(columns)
    own[..., 0] = rows.int()
    return (
        _by_query_head(torch.ones_like(counts), heads), _by_query_head(own, heads),
        _by_query_head(counts, heads), _by_query_head(columns, heads),
    )  # fmt: skip


def _ours(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    def index(mask: Tensor) -> BlockIndex:
        columns, counts = select_top(torch.where(mask, 0.0, float("-inf")), mask.shape[2])
        return BlockIndex(columns, counts, block, block, len(q), len(k))

    return index, lambda index: attend(q, k, v, index)


def _fa4_causal() -> Any:
    import cutlass.cute as cute

    @cute.jit
    def causal(batch: Any, head: Any, query: Any, key: Any, lengths: Any, tensors: Any) -> Any:
        return key <= query

    return causal


def _fa4(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch
    from flash_attn.cute.interface import flash_attn_func

    causal = _fa4_causal()

    def index(mask: Tensor) -> Any:
        return BlockSparseTensorsTorch(*_partial_and_full(mask, q.shape[1]), block_size=(block, block))

    def run(index: Any) -> Tensor:
        out = flash_attn_func(q[None], k[None], v[None], mask_mod=causal, block_sparse_tensors=index)
        return _first(out)[0]

    return index, run


def dense_fa4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dense causal attention."""
    from flash_attn.cute.interface import flash_attn_func

    return _first(flash_attn_func(q[None], k[None], v[None], causal=True))[0]


def _first(out: Any) -> Tensor:
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result


def _cudnn(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    from cudnn.block_sparse_attention import block_sparse_attention_forward

    def index(mask: Tensor) -> Any:
        columns, counts = _lists(mask)
        return _by_query_head(columns, q.shape[1]), _by_query_head(counts, q.shape[1])

    def run(index: Any) -> Tensor:
        out = block_sparse_attention_forward(
            q[None], k[None], v[None], index[0], q2k_block_nums=index[1], sparse_block_size=block, layout="bshd"
        )
        return _first(tuple(out.values()) if isinstance(out, dict) else tuple(out))[0]

    return index, run


def _flex(backend: str) -> Callable[..., tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]]:
    def make(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
        from torch.nn.attention.flex_attention import BlockMask, flex_attention

        rows = [x.transpose(0, 1)[None].contiguous() for x in (q, k, v)]
        torch._dynamo.config.recompile_limit = 100  # beyond it, all scores would be materialised
        attention: Any = torch.compile(flex_attention, dynamic=False)
        options: dict[str, Any] = {"BACKEND": backend}
        if backend == "TRITON" and block < 128:
            options |= {"BLOCK_M": block, "BLOCK_N": block}

        def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return query >= key

        def index(mask: Tensor) -> Any:
            lists = _partial_and_full(mask, q.shape[1])
            asked: dict[str, Any] = {"BLOCK_SIZE": (block, block), "mask_mod": causal}
            try:  # what the backward pass reads is not needed
                return BlockMask.from_kv_blocks(*lists, **asked, compute_q_blocks=False)
            except TypeError:  # an older torch
                return BlockMask.from_kv_blocks(*lists, **asked)

        def run(index: Any) -> Tensor:
            out: Tensor = attention(*rows, block_mask=index, enable_gqa=True, kernel_options=options)
            return out[0].transpose(0, 1)

        return index, run

    return make


def _flashinfer(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    from flashinfer import VariableBlockSparseAttentionWrapper

    rows = [x.transpose(0, 1).contiguous() for x in (q, k, v)]
    workspace = torch.empty(512 << 20, dtype=torch.uint8, device=q.device)

    def index(mask: Tensor) -> Any:
        wrapper = VariableBlockSparseAttentionWrapper(workspace)
        sizes = torch.full(mask.shape[:2], block, dtype=torch.int32, device=q.device)
        # A row's keys end with its own block, so causality aligned at the end is causal in that block.
        wrapper.plan(
            mask, sizes, sizes, q.shape[1], k.shape[1], q.shape[2], causal=True, q_data_type=q.dtype
        )  # fmt: skip
        return wrapper

    def run(index: Any) -> Tensor:
        out: Tensor = index.run(*rows)
        return out if out.shape[0] == len(q) else out.transpose(0, 1)

    return index, run


RIVALS: Final = (
    Rival("ours", "", _ours),
    Rival("flash-attn-4", "flash-attn-4", _fa4),
    Rival("cuDNN frontend", "nvidia-cudnn-frontend", _cudnn, causal=False),
    Rival("FlexAttention, Triton", "", _flex("TRITON")),
    Rival("FlexAttention, FA4", "flash-attn-4", _flex("FLASH")),
    Rival("FlashInfer", "flashinfer-python", _flashinfer),
)
