"""Compiles for a Hopper GPU, without one, each kernel that the methods launch: ``python compile_only.py [large|more]``.

The interpreter runs what Triton's compiler refuses, such as a variable that changes its type in a loop. Here launches
compile and do nothing, and memory is zeros, so that what a kernel would have written is a valid index. Prints, as JSON,
the kernels that were compiled by the name of their module, and what failed by what was run. With ``large``, heads have
256 numbers, which take most room in shared memory; with ``more``, numbers have 32 bits, or 8 in larger heads, or a
softmax has sinks, a cap or both.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # read when kernels are declared
import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import BlockIndex, LineIndex, SkipIndex
from sparse_tasks.attention.kernels import gluon, triton
from sparse_tasks.attention.kernels.block_sparse import dense_index
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.kernels.gluon.block_sparse import (
    SIZES,
    block_sparse_gluon,
    skipping_gluon,
    vertical_slash_gluon,
)
from sparse_tasks.attention.kernels.positions_read import add_positions_read
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.kernels.triton.selection import WHOLE
from sparse_tasks.attention.method import METHODS, DecodeMethod, EvictMethod, PrefillMethod
from sparse_tasks.attention.methods.quest import Quest
from sparse_tasks.attention.methods.sparq import SparQ
from sparse_tasks.attention.methods.twilight import Twilight
from sparse_tasks.attention.prefill import attend, select_stretches
from sparse_tasks.attention.softmax import PLAIN, Softmax

N = 700  # positions of a prompt: ragged
HEADS, KV_HEADS = 9, 3
PAGE = 16
LARGE, MORE = "large" in sys.argv, "more" in sys.argv
SHARED = 232448  # bytes of shared memory that a program may take
OFTEN = (
    "vertical_slash",
    "block_sparse",
    "quest",
    "sparq",
    "twilight",
    "snapkv",
)  # between them they launch nearly all kernels


class Hopper:
    """A driver that knows which GPU it would have."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def compile_only(compiled: set[str]) -> None:
    """From now on launches compile alone; each adds its kernel's name."""
    for folder in (triton, gluon):  # all are declared now, for later they would be interpreted
        for module in iter_modules(folder.__path__, f"{folder.__name__}."):
            import_module(module.name)
    driver.set_active(Hopper())
    launch = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if kernel.metadata.shared > SHARED:
            raise ValueError(f"{self.fn.__name__} takes {kernel.metadata.shared:,} bytes of shared memory")
        compiled.add(f"{self.fn.__module__}.{self.fn.__name__}")

    JITFunction.run = run
    torch.empty, torch.empty_like = torch.zeros, torch.zeros_like
    torch.Tensor.new_empty = torch.Tensor.new_zeros
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=132)
    os.environ["TRITON_INTERPRET"] = "1"  # read when they are launched: kernels serve tensors of the CPU


