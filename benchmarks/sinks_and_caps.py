"""Sinks and soft caps on one GPU: correctness of each kernel under them, and their cost.

    python benchmarks/sinks_and_caps.py             # some two minutes on an H200
    python benchmarks/sinks_and_caps.py --check     # only errors

Needs torch, triton and this package. Errors are the largest against attention in fp32, at ragged shapes, into memory
that is NaN until it is written; a kernel may be off by twice its error under plain softmax, plus ``EPSILON``.
Times are medians at 32,768 tokens and density .1, in one layer of 32 query and 8 KV heads of 128, bfloat16; a step of
decoding is of 16 sequences. Exits with 1 if an error is too large.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import BlockIndex, LineIndex, PageIndex, PrefillIndex
from sparse_tasks.attention.kernels.block_sparse import block_sparse_attention
from sparse_tasks.attention.kernels.gluon.block_sparse import serves
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode, sparse_decode_torch
from sparse_tasks.attention.kernels.triton.block_sparse import block_sparse_triton
from sparse_tasks.attention.kernels.triton.vertical_slash import vertical_slash_triton
from sparse_tasks.attention.kernels.vertical_slash import vertical_slash_attention
from sparse_tasks.attention.kernels.window_scores import window_scores, window_scores_torch
from sparse_tasks.attention.ops.lines import line_index
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.attention.softmax import PLAIN, Softmax

HEADS, KV_HEADS, SIZE, LENGTH, BATCH, PAGE, DENSITY = 32, 8, 128, 32_768, 16, 16, 0.1
EPSILON = 1e-3
CAP = 2.0  # for scores of deviation 1, so that it affects many of them
SHAPES = ((1000, 1000), (333, 1203), (1, 777))

Run = Callable[[Softmax], tuple[Tensor, ...]]


def softmaxes(heads: int) -> dict[str, Softmax]:
    """By name; some sinks outweigh all keys, some none."""
    sinks = torch.linspace(-4, 12, heads, device="cuda").bfloat16()
    return {
        "plain": PLAIN,
        "sinks": Softmax(sinks=sinks),
        "cap": Softmax(soft_cap=CAP),
        "sinks and cap": Softmax(sinks=sinks, soft_cap=CAP),
    }


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, device="cuda").to(dtype)


def blocks(n_q: int, n_k: int, heads: int, block_q: int, block_k: int, share: float) -> BlockIndex:
    """Random key blocks for each query block; the first query block has none."""
    rows, columns = BlockIndex.rows(n_q, n_k, block_q), -(-n_k // block_k)
    last = (torch.arange(1, rows + 1, device="cuda") + (n_k - n_q) // block_q) * block_q
    kept = torch.rand(heads, rows, columns, device="cuda") < share
    kept &= torch.arange(columns, device="cuda") * block_k < last[:, None]
    listed, counts = select_top(torch.where(kept, 0.0, float("-inf")), columns)
    counts[:, 0] = 0
    return BlockIndex(listed, counts, block_q, block_k, n_q, n_k)


def lines(n_q: int, n_k: int, heads: int, verticals: int, slashes: int) -> LineIndex:
    """Random verticals, and adjacent slashes."""
    columns, column_counts = select_top(torch.rand(heads, n_k, device="cuda"), verticals)
    starts = torch.randint(0, max(1, n_k - slashes), (heads, 1), device="cuda")
    distances = (starts + torch.arange(slashes, device="cuda")).int()
    counts = torch.full((heads,), slashes, dtype=torch.int32, device="cuda")
    return line_index(columns, column_counts, distances, counts, block_q=128, unit=64, n_q=n_q, n_k=n_k)


def paged(lengths: list[int], kv_heads: int, size: int) -> PagedCache:
    """A cache whose blocks are shuffled."""
    each = -(-max(lengths) // PAGE)
    keys, values = (drawn(len(lengths) * each, PAGE, kv_heads, size) for _ in range(2))
    table = torch.randperm(len(keys), device="cuda").int().view(len(lengths), each)
    return PagedCache(keys, values, table, torch.tensor(lengths, dtype=torch.int32, device="cuda"))


def some_pages(cache: PagedCache, share: float) -> PageIndex:
    """Random pages of each sequence; those past its end are listed, but empty."""
    pages = cache.capacity // PAGE
    scores = torch.rand(cache.batch, cache.kv_heads, pages, device="cuda")
    listed, counts = select_top(scores, max(1, int(share * pages)))
    return PageIndex(listed, counts, PAGE, cache.lengths)


def prefill_kernel(q: Tensor, k: Tensor, v: Tensor, index: PrefillIndex, gluon: bool, softmax: Softmax) -> Tensor:
    """One kernel by name; the default is Gluon's where supported."""
    scale = q.shape[2] ** -0.5
    if isinstance(index, LineIndex):
        if gluon:
            return vertical_slash_attention(q, k, v, index, softmax=softmax)
        return vertical_slash_triton(q, k, v, index, scale=scale, softmax=softmax)
    if gluon:
        return block_sparse_attention(q, k, v, index, softmax=softmax)
    return block_sparse_triton(q, k, v, index, scale=scale, softmax=softmax)


