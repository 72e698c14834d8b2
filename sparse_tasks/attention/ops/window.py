"""Indices of first and last tokens, which depend only on lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.once import cached_result
from sparse_tasks.attention.ops.lines import line_index


@cached_result
def window_index(
    device: torch.device, sinks: int, window: int, block_q: int, unit: int, n_q: int, n_k: int, impl: str
) -> LineIndex:
    """The index, with one head for all, of ``sinks`` verticals and ``window`` slashes, shared by all layers."""
    # Filled on the device: copying from the host would synchronise.
    return line_index(
        torch.arange(max(1, sinks), dtype=torch.int32, device=device)[None],
        torch.full((1,), sinks, dtype=torch.int32, device=device),
        torch.arange(window, dtype=torch.int32, device=device)[None],
        torch.full((1,), window, dtype=torch.int32, device=device),
        block_q=block_q,
        unit=unit,
        n_q=n_q,
        n_k=n_k,
        impl=impl,
    )


@cached_result
def window_index_of_some(
    device: torch.device, some: tuple[bool, ...], sinks: int, window: int, block_q: int, unit: int, n_q: int, n_k: int
) -> LineIndex:
    """As ``window_index`` for the KV heads that are True; the others see everything."""
    heads, number = len(some), ceil_div(n_k, unit) + block_q // unit
    crossed = min(number, (window - 1 + block_q - 1) // unit + 1)

    def ascending(width: int) -> Tensor:
        return torch.arange(width, dtype=torch.int32, device=device).expand(heads, width).contiguous()

    def counts(few: int, all_: int) -> Tensor:
        # Filled on the device, as above.
        return torch.cat([
            torch.full((1,), few if one else all_, dtype=torch.int32, device=device) for one in some
        ])  # fmt: skip

    return LineIndex(
        columns=ascending(max(1, sinks)),
        column_counts=counts(sinks, 0),
        bands=ascending(number),
        band_counts=counts(crossed, number),
        block_q=block_q,
        unit=unit,
        n_q=n_q,
        n_k=n_k,
        slashes=torch.arange(n_k, dtype=torch.int32, device=device).expand(heads, n_k),
        slash_counts=counts(window, n_k),
    )
