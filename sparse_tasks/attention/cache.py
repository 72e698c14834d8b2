"""Paged KV cache: blocks of positions, and a table with the blocks of each sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import LATENT, check_cached, check_same, check_values, checking
from sparse_tasks.attention.method import ONLY, Layer
from sparse_tasks.core.errors import UsageError

if TYPE_CHECKING:
    from sparse_tasks.attention.index import PageIndex

_NUMBERS: Final = 1 << 25
"""Numbers of keys that are held at once, or those of a single sequence: 128 MB in fp32, beside 64 MB as cached."""


@dataclass(frozen=True)
class PagedCache:
    """Keys and values in blocks (PagedAttention: Kwon et al. 2023, section 4), with the block table of a batch.

    Position ``p`` of a sequence is in block ``block_table[sequence, p // block_size]`` at offset ``p % block_size``.

    Attributes:
        keys: ``[blocks, block_size, kv_heads, head_size]``, any strides except in the last dimension, which is
            contiguous. 8-bit types (``EIGHT_BITS``) are unscaled: the keys' scale goes into the queries, that of the
            values into the output.
        values: ``[blocks, block_size, kv_heads, value_size]``, likewise; a part of the keys where those are latents.
        block_table: int32 ``[batch, max_blocks]``; entries past a sequence's length are undefined.
        lengths: int32 ``[batch]``: cached positions, including the current query's.
        shared: Results of ``once``, shared by the layers of a step; None to compute them each time.
        layer: Layer number and number of layers.
        handed: What layers of a step pass to later ones; None if layers are independent.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """

    keys: Tensor
    values: Tensor
    block_table: Tensor
    lengths: Tensor
    shared: dict[object, Tensor] | None = field(default=None, compare=False, repr=False)
    layer: Layer = ONLY
    handed: dict[object, PageIndex] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if checking():
            self._check()

    def once(self, what: object, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that depends only on the lengths, computed once for the layers that share it, else each time."""
        if self.shared is None:
            return make()
        if what not in self.shared:
            self.shared[what] = make()
        return self.shared[what]

    def _check(self) -> None:
        keys, values = self.keys, self.values
        if keys.ndim != 4 or 0 in keys.shape:
            raise UsageError("keys", tuple(keys.shape), "has to be [blocks, block_size, kv_heads, head_size], none 0")
        check_values("values", values, keys, LATENT)
        check_cached(keys=keys, values=values)
        for name, tensor in (("keys", keys), ("values", values)):
            if tensor.stride(3) != 1:
                raise UsageError(name, tensor.stride(), "strides have to end in 1: a head's numbers are adjacent")
        if self.block_table.ndim != 2 or self.block_table.shape[1] == 0:
            raise UsageError("block_table", tuple(self.block_table.shape), "has to be [batch, max_blocks], not empty")
        if self.lengths.shape != self.block_table.shape[:1]:
            raise UsageError(
                "lengths", tuple(self.lengths.shape), f"has to be [batch], batch {len(self.block_table)} as block_table"
            )
        for name, tensor in (("block_table", self.block_table), ("lengths", self.lengths)):
            if tensor.dtype != torch.int32:
                raise UsageError(name, str(tensor.dtype), "has to be torch.int32")
        check_same("device", keys=keys, values=values, block_table=self.block_table, lengths=self.lengths)

    @classmethod
    def contiguous(cls, keys: Tensor, values: Tensor, lengths: Tensor) -> PagedCache:
        """One block per sequence: a view of a contiguous cache, without a copy.

        Args:
            keys: ``[batch, kv_heads, n, head_size]``, as in ``transformers``; sequences begin at 0.
            values: ``[batch, kv_heads, n, value_size]``.
            lengths: int32 ``[batch]``, each at most ``n``.

        Raises:
            UsageError: Shapes, types or devices do not match.
        """
        for name, tensor in (("keys", keys), ("values", values)):
            if tensor.ndim != 4:
                raise UsageError(name, tuple(tensor.shape), "has to be [batch, kv_heads, n, head_size]")
        table = torch.arange(len(keys), dtype=torch.int32, device=keys.device)[:, None]
        return cls(keys.transpose(1, 2), values.transpose(1, 2), table, lengths)

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return int(self.block_table.shape[0])

    @property
    def block_size(self) -> int:
        """Positions per block."""
        return int(self.keys.shape[1])

    @property
    def kv_heads(self) -> int:
        """Number of KV heads."""
        return int(self.keys.shape[2])

    @property
    def head_size(self) -> int:
        """Size of a key."""
        return int(self.keys.shape[3])

    @property
    def value_size(self) -> int:
        """Size of a value."""
        return int(self.values.shape[3])

    @property
    def capacity(self) -> int:
        """Positions that fit into a row of the table."""
        return int(self.block_table.shape[1]) * self.block_size

    def rows(self, which: slice | Tensor) -> PagedCache:
        """The cache of some sequences of the batch; a tensor gives their indices."""
        if isinstance(which, slice) and which == slice(0, self.batch):
            return self
        return replace(self, block_table=self.block_table[which], lengths=self.lengths[which], shared=None, handed=None)

    def groups(self, numbers: int) -> Iterator[tuple[slice, PagedCache]]:
        """The sequences in groups whose keys fit into the memory limit.

        Args:
            numbers: Numbers of keys gathered from each sequence.

        Yields:
            Their indices in the batch, and their cache.
        """
        at_once = max(1, _NUMBERS // numbers)
        for start in range(0, self.batch, at_once):
            which = slice(start, min(start + at_once, self.batch))
            yield which, self.rows(which)

    def locate(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Blocks and offsets of positions.

        Args:
            positions: Integers of at least 0, ``[batch or 1, ...]``; a batch of 1 applies to all sequences.

        Returns:
            ``[batch, ...]``: block numbers and offsets within them, int64, both 0 past a sequence's end; and bool,
            whether the sequence has the position.
        """
        held = positions < self.lengths.view(-1, *[1] * (positions.ndim - 1))
        inside = torch.where(held, positions, 0).long()
        place = torch.div(inside, self.block_size, rounding_mode="floor")
        block = self.block_table.gather(1, place.flatten(1)).view_as(place)
        return torch.where(held, block.long(), 0), inside % self.block_size, held

    def gather(self, sequence: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one sequence, copied: ``[length, kv_heads, their size]`` each. Reads the length."""
        positions = torch.arange(int(self.lengths[sequence]), device=self.keys.device)
        (block,), (offset,), _ = self.rows(slice(sequence, sequence + 1)).locate(positions[None])
        return self.keys[block, offset], self.values[block, offset]