def checks() -> Iterator[tuple[str, int, Run, Run]]:
    """Name, query heads, kernel and reference of each case."""
    for n_q, n_k in SHAPES:
        for size in (64, 128, 256):
            heads, kv_heads = 8, 2
            q, k, v = drawn(n_q, heads, size), drawn(n_k, kv_heads, size), drawn(n_k, kv_heads, size)
            cases: list[tuple[str, PrefillIndex]] = [
                (f"blocks {block_q}x{block_k}", blocks(n_q, n_k, heads, block_q, block_k, 0.4))
                for block_q, block_k in ((128, 128), (128, 64), (64, 64), (16, 16))
            ]
            cases.append(("lines 128x64", lines(n_q, n_k, heads, min(40, n_k), min(70, n_k))))
            for name, index in cases:
                unit = index.unit if isinstance(index, LineIndex) else index.block_k
                for gluon in (True, False) if serves(q, v, index.block_q, unit) else (False,):
                    yield (
                        f"{'gluon' if gluon else 'triton'} {name}, {size}",
                        heads,
                        lambda s, q=q, k=k, v=v, i=index, g=gluon: (prefill_kernel(q, k, v, i, g, s),),  # type: ignore[misc]
                        lambda s, q=q, k=k, v=v, i=index: (attention_reference(q, k, v, i.pattern(), softmax=s),),  # type: ignore[misc]
                    )
            yield (
                f"triton window sums, {size}",
                heads,
                lambda s, q=q, k=k: tuple(window_scores(q, k, 64, softmax=s)),  # type: ignore[misc,return-value,arg-type]
                lambda s, q=q, k=k: tuple(  # type: ignore[misc,return-value,arg-type]
                    window_scores_torch(q[-64:], k, scale=q.shape[2] ** -0.5, slashes=True, softmax=s)
                ),
            )
    for lengths, kv_heads, group, size in (([1000, 1, 77], 2, 4, 64), ([9000, 31], 1, 8, 128), ([500, 40], 2, 2, 256)):
        cache, q = paged(lengths, kv_heads, size), drawn(len(lengths), kv_heads * group, size)
        index = some_pages(cache, 0.5)
        exact = PagedCache(cache.keys.float(), cache.values.float(), cache.block_table, cache.lengths)
        yield (
            f"triton decode, {size}",
            kv_heads * group,
            lambda s, q=q, c=cache, i=index: tuple(sparse_decode(q, c, i, softmax=s, return_lse=True)),  # type: ignore[misc]
            lambda s, q=q, c=exact, i=index: tuple(  # type: ignore[misc]
                sparse_decode_torch(q.float(), c, i, softmax=s, return_lse=True)
            ),
        )


def check() -> bool:
    """Print the largest error of each kernel under each softmax, and whether all are small enough."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    worst: dict[str, dict[str, float]] = {}
    for name, heads, kernel, reference in checks():
        for what, softmax in softmaxes(heads).items():
            error = 0.0
            for found, expected in zip(kernel(softmax), reference(softmax), strict=True):
                same = found.float() == expected.float()  # including infinities
                off = torch.where(same, 0.0, (found.float() - expected.float()).abs())
                error = max(error, float(off.nan_to_num(float("inf")).max()))
            known = worst.setdefault(name, {})
            known[what] = max(known.get(what, 0.0), error)
    torch.use_deterministic_algorithms(False)
    right = True
    print("largest error", *softmaxes(1), "", sep="  ")
    for name, errors in worst.items():
        fits = all(error <= 2 * errors["plain"] + EPSILON for error in errors.values())
        right &= fits
        print(f"{name:32}", *(f"{error:.1e}" for error in errors.values()), "" if fits else "TOO LARGE", sep="  ")
    return right


def milliseconds(run: Callable[[], object], repeats: int = 9) -> float:
    """The median, with the L2 cache emptied before each run."""
    run()
    flush = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        flush.zero_()
        torch.cuda._sleep(2_000_000)  # launches queue up meanwhile
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def time_all() -> None:
    """Print the times of each kernel under each softmax, and their ratio to plain softmax."""
    q, k, v = drawn(LENGTH, HEADS, SIZE), drawn(LENGTH, KV_HEADS, SIZE), drawn(LENGTH, KV_HEADS, SIZE)
    cache, last = paged([LENGTH] * BATCH, KV_HEADS, SIZE), drawn(BATCH, HEADS, SIZE)
    pages = some_pages(cache, DENSITY)
    tiles, small = (blocks(LENGTH, LENGTH, HEADS, b, b, DENSITY) for b in (128, 64))
    crossed = lines(LENGTH, LENGTH, HEADS, LENGTH // 40, LENGTH // 20)
    runs: dict[str, Callable[[Softmax], object]] = {
        "gluon blocks 128x128": partial(prefill_kernel, q, k, v, tiles, True),
        "gluon lines 128x64": partial(prefill_kernel, q, k, v, crossed, True),
        "triton blocks 128x128": partial(prefill_kernel, q, k, v, tiles, False),
        "triton blocks 64x64": partial(prefill_kernel, q, k, v, small, False),
        "triton lines 128x64": partial(prefill_kernel, q, k, v, crossed, False),
        "triton decode": lambda softmax: sparse_decode(last, cache, pages, softmax=softmax),
        "triton window sums": lambda softmax: window_scores(q, k, 64, softmax=softmax),
    }
    print("\nmilliseconds (over plain)", *softmaxes(1), "", sep="  ")
    for name, run in runs.items():
        times = {what: milliseconds(partial(run, softmax)) for what, softmax in softmaxes(HEADS).items()}
        print(f"{name:24}", *(f"{t:8.3f} ({t / times['plain']:.2f})" for t in times.values()), sep="  ")


def main() -> int:
    """Check, and time."""
    torch.manual_seed(0)
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    right = check()
    if "--check" not in sys.argv[1:]:
        time_all()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
