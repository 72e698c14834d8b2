"""Tensors that follow from lengths alone, made once: all layers share them, and short prompts wait for none."""

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


def made_once(make: Callable[[torch.device, *Ts], T]) -> Callable[[torch.device, *Ts], T]:
    """Keep the last ``ENTRIES`` results of a function of a device and numbers, which nobody may change.

    Each is of one stream, for others would not wait until it is made, and is no inference tensor, whatever the mode.
    """

    @functools.lru_cache(maxsize=ENTRIES)
    def kept(_stream: int, device: torch.device, *numbers: *Ts) -> T:
        with torch.inference_mode(False):
            return make(device, *numbers)

    def shared(device: torch.device, *numbers: *Ts) -> T:
        if is_in_torch_dispatch_mode():
            return make(device, *numbers)  # perhaps of tensors without values, which must not outlive the mode
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        return kept(stream, device, *numbers)

    return shared


def numbers_on(device: torch.device, rows: tuple[tuple[int, ...], ...]) -> Tensor:
    """Numbers of the host on a device, int32, copied once: a copy is waited for, and not allowed in a CUDA graph.

    As it is waited for, it serves all streams, that on which a graph is recorded too.
    """
    if is_in_torch_dispatch_mode():
        return torch.tensor(rows, dtype=torch.int32, device=device)
    return _numbers_on(device, rows)


@functools.lru_cache(maxsize=ENTRIES)
def _numbers_on(device: torch.device, rows: tuple[tuple[int, ...], ...]) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.int32, device=device)


def made_once_if_small(
    make: Callable[[torch.device, int, int, int, *Ts], T],
) -> Callable[[torch.device, int, int, int, *Ts], T]:
    """``made_once`` where a table of the blocks of the last ``n_q`` of ``n_k`` positions is worth keeping.

    The function takes a device, ``n_q``, ``n_k``, the positions in a block, and further numbers.
    """
    kept = made_once(make)

    def shared(device: torch.device, n_q: int, n_k: int, block: int, *numbers: *Ts) -> T:
        cells = (ceil_div(n_k, block) - (n_k - n_q) // block) * ceil_div(n_k, block)
        return (kept if cells <= SMALL else make)(device, n_q, n_k, block, *numbers)

    return shared
