"""Correctness of the kernels on this GPU: ``python benchmarks/kernels.py --check``.

On ragged shapes, from one token to 131,072, with fresh numbers each time, into memory that is NaN until it is written.
A kernel may differ from fp32 by as much as torch in the kernel's precision, plus ``EPSILON``.
"""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from typing import Any, TypeAlias

import torch
from board import Board
from rich.table import Table
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.index import BlockIndex, PageIndex, PrefillIndex, SkipIndex
from sparse_tasks.attention.kernels.antidiagonal import antidiagonal_scores
from sparse_tasks.attention.kernels.block_scores import top_blocks, top_blocks_torch
from sparse_tasks.attention.kernels.components import keep_largest, keep_largest_torch, top_components
from sparse_tasks.attention.kernels.key_components import (
    component_weights,
    component_weights_torch,
    new_key_components,
    update_key_components,
)
from sparse_tasks.attention.kernels.page_budgets import page_budgets, page_budgets_torch
from sparse_tasks.attention.kernels.page_scores import page_scores, page_scores_torch
from sparse_tasks.attention.kernels.page_summaries import page_summaries, page_summaries_torch
from sparse_tasks.attention.kernels.pooling import mean_pool, mean_pool_torch
from sparse_tasks.attention.kernels.positions_read import add_positions_read, add_positions_read_torch
from sparse_tasks.attention.kernels.selection import select_mass, select_mass_torch, select_top, select_top_torch
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode, sparse_decode_torch
from sparse_tasks.attention.kernels.step_weights import step_weights, step_weights_torch
from sparse_tasks.attention.kernels.window_scores import sampled_scores, window_scores, window_scores_torch
from sparse_tasks.attention.method import METHODS, DecodeMethod, EvictMethod, PrefillMethod
from sparse_tasks.attention.ops.lines import line_index
from sparse_tasks.attention.ops.true_mass import block_lead
from sparse_tasks.attention.prefill import attend
from sparse_tasks.attention.softmax import LOG2_E, PLAIN, Softmax
from sparse_tasks.attention.vllm.plan import Steps
from sparse_tasks.attention.vllm.replay import CudaRecorder, Replays

__all__ = ["check_all", "jobs", "kind_of"]

PAGE = 16


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory from torch.empty with NaN or the largest integer, so that unwritten values show."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@dataclass
class Check:
    """Errors of kernels against their limits."""

    found: list[tuple[str, str, float, float]] = field(default_factory=list)

    def holds(self, kernel: str, what: str, error: float, allowed: float) -> None:
        """Record an error; NaN is never allowed."""
        self.found.append((kernel, what, error, allowed))


EPSILON = 2e-3
"""Of the norm, what a kernel may be worse than torch: the order of sums differs, and rounding with it."""


def distance(out: Tensor, reference: Tensor) -> float:
    """Relative, of norms."""
    norm = float(reference.double().norm())
    return float((out.double() - reference.double()).norm()) / max(norm, 1e-30)


