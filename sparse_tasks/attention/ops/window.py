"""The index of first and last tokens, which follows from lengths alone."""

from __future__ import annotations

import torch

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.once import made_once
from sparse_tasks.attention.ops.lines import line_index


@made_once
def window_index(
    device: torch.device, sinks: int, window: int, block_q: int, unit: int, n_q: int, n_k: int, impl: str
) -> LineIndex:
    """The index of one head for all, of ``sinks`` verticals and ``window`` slashes, shared by all layers."""
    # Filled on the device: a tensor of numbers of the host would be waited for.
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
