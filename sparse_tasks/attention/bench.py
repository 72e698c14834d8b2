"""Times of a method and of dense attention, on the same inputs in one run.

A quick check of a machine: dense is torch's own attention. ``benchmarks/kernels.py`` compares with the fastest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.index import Kept, PageIndex
from sparse_tasks.attention.interactions import causal_count, ceil_div
from sparse_tasks.attention.kernels.dispatch import check_heads
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import DecodeMethod, EvictMethod, Method, PrefillMethod
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.steps import select_prompt
from sparse_tasks.core.errors import UsageError

_REPEATS: Final = 3  # on a CPU


@dataclass(frozen=True)
class Shape:
    """The shape of a layer.

    Attributes:
        query_heads: A multiple of ``kv_heads``.
        kv_heads: KV heads.
        head_size: A multiple of 16, up to 256.
        batch: Sequences per decoding step; prefill has one.
        dtype: Type of queries, keys and values.
        device: Their device.
    """

    query_heads: int = 32
    kv_heads: int = 8
    head_size: int = 128
    batch: int = 16
    dtype: str = "bfloat16"
    device: str = "cuda"


@dataclass(frozen=True)
class Timing:
    """Times of a method at a length: medians in milliseconds.

    Attributes:
        method: Its name.
        length: Tokens of the prompt, or in each sequence's cache.
        dense: Time of torch's attention.
        sparse: Time of the method, including its index.
        index: Time of its index alone; not in ``sparse`` for evicting methods, which make it once, after the prompt.
        selected: Selected density.
        computed: Computed density of the index that ran.
    """

    method: str
    length: int
    dense: float
    sparse: float
    index: float
    selected: float
    computed: float

    @property
    def speedup(self) -> float:
        """Speedup over dense attention."""
        return self.dense / self.sparse

    @property
    def bound(self) -> float:
        """The speedup if time were proportional to interactions."""
        return 1 / self.computed


def bench(method: Method, length: int, shape: Shape, *, seed: int = 0) -> Timing:
    """``bench_prefill`` or ``bench_decode``, depending on the method's phase.

    Raises:
        UsageError: The device is missing, or shapes do not fit.
    """
    if isinstance(method, PrefillMethod):
        return bench_prefill(method, length, shape, seed=seed)
    if isinstance(method, DecodeMethod | EvictMethod):
        return bench_decode(method, length, shape, seed=seed)
    raise UsageError("method", method.name, "has a phase that is not timed")


def bench_prefill(method: PrefillMethod, length: int, shape: Shape, *, seed: int = 0) -> Timing:
    """A prompt of one sequence.

    Raises:
        UsageError: The device is missing, or shapes do not fit.
    """
    impl = _check_device(shape)
    q, k, v = _inputs(length, shape, seed)
    indices = select_prompt(method, q, k, impl=impl)
    whole = causal_count(length, length)
    parts = [(causal_count(i.n_q, i.n_k) / whole, i) for i in indices]
    selected = sum(part * float(index.selected_density().mean()) for part, index in parts)
    computed = sum(part * float(index.density().mean()) for part, index in parts)
    del indices, parts
    rows = [x.transpose(0, 1)[None] for x in (q, k, v)]
    return Timing(
        method.name,
        length,
        _time(lambda: _dense(*rows, causal=True), shape.device),
        _time(lambda: sparse_prefill(method, q, k, v, impl=impl), shape.device),
        _time(lambda: select_prompt(method, q, k, impl=impl), shape.device),
        selected,
        computed,
    )


def bench_decode(method: DecodeMethod | EvictMethod, length: int, shape: Shape, *, seed: int = 0) -> Timing:
    """A step of a batch of sequences, each with ``length`` tokens in its cache.

    Raises:
        UsageError: The device is missing, or shapes do not fit.
    """
    impl = _check_device(shape)
    q, k, v = _inputs(length, shape, seed)
    last = q[-1:].expand(shape.batch, -1, -1).contiguous()
    # Sequences are equal, but each has its own memory.
    keys, values = (x.transpose(0, 1)[None].repeat(shape.batch, 1, 1, 1) for x in (k, v))
    lengths = torch.full((shape.batch,), length, dtype=torch.int32, device=shape.device)
    cache = PagedCache.contiguous(keys, values, lengths)
    select: Callable[[], object]
    if isinstance(method, EvictMethod):
        index = _kept_by_all(method.keep(q, k, v=v, impl=impl), lengths)

        def select() -> object:
            return method.keep(q, k, v=v, impl=impl)

        def step() -> object:
            return sparse_decode(last, cache, index, impl=impl)
    else:
        state = method.new_state(cache)
        for row in range(shape.batch):
            method.update(state, k, torch.arange(length, device=k.device) + row * length, length, impl=impl)
        index = method.select(last, cache, state, impl=impl)

        def select() -> object:
            return method.select(last, cache, state, impl=impl)

        def step() -> object:
            return sparse_decode(last, cache, method.select(last, cache, state, impl=impl), impl=impl)

    density = float(index.density().mean())
    return Timing(
        method.name,
        length,
        _time(lambda: _dense(last[:, :, None], keys, values, causal=False), shape.device),
        _time(step, shape.device),
        _time(select, shape.device),
        density,
        density,
    )


def _kept_by_all(kept: Kept, lengths: Tensor) -> PageIndex:
    """Kept tokens of one sequence, repeated for a batch."""
    batch, index = len(lengths), kept.pages()
    return PageIndex(index.pages.repeat(batch, 1, 1), index.counts.repeat(batch, 1), index.unit, lengths)


def _check_device(shape: Shape) -> str:
    """The implementation for the device.

    Raises:
        UsageError: The device is missing.
    """
    if shape.device == "cpu":
        return "torch"
    if shape.device != "cuda":
        raise UsageError("device", shape.device, "is unknown; choose from cuda, cpu")
    if not torch.cuda.is_available():
        raise UsageError("device", "cuda", "is not available to torch; cpu times the torch twins, at short lengths")
    return "triton"


def _inputs(length: int, shape: Shape, seed: int) -> list[Tensor]:
    """Structured q, k and v. Four heads are made and repeated, which is varied enough."""
    if shape.kv_heads > 0:
        check_heads(shape.query_heads, shape.kv_heads)
    group = shape.query_heads // max(1, shape.kv_heads)
    made = structured(length, min(4, shape.kv_heads) * group, min(4, shape.kv_heads), shape.head_size, seed,
                      device=shape.device)  # fmt: skip
    heads = (shape.query_heads, shape.kv_heads, shape.kv_heads)
    dtype = getattr(torch, shape.dtype)
    return [x.repeat(1, ceil_div(h, x.shape[1]), 1)[:, :h].to(dtype) for x, h in zip(made, heads, strict=True)]


def _dense(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    out: Tensor = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    return out


def _time(function: Callable[[], object], device: str) -> float:
    """The median in milliseconds, after a first run that compiles."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(function, return_mode="median"))
    function()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)