def check_prompt(
    check: Check, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype, value: int | None = None
) -> None:
    """Block-sparse and vertical-slash prefill on random indices, of which at most 128 rows are compared."""
    q = torch.randn(n_q, heads, size, dtype=dtype, device="cuda")
    k, v = (torch.randn(n_k, kv_heads, each, dtype=dtype, device="cuda") for each in (size, value or size))
    share = min(1.0, 3000 / n_k)
    name = str(dtype).removeprefix("torch.")
    what = f"{n_q} of {n_k} tokens, {heads}/{kv_heads} heads of {sizes(size, value)}, {name}"
    for block_q, block_k in ((128, 128), (128, 64), (128, 16), (64, 64), (16, 16), (64, 16), (32, 128)):
        if (block_q < 64 and n_k > 2000) or (block_q >= 64 and n_k > 20_000 and block_k == 16):
            continue
        rows, columns = BlockIndex.rows(n_q, n_k, block_q), -(-n_k // block_k)
        last = (torch.arange(1, rows + 1, device="cuda") + (n_k - n_q) // block_q) * block_q
        drawn = torch.rand(heads, rows, columns, device="cuda") < share
        drawn &= torch.arange(columns, device="cuda") * block_k < last[:, None]
        blocks, counts = select_top(torch.where(drawn, 0.0, float("-inf")), columns)
        index = BlockIndex(blocks, counts, block_q, block_k, n_q, n_k)
        compare(check, f"block_sparse {block_q}x{block_k}", what, q, k, v, index)
    for unit in (64, 128):
        chosen, counts = (
            list(x)
            for x in zip(*(
                select_top(torch.rand(heads, n_k, device="cuda"), max(1, int(share * n_k / d))) for d in (4, 50)
            ), strict=True)
        )  # fmt: skip
        lined = line_index(chosen[0], counts[0], chosen[1], counts[1], block_q=128, unit=unit, n_q=n_q, n_k=n_k)
        compare(check, f"vertical_slash 128x{unit}", what, q, k, v, lined)


def compare(
    check: Check,
    kernel: str,
    what: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: PrefillIndex,
    softmax: Softmax = PLAIN,
) -> None:
    """A kernel's output against fp32, at some of the queries and heads."""
    with poisoned():
        out = attend(q, k, v, index, softmax=softmax)
    check.holds(kernel, f"{what}: not finite", float((~out.isfinite()).sum()), 0)
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    pattern, keys = index.pattern(), torch.arange(n_k, device="cuda")
    rows = torch.randperm(n_q, device="cuda")[:128].sort().values
    rows[-1] = n_q - 1
    position = rows[:, None] + (n_k - n_q)
    ours, theirs, exact = [], [], []
    for head in {0, heads - 1, heads // 2}:
        number = torch.tensor(head * pattern.heads // heads, device="cuda")
        seen = pattern.sees(number, position, keys) & (keys <= position)
        key, value = (x[:, head * kv_heads // heads] for x in (k, v))
        own = softmax.of(slice(head, head + 1), 1)
        scores = softmax.capped(q[rows, head].float() @ key.float().T * size**-0.5).masked_fill(~seen, float("-inf"))
        exact.append(torch.nan_to_num(own.weights(scores)) @ value.float())
        scores = softmax.capped((q[rows, head] @ key.T).float() * size**-0.5).masked_fill(~seen, float("-inf"))
        theirs.append((torch.nan_to_num(own.weights(scores)).to(q.dtype) @ value).float())
        ours.append(out[rows, head].float())
    reference = torch.cat(exact)
    error, allowed = distance(torch.cat(ours), reference), distance(torch.cat(theirs), reference) + EPSILON
    check.holds(kernel, what, error, allowed)


MARGIN = 1e-2
"""Of a power of two, how near to the threshold a tile has to be for sums in another order to decide otherwise."""


def check_skipping(
    check: Check, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype, softmax: str = ""
) -> None:
    """Prefill that skips tiles on the fly: which ones, and the output of the others."""
    q = 3 * torch.randn(n_q, heads, size, dtype=dtype, device="cuda")
    k, v = (torch.randn(n_k, kv_heads, size, dtype=dtype, device="cuda") for _ in "kv")
    k *= torch.rand(-(-n_k // 128), device="cuda").repeat_interleave(128)[:n_k, None, None].to(dtype)
    sinks = torch.randn(heads, device="cuda").to(dtype) if "sinks" in softmax else None
    own = Softmax(sinks=sinks, soft_cap=10.0 if "caps" in softmax else None)
    name = str(dtype).removeprefix("torch.")
    what = f"{n_q} of {n_k} tokens, {heads}/{kv_heads} heads of {size}, {name}{softmax}"
    lead = block_lead(q, k, SkipIndex.block_q, SkipIndex.block_k, own) * LOG2_E
    leads = lead[lead.isfinite()].sort(descending=True).values
    for share in (0.0, 0.1, 0.5, 1.0):
        mark = float(leads[int(share * (len(leads) - 1))]) if len(leads) else 0.0  # which keeps this share of tiles
        index = SkipIndex.new(max(2.0 ** min(mark, 0.0), 1e-300), heads, n_q, n_k, "cuda")
        compare(check, "skipping", f"{what}, {share:.0%} kept", q, k, v, index, own)
        wrong = (index.mask() != (lead > index.mark)) & ~((lead - index.mark).abs() < MARGIN)
        check.holds("skipping, which", f"{what}, {share:.0%} kept", float(wrong.sum()), 0)


def sizes(size: int, value: int | None) -> str:
    """The size of keys, and that of values if it differs."""
    return str(size) if value is None else f"{size} and {value}"


def check_decoding(
    check: Check, lengths: list[int], heads: int, kv_heads: int, size: int, dtype: torch.dtype, value: int | None = None
) -> None:
    """Paged decoding, bounds of pages and their summaries; values of another size are the first part of the keys."""
    each = -(-max(lengths) // PAGE)
    keys, values = (torch.randn(len(lengths) * each, PAGE, kv_heads, size, dtype=dtype, device="cuda") for _ in "kv")
    values = values if value is None else keys[..., :value]
    table = torch.randperm(len(keys), device="cuda").int().view(len(lengths), each)
    cache = PagedCache(keys, values, table, torch.tensor(lengths, dtype=torch.int32, device="cuda"))
    q = torch.randn(len(lengths), heads, size, dtype=dtype, device="cuda")
    name = str(dtype).removeprefix("torch.")
    what = f"{max(lengths)} tokens, batch {len(lengths)}, {heads}/{kv_heads} heads of {sizes(size, value)}, {name}"
    exact = PagedCache(keys.float(), values.float(), table, cache.lengths)
    for unit, share in ((PAGE, 0.3), (1, 0.1), (64, 1.0)):
        pages = -(-max(lengths) // unit)
        chosen, counts = select_top(
            torch.rand(len(lengths), kv_heads, pages, device="cuda"), max(1, int(pages * share))
        )
        for weighted in (False, True):
            log_weights = torch.randn(chosen.shape, device="cuda") if weighted else None
            index = PageIndex(chosen, counts, unit, cache.lengths, log_weights)
            with poisoned():
                out = sparse_decode(q, cache, index)
            reference = sparse_decode_torch(q.float(), exact, index)
            rounded = sparse_decode_torch(q, cache, index)
            if not all(isinstance(x, Tensor) for x in (out, reference, rounded)):
                raise TypeError("tensors were expected")
            # The twin only rounds its output, so the error of a 16-bit product is allowed in addition.
            allowed = distance(rounded, reference) + EPSILON + (0.0 if dtype == torch.float32 else 2e-3)
            kernel = f"sparse_decode, pages of {unit}{', weighted' if weighted else ''}"
            check.holds(kernel, what, distance(out, reference), allowed)
        read = torch.zeros(2, len(lengths), 1, kv_heads, dtype=torch.int64, device="cuda").unbind()
        several = (chosen[None], counts[None], cache.lengths)
        slots = torch.arange(len(lengths), device="cuda").flip(0)
        add_positions_read(read[0], slots, *several, unit=unit)
        add_positions_read_torch(read[1], slots, *several, unit=unit)
        check.holds(f"positions_read, pages of {unit}", what, float((read[0] != read[1]).sum()), 0)
    with poisoned():
        for density in (0.1, 1 / 3, 1.0):
            budgets = page_budgets(cache.lengths, density, PAGE)
            wrong = budgets != page_budgets_torch(cache.lengths, density, PAGE)
            check.holds("page_budgets", what, float(wrong.sum()), 0)
            random = torch.rand(len(lengths), kv_heads, -(-max(lengths) // PAGE), device="cuda")
            chosen, counts = select_top(random, budgets[:, None], width=random.shape[2])
            twins, twin_counts = select_top_torch(random, budgets[:, None], width=random.shape[2])
            past = torch.arange(random.shape[2], device="cuda") >= twin_counts[..., None]
            check.holds("select_top, budgets", what, float((counts != twin_counts).sum()), 0)
            check.holds("select_top, budgets", what, float(((chosen != twins) & ~past).sum()), 0)
        summaries, twin = page_summaries(cache, PAGE), page_summaries_torch(cache, PAGE)
        different = float((summaries.float() != twin.float()).sum())
        check.holds("page_summaries", what, different, 0)
        scores = page_scores(q, summaries, cache, unit=PAGE)
    twin_scores = page_scores_torch(q, summaries, cache, unit=PAGE)
    held = twin_scores.isfinite()
    check.holds("page_scores", f"{what}: which pages", float((held != scores.isfinite()).sum()), 0)
    check.holds("page_scores", what, distance(scores[held], twin_scores[held]), 1e-4)
    pages = -(-max(lengths) // PAGE)
    chosen, counts = select_top(torch.rand(len(lengths), kv_heads, pages, device="cuda"), max(1, pages // 4))
    some = PageIndex(chosen, counts, PAGE, cache.lengths)
    factors = torch.rand(len(lengths), heads, device="cuda") / size**0.5
    with poisoned():
        largest, of_each = keep_largest(q, kv_heads, 32)
    twin_largest, twin_of_each = keep_largest_torch(q, kv_heads, 32)
    # Ties are broken arbitrarily, which does not change the scales.
    other = (largest != 0).sum(2) != (twin_largest != 0).sum(2)
    check.holds("keep_largest", f"{what}: how many", float(other.sum()), 0)
    check.holds("keep_largest", what, distance(of_each, twin_of_each), 1e-5)
    components, slots = new_key_components(keys), torch.arange(keys.shape[0] * PAGE, device="cuda")
    update_key_components(components, keys.flatten(0, 1), slots)
    check.holds("key_components", what, float((components != keys.permute(0, 2, 3, 1)).sum()), 0)
    for r in (1, 32, 100):
        with poisoned():
            numbers, scales = top_components(q, kv_heads, r)
            weights = component_weights(q, components, cache, numbers, scales)
        kept = (keep_largest(q, kv_heads, r)[0].view(len(lengths), kv_heads, -1, size) != 0).any(2)
        listed = torch.zeros_like(kept).scatter_(2, numbers.long(), torch.ones_like(numbers, dtype=torch.bool))
        check.holds("top_components", f"{what}, {r}", float((kept & ~listed).sum()), 0)
        twin_weights = component_weights_torch(q, components, cache, numbers, scales)
        held = twin_weights.isfinite()
        check.holds("component_weights", f"{what}, {r}: which", float((held != weights.isfinite()).sum()), 0)
        check.holds("component_weights", f"{what}, {r}", distance(weights[held], twin_weights[held]), 1e-3)
    # As used by vattention, oracles and twilight.
    for kind, of, scales, levels in (("some factors", None, factors, None), ("all", None, None, None),
                                     ("pages in 4 bits", some, None, 7)):  # fmt: skip
        with poisoned():
            weights = step_weights(q, cache, of, scales=scales, levels=levels)
        twin_weights = step_weights_torch(q, cache, of, scales=scales, levels=levels)
        held = twin_weights.isfinite()
        check.holds(f"step_weights, {kind}", f"{what}: which", float((held != weights.isfinite()).sum()), 0)
        check.holds(f"step_weights, {kind}", what, distance(weights[held], twin_weights[held]), 1e-3)


def check_index(check: Check, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    """Functions that build indices."""
    q = torch.randn(n_q, heads, size, dtype=dtype, device="cuda")
    k = torch.randn(n_k, kv_heads, size, dtype=dtype, device="cuda")
    name = str(dtype).removeprefix("torch.")
    what = f"{n_q} of {n_k} tokens, {heads}/{kv_heads} heads of {size}, {name}"
    with poisoned():
        pooled, keys = mean_pool(q, 64, offset=n_k - n_q), mean_pool(k, 64)
        check.holds("mean_pool", what, distance(pooled, mean_pool_torch(q, 64, offset=n_k - n_q)), 4e-3)
        wanted = max(3, keys.shape[1] // 10)
        blocks = top_blocks(pooled, keys, wanted, n_q=n_q, n_k=n_k, block_q=64, block_k=64)
        twin = top_blocks_torch(pooled, keys, wanted, n_q=n_q, n_k=n_k, block_q=64, block_k=64)
        # Nearly equal products may swap places.
        check.holds("top_blocks", what, float((blocks.mask() != twin.mask()).double().mean()), 1e-3)
        for window in (1, 64, 100):
            ours = window_scores(q, k, window)
            theirs = window_scores_torch(q[-window:], k, scale=size**-0.5, slashes=True)
            if ours.slash is None or theirs.slash is None:
                raise RuntimeError("sums by distance were expected")
            check.holds("window_scores, verticals", what, distance(ours.vertical, theirs.vertical), 1e-3)
            check.holds("window_scores, slashes", what, distance(ours.slash, theirs.slash), 1e-3)
        some = q[:200]
        positions = torch.randperm(n_k, device="cuda")[: len(some)].sort().values.int()
        ends = positions - torch.randint(-40, 300, (len(some),), dtype=torch.int32, device="cuda")
        sampled = sampled_scores(some, k, positions, ends)
        twin_of_some = window_scores_torch(some, k, positions, ends, scale=size**-0.5, slashes=False).vertical
        check.holds("sampled_scores", what, distance(sampled, twin_of_some), 1e-3)
        scores = torch.rand(heads, n_k, device="cuda").round(decimals=2)  # with many ties
        for count in (1, n_k // 10 + 1, n_k):
            (lists, counts), (twins, twin_counts) = (
                select_top(scores, count),
                select_top_torch(scores, count, width=count),
            )
            check.holds("select_top", what, float((counts != twin_counts).sum()), 0)
            check.holds("select_top", what, float((lists != twins).sum()), 0)
        weights = torch.rand(heads, n_k, device="cuda") ** 8
        _, counts = select_mass(weights, 0.9, width=n_k)
        _, twin_counts = select_mass_torch(weights, 0.9, width=n_k)
        check.holds("select_mass", what, float((counts - twin_counts).abs().max()), max(1.0, n_k * 1e-4))
    if n_k <= 2000:
        fast = antidiagonal_scores(q, k)
        slow = antidiagonal_scores(q.float().cpu(), k.float().cpu(), impl="torch")
        check.holds("antidiagonal_scores", what, distance(fast.cpu(), slow), 1e-2)


def check_waiting(check: Check) -> None:
    """No method synchronises while it builds an index: torch is set to raise if something does."""
    n = 3000
    q, k, _ = structured(n, 8, 2, 128, device="cuda")
    q, k = q.bfloat16(), k.bfloat16()
    lengths = torch.tensor([n, 1717], dtype=torch.int32, device="cuda")
    rows = k.transpose(0, 1)[None].repeat(2, 1, 1, 1)
    cache = PagedCache.contiguous(rows, rows, lengths)
    for kind in METHODS:
        for method in (kind(), kind(sparsity=0.8)):
            state = method.new_state(cache) if isinstance(method, DecodeMethod) else None
            for mode in ("default", "error"):  # the first run compiles
                torch.cuda.set_sync_debug_mode(mode)
                try:
                    if isinstance(method, PrefillMethod):
                        method.select(q, k)
                    elif isinstance(method, EvictMethod):
                        method.keep(q, k)
                    elif isinstance(method, DecodeMethod):
                        method.select(q[-2:], cache, state)
                except RuntimeError as error:
                    check.holds("waiting", f"{method.name} ({method.settings()}): {error}", 1.0, 0.0)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            check.holds("waiting", method.name, 0.0, 0.0)


def check_replays(check: Check) -> None:
    """Decoding of growing sequences from CUDA graphs reads and returns the same as direct calls."""
    layers, each, size = 3, 40, 128
    table = torch.randperm(2 * each, device="cuda").int().view(2, each)
    keys, values = (torch.randn(layers, 2 * each, PAGE, 2, size, device="cuda").bfloat16() for _ in "kv")
    cached, q = torch.zeros(2, dtype=torch.int32, device="cuda"), torch.empty(2, 8, size, device="cuda").bfloat16()
    outs = [torch.empty_like(q) for _ in range(layers)]
    for kind in METHODS:
        if not issubclass(kind, DecodeMethod) or not kind.recordable:
            continue
        method, replays = kind(sparsity=0.7), Replays(CudaRecorder(q.device))
        caches = [PagedCache(*both, table, cached) for both in zip(keys, values, strict=True)]

        def step(cache: PagedCache, out: Tensor, method: DecodeMethod = method) -> PageIndex:
            index = method.select(q, cache, None)
            sparse_decode(q, cache, index, out=out)
            return index

        for length in range(300, 320):
            cached.copy_(torch.tensor([length, 2 * length], dtype=torch.int32))
            q.normal_()
            steps = Steps((), ("a", "b"), (length, 2 * length), None, table, cached)
            found = [replays.run(steps, n, (q, out), partial(step, caches[n], out)) for n, out in enumerate(outs)]
            for layer, index in enumerate(found):
                alone, what = torch.empty_like(q), f"{method.name}, {length} tokens, layer {layer}"
                read = index.computed() != step(caches[layer], alone).computed()
                check.holds("replays, read", what, float(read.sum()), 0)
                check.holds("replays, attention", what, distance(outs[layer], alone), 1e-6)


Job: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]


SMALL = 1200
"""Most keys of what is checked under compute-sanitizer, which makes kernels a hundred times as slow."""


def jobs(only: str | None = None, small: bool = False) -> list[Job]:
    """All checks, or one kind, or small shapes only, in parts of about ten seconds each, most of it compilation."""
    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    prompts = [
        (1, 1, 4, 4, 64, brain), (1, 2, 8, 1, 128, half), (17, 17, 4, 2, 96, brain), (130, 130, 8, 1, 64, half),
        (300, 1111, 6, 2, 128, brain), (777, 777, 8, 8, 128, half), (1000, 1000, 4, 1, 96, single),
        (2049, 3333, 8, 2, 128, brain), (4111, 4111, 4, 4, 64, brain), (1500, 1500, 4, 2, 80, half),
        (900, 1000, 2, 1, 256, brain), (500, 500, 2, 2, 16, single), (8192, 8192, 32, 8, 128, brain),
        (4096, 131_072, 8, 1, 128, brain), (131_072, 131_072, 4, 1, 128, brain), (131_071, 131_071, 2, 2, 64, half),
        (1500, 2000, 4, 4, 192, brain, 128), (700, 700, 2, 2, 48, half, 80),  # latent attention, expanded
    ]  # fmt: skip
    caches = [
        ([1], 4, 4, 64, brain), ([130, 1, 77], 8, 1, 128, half), ([1000, 16, 17], 6, 2, 96, brain),
        ([4096, 31], 8, 8, 128, brain), ([333, 2000], 8, 2, 80, single), ([131_072, 5, 70_001], 8, 2, 128, brain),
        ([90], 8, 2, 256, brain), ([131_071], 32, 8, 64, half),
        ([20_000, 31, 1], 128, 1, 576, brain, 512), ([777], 16, 1, 576, half, 512), ([333], 20, 1, 576, single, 512),
    ]  # fmt: skip
    skipping = [
        (1, 1, 4, 4, 64, brain), (130, 130, 8, 1, 64, half), (190, 1000, 4, 2, 128, half),
        (300, 1111, 6, 2, 128, brain), (777, 777, 8, 8, 128, half), (700, 900, 4, 1, 64, half, ", sinks"),
        (700, 900, 4, 1, 128, brain, ", caps"), (1400, 1999, 8, 2, 128, brain, ", sinks and caps"),
        (2049, 3333, 8, 2, 128, brain), (4111, 4111, 4, 4, 64, brain),
        (8192, 8192, 32, 8, 128, brain), (4096, 131_072, 8, 1, 128, brain),
    ]  # fmt: skip
    found: list[Job] = [(check_waiting, ()), (check_replays, ())]
    found += [(check_prompt, prompt) for prompt in reversed(prompts)]
    found += [(check_skipping, prompt) for prompt in reversed(skipping)]
    found += [(check_decoding, cache) for cache in reversed(caches)]
    found += [(check_index, prompt[:6]) for prompt in prompts if prompt[1] <= 20_000]
    found.append((check_index, (2000, 131_072, 8, 2, 128, brain)))
    if small:
        found = [job for job in found if job[1] and most_keys(job) <= SMALL]
    return [job for job in found if only in (None, kind_of(job))]


def most_keys(job: Job) -> int:
    """Keys of a prompt, or of the longest sequence in a cache."""
    first, second = job[1][:2]
    return max(first) if isinstance(first, list) else int(second)


def kind_of(job: Job) -> str:
    """The name of a kind, as of ``--only``."""
    return job[0].__name__.removeprefix("check_")


def run_job(number: int, seed: int, only: str | None, small: bool) -> list[tuple[str, str, float, float]]:
    """Run one of the jobs, which are numbered so that a process can be asked for one."""
    torch.manual_seed(seed + number)
    function, arguments = jobs(only, small)[number]
    check = Check()
    try:
        function(check, *arguments)
    except Exception:  # a failed job counts as missed, and the others continue
        check.holds(function.__name__, f"{arguments}: {traceback.format_exc(limit=-3)}", math.nan, 0.0)
    return check.found


def check_all(board: Board, seed: int, only: str | None = None, small: bool = False) -> None:
    """Every kernel, or one kind, on ragged shapes, from one token to 131,072, or on small ones in this process."""
    processes = max(1, min(8, (os.cpu_count() or 2) // 2))
    numbers = range(len(jobs(only, small)))
    worst: dict[str, tuple[float, float, str]] = {}
    count = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        run = map if small else pool.map
        for found in run(run_job, numbers, repeat(seed), repeat(only), repeat(small)):
            for kernel, what, error, allowed in found:
                count += 1
                if not error <= allowed:
                    board.missed.append(f"{kernel}, {what}: error {error:.2e}, allowed {allowed:.2e}")
                share = error / allowed if allowed else float(error > 0)
                if kernel not in worst or not share <= worst[kernel][0]:
                    worst[kernel] = (share, error, what)
    table = Table("kernel", "worst error", "of what is allowed", "at", title=f"{count} checks, seed {seed}")
    for kernel, (share, error, what) in sorted(worst.items()):
        table.add_row(kernel, f"{error:.1e}", f"{share:.0%}" if math.isfinite(share) else "NaN", what)
    board.console.print(table)
