"""Cached tensors that depend only on lengths: all layers share them, and short prompts do not wait for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from sparse_tasks.attention.interactions import ceil_div

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

ENTRIES: Final = 64
"""Results that a function keeps: at least the prompts, or parts of prompts, of a step."""


SMALL: Final = 1 << 16
"""Entries of a table of blocks that is worth keeping: of 4 bytes each, 256 KB."""


def cached_result(make: Callable[[torch.device, *Ts], T]) -> Callable[[torch.device, *Ts], T]:
    """Cache the last ``ENTRIES`` results of a function of a device and numbers; callers must not modify them.

    Results are cached per stream, since other streams would not wait for them, and are never inference tensors.
    """

    @functools.lru_cache(maxsize=ENTRIES)
    def kept(_stream: int, device: torch.device, *numbers: *Ts) -> T:
        with torch.inference_mode(False):
            return make(device, *numbers)

    def shared(device: torch.device, *numbers: *Ts) -> T:
        if is_in_torch_dispatch_mode():
            return make(device, *numbers)  # maybe fake tensors, which must not outlive the mode
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        return kept(stream, device, *numbers)

    return shared


def numbers_on(device: torch.device, rows: tuple[tuple[int, ...], ...]) -> Tensor:
    """Host numbers on a device, int32, copied once: a copy synchronises, and is not allowed in a CUDA graph.

    Since it synchronises, the result is valid in all streams, including one that records a graph.
    """
    if is_in_torch_dispatch_mode():
        return torch.tensor(rows, dtype=torch.int32, device=device)
    return _numbers_on(device, rows)


@functools.lru_cache(maxsize=ENTRIES)
def _numbers_on(device: torch.device, rows: tuple[tuple[int, ...], ...]) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.int32, device=device)


def cached_small_result(
    make: Callable[[torch.device, int, int, int, *Ts], T],
) -> Callable[[torch.device, int, int, int, *Ts], T]:
    """``cached_result`` if a table of the blocks of the last ``n_q`` of ``n_k`` positions is small enough to keep.

    The function takes a device, ``n_q``, ``n_k``, the positions in a block, and further numbers.
    """
    kept = cached_result(make)

    def shared(device: torch.device, n_q: int, n_k: int, block: int, *numbers: *Ts) -> T:
        cells = (ceil_div(n_k, block) - (n_k - n_q) // block) * ceil_div(n_k, block)
        return (kept if cells <= SMALL else make)(device, n_q, n_k, block, *numbers)

    return shared
