"""Random numbers derived from their purpose, so all batches, chunks and engines get the same ones."""

from __future__ import annotations

from typing import Final, TypeVar

import torch
from torch import Tensor

_WORD: Final = 0xFFFFFFFF
_Word = TypeVar("_Word", int, Tensor)


def draws(seed: int, *counters: Tensor) -> Tensor:
    """A number for each combination of counters, by a 32-bit hash (C. Wellons' lowbias32) of all of them in turn.

    Args:
        seed: Seed of the numbers.
        counters: Integers that broadcast: a head, a step, a page. Tensors on the device for the result.

    Returns:
        fp32 in [0, 1), of the shape that the counters broadcast to.
    """
    # Mixed separately, so another seed is not another head. 0 stays 0.
    word = torch.full_like(counters[0], _mixed(seed & _WORD), dtype=torch.int64)
    for counter in counters:
        word = _mixed((word + counter.long() + 0x9E3779B9) & _WORD)
    return (word >> 8).float() / 2**24


def _mixed(word: _Word) -> _Word:
    """A permutation of 32 bits; tensors hold them in int64, where products wrap, and their low bits are right."""
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & _WORD
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & _WORD
    return word ^ (word >> 16)
