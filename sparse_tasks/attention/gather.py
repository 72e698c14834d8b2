"""Small query blocks gathered into larger tiles: the union of their key blocks, and which block sees which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sparse_tasks.attention.index import BlockIndex

TILE: Final = 64
"""Queries in the smallest tile that a kernel computes."""


@dataclass(frozen=True)
class Gathered:
    """Key block lists for tiles of several query blocks.

    Attributes:
        blocks: int32 ``[heads, tiles, width]``: the blocks that any query block of a tile reads, ascending.
        counts: int32 ``[heads, tiles]``.
        bits: uint8 ``[heads, tiles, width]``: bit ``i`` is set where query block ``i`` of the tile reads the block.
    """

    blocks: Tensor
    counts: Tensor
    bits: Tensor


def gather_rows(index: BlockIndex, tile: int = TILE) -> Gathered:
    """Gather ``tile // index.block_q`` query blocks into each tile; tiles begin at multiples of ``tile``.

    A tensor core multiplies 64 rows at once, so query blocks of 16 would leave most of it idle. Four neighbours read
    mostly the same keys; each still sees only its own.
    """
    group, columns = tile // index.block_q, -(-index.n_k // index.block_k)
    heads, rows, width = index.blocks.shape
    before = index.first_row % group  # query blocks of the first tile before the index
    tiles = -(-(before + rows) // group)
    place = torch.arange(rows, device=index.blocks.device) + before
    bit = (1 << (place % group)).to(torch.uint8)[None, :, None].expand(heads, rows, width)
    valid = torch.arange(width, device=index.blocks.device) < index.counts[..., None]
    # Blocks of a query block are distinct, so adding their bits sets each bit once.
    words = columns // 4 * 4 + 4  # more than columns; torch's GPU kernel adds bytes in words of four
    where = ((place // group)[None, :, None] * words + torch.where(valid, index.blocks, columns)).flatten(1)
    bits = torch.zeros(heads, tiles * words, dtype=torch.uint8, device=index.blocks.device)
    bits = bits.scatter_add_(1, where.long(), bit.flatten(1)).view(heads, tiles, words)[..., :columns]
    counts = (bits > 0).sum(2, dtype=torch.int32)
    # The k-th read block goes to place k: a running count instead of a sort.
    place_of = torch.where(bits > 0, (bits > 0).cumsum(2, dtype=torch.int32) - 1, columns).long()
    wide = min(columns, group * width)
    number = torch.arange(columns, dtype=torch.int32, device=bits.device).expand_as(bits)
    blocks = torch.zeros(heads, tiles, columns + 1, dtype=torch.int32, device=bits.device)
    gathered = torch.zeros(heads, tiles, columns + 1, dtype=torch.uint8, device=bits.device)
    blocks.scatter_(2, place_of, number)
    gathered.scatter_(2, place_of, bits)
    return Gathered(blocks[..., :wide].contiguous(), counts, gathered[..., :wide].contiguous())