def prompt(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(N, HEADS, size).to(dtype), torch.randn(N, KV_HEADS, size).to(dtype)


def prefill(method: PrefillMethod, size: int, dtype: torch.dtype, softmax: Softmax = PLAIN) -> None:
    q, k = prompt(size, dtype)
    method = method.under(softmax)
    for queries, index in select_stretches(method, q, k, impl="triton"):
        keys = k[: index.n_k]
        attend(queries, keys, keys, index, softmax=softmax, impl="triton")
        if dtype == torch.bfloat16 and size in SIZES:
            if isinstance(index, LineIndex):
                vertical_slash_gluon(queries, keys, keys, index, scale=1.0, softmax=softmax)
            elif isinstance(index, BlockIndex) and index.block_q >= 64:
                block_sparse_gluon(queries, keys, keys, index, scale=1.0, softmax=softmax)


def skip(size: int, softmax: Softmax = PLAIN) -> None:
    q, k = prompt(size, torch.bfloat16)
    index, dense = SkipIndex.new(0.1, HEADS, N, N, "cpu"), dense_index(q.device, N, N)
    skipping_gluon(q, k, k, index, dense, scale=1.0, softmax=softmax)


def decode(
    method: DecodeMethod,
    size: int,
    dtype: torch.dtype,
    softmax: Softmax = PLAIN,
    cached: torch.dtype | None = None,
    *,
    value: int | None = None,
    heads: int = HEADS,
    kv_heads: int = KV_HEADS,
) -> None:
    lengths = torch.tensor([N, 17], dtype=torch.int32)
    table = torch.arange(2 * 48, dtype=torch.int32).view(2, 48)
    keys = torch.randn(2 * 48, PAGE, kv_heads, size).to(cached or dtype)
    cache = PagedCache(keys, keys[..., :value], table, lengths)
    state = method.new_state(cache)
    method.update(state, keys.flatten(0, 1)[:5], torch.arange(5), PAGE, impl="triton")
    queries = torch.randn(2, heads, size).to(dtype)
    index = method.under(softmax).select(queries, cache, state, impl="triton")
    sparse_decode(queries, cache, index, softmax=softmax, impl="triton")
    read = torch.zeros(2, 1, kv_heads, dtype=torch.int64)
    add_positions_read(read, torch.arange(2), index.pages[None], index.counts[None], lengths, unit=index.unit,
                       impl="triton")  # fmt: skip


def top_of_long_rows(count: int | Tensor) -> None:
    select_top(torch.randn(1, 2, WHOLE + 1), count, width=500, impl="triton")


def evict(method: EvictMethod, size: int, dtype: torch.dtype, softmax: Softmax = PLAIN) -> None:
    q, k = prompt(size, dtype)
    method.under(softmax).keep(q, k, impl="triton")


def run_of(method: Any, size: int, dtype: torch.dtype, softmax: Softmax = PLAIN) -> Callable[[], None]:
    run: Any = {"prefill": prefill, "decode": decode, "evict": evict}[str(method.phase)]
    return lambda: run(method(sparsity=0.8), size, dtype, softmax)


def runs() -> Iterator[tuple[str, Callable[[], None]]]:
    """What is compiled, by name: every method, and one of each kernel for other heads and types."""
    types = torch.bfloat16, torch.float32
    often = [METHODS.get(name) for name in OFTEN]
    if LARGE:
        kinds = [(method, 256, dtype) for method in often for dtype in types]
    elif MORE:
        kinds = [(method, 128, torch.float32) for method in often]
    else:
        kinds = [(method, 64, torch.bfloat16) for method in METHODS]
    for method, size, dtype in kinds:
        yield f"{method.name} {size} {dtype}", run_of(method, size, dtype)
    if LARGE:  # the latents of DeepSeek-V2, and its keys and values where they are written out
        for dtype in types:
            yield (
                f"quest of latents in {dtype}",
                lambda d=dtype: decode(Quest(), 576, d, value=512, heads=128, kv_heads=1),  # type: ignore[misc]
            )
            yield (
                f"twilight of latents in {dtype}",
                lambda d=dtype: decode(Twilight(), 576, d, value=512, heads=128, kv_heads=1),  # type: ignore[misc]
            )
            q, k = prompt(192, dtype)
            index = BlockIndex.dense(N, N, 64, 64)
            yield (
                f"values of 128 in {dtype}",
                lambda q=q, k=k, i=index: attend(q, k, k[..., :128], i, impl="triton"),  # type: ignore[misc]
            )
        return
    sinks = torch.zeros(HEADS, dtype=torch.bfloat16)
    both = Softmax(sinks=sinks, soft_cap=50.0)
    for softmax in (both, Softmax(sinks=sinks), Softmax(soft_cap=50.0)) if MORE else (both,):
        for method in often if MORE else often[1:]:  # lines take as long as all others
            yield f"{method.name} with {softmax.what}", run_of(method, 64, torch.bfloat16, softmax)
        if MORE:
            yield f"skipping with {softmax.what}", lambda s=softmax: skip(128, s)  # type: ignore[misc]
    for size in SIZES[1:] if MORE else SIZES[:1]:
        yield f"skipping {size}", lambda s=size: skip(s)  # type: ignore[misc]
    for size in (256,) if MORE else (64,):
        for method in (Quest, SparQ, Twilight):
            yield (
                f"{method.name} {size} in 8 bits",
                lambda m=method, s=size: decode(m(), s, torch.bfloat16, cached=EIGHT_BITS),  # type: ignore[misc]
            )
    if MORE:
        return
    for block in (16, 64):
        q, k = prompt(64, torch.bfloat16)
        index = BlockIndex.dense(N, N, block, block)
        yield f"blocks of {block}", lambda q=q, k=k, index=index: attend(q, k, k, index, impl="triton")  # type: ignore[misc]
    for count in (500, torch.full((1, 2), 500, dtype=torch.int32)):
        yield f"long rows, {type(count).__name__}", lambda c=count: top_of_long_rows(c)  # type: ignore[misc]


def main() -> None:
    compiled: set[str] = set()
    compile_only(compiled)
    failed: dict[str, str] = {}
    for name, run in runs():
        try:
            run()
        except Exception as error:  # the compiler's error is the result
            failed[name] = f"{type(error).__name__}: {error}"[-2000:]
    json.dump({"compiled": sorted(compiled), "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main()
