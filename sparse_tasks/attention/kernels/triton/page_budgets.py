"""Page budgets in Triton: one number per sequence, in one launch instead of eight."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div


@triton.jit(do_not_specialize=["batch"])
def _budget(lengths, out, batch, DROPPED: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    sequence = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    length = tl.load(lengths + sequence, mask=sequence < batch, other=0)
    share = tl.full([], DROPPED, tl.float64)  # a constant, since an argument would be fp32
    pages = tl.cdiv(length, UNIT).to(tl.float64) - length.to(tl.float64) * share + 0.5
    tl.store(out + sequence, tl.maximum(tl.floor(pages), 1.0).to(tl.int32), mask=sequence < batch)


def page_budgets_triton(lengths: Tensor, density: float, unit: int) -> Tensor:
    """As ``page_budgets.page_budgets``."""
    out = torch.empty_like(lengths, memory_format=torch.contiguous_format)
    _budget[(ceil_div(len(lengths), 128),)](
        lengths.contiguous(), out, len(lengths), DROPPED=(1 - density) / unit, UNIT=unit, BLOCK=128, num_warps=1,
        enable_fp_fusion=False,  # product and difference are rounded separately, as on the host
    )  # fmt: skip
    return out
