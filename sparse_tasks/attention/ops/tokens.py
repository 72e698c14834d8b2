"""Places of single tokens in a paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache

__all__ = ["locate"]


def locate(cache: PagedCache, sequence: int, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where positions of a sequence lie.

    Args:
        cache: The cache.
        sequence: Which of the batch.
        positions: Integers of any shape, at least 0; those past the sequence's end may be anything.

    Returns:
        Of that shape: block numbers and offsets within them, int64, both 0 past the sequence's end; and bool, whether
        the sequence has the position.
    """
    held = positions < cache.lengths[sequence]
    inside = torch.where(held, positions, 0).long()
    block = torch.where(held, cache.block_table[sequence][inside // cache.block_size].long(), 0)
    return block, inside % cache.block_size, held
