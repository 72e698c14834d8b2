"""Speed of the sparse kernels against dense attention, on one GPU, in one run.

    python benchmarks/kernels.py                    # all tables, some five minutes on an H100
    python benchmarks/kernels.py prefill decode     # some of them
    python benchmarks/kernels.py --check            # correctness: every kernel against fp32, on this GPU
    python benchmarks/kernels.py --check --only skipping
    python benchmarks/kernels.py --sanitize racecheck   # small shapes under NVIDIA's compute-sanitizer (memcheck, too)

Shapes are those of a layer of Llama-3.1-8B: 32 query heads, 8 KV heads, head size 128, bfloat16, causal. Dense is the
fastest of FlashAttention 3 (as shipped with vLLM; skipped with a note without vLLM) and cuDNN's. Times are medians;
dense and sparse alternate, and the launches of both are queued before the clock starts, as in a running model. Index is
everything that a method does before attention; sparse is index and attention together; bound is 1 / density.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from board import Board
from kernels_check import check_all, jobs, kind_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.index import BlockIndex, LineIndex, PageIndex, PrefillIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.page_summaries import page_summaries
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import METHODS, DecodeMethod, PrefillMethod
from sparse_tasks.attention.methods.blast import Blast
from sparse_tasks.attention.methods.block_sparse import BlockSparse
from sparse_tasks.attention.methods.quest import Quest
from sparse_tasks.attention.methods.vertical_slash import VerticalSlash
from sparse_tasks.attention.prefill import attend, sparse_prefill
from sparse_tasks.attention.steps import select_prompt
from sparse_tasks.core.length import label

HEADS, KV_HEADS, SIZE, BATCH, PAGE = 32, 8, 128, 16, 16
LONG, SHORT = 131_072, 32_768
BLOCK_SPARSE = {(LONG, 0.5): 1.6, (LONG, 0.2): 3.8, (LONG, 0.1): 7.5, (LONG, 0.05): 14.0, (SHORT, 0.1): 6.0}
"""Times as fast as dense, by tokens and density."""
RATE, LINES, INDEX, BUFFERS = 550, 6.0, 0.05, 0.02
DECODE = {0.1: 4.6, 0.05: 6.7}
DECODE_SHARE = 0.75
QUEUED = 30_000_000  # cycles that the GPU sleeps while launches queue up, near 20 ms

Run = Callable[[], object]


def medians(runs: dict[str, Run], repeats: int = 7) -> dict[str, float]:
    """Median milliseconds of each, run alternately."""
    for run in runs.values():
        run()
        run()
    flush = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            flush.zero_()  # flush the L2 cache
            torch.cuda._sleep(QUEUED)
            begin.record()
            run()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def flash_attention_3() -> Any:
    """FlashAttention 3 as shipped with vLLM, or None."""
    try:
        from vllm.vllm_flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


def dense_prefills(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Run]:
    """Other projects' dense causal attention of a prompt."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows = [x.transpose(0, 1)[None] for x in (q, k, v)]

    def cudnn() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            out: Tensor = torch.nn.functional.scaled_dot_product_attention(*rows, is_causal=True, enable_gqa=True)
            return out

    runs: dict[str, Run] = {"cuDNN": cudnn}
    flash = flash_attention_3()
    if flash is not None:
        ends = torch.tensor([0, len(q)], dtype=torch.int32, device="cuda")
        runs["FA3"] = lambda: flash(q, k, v, len(q), ends, len(q), cu_seqlens_k=ends, causal=True, fa_version=3)
    return runs


def fastest(runs: dict[str, Run], repeats: int = 3) -> tuple[str, Run]:
    """The name and the fastest run."""
    times = medians(runs, repeats)
    name = min(times, key=lambda n: times[n])
    return name, runs[name]


def random_prompt(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values without structure, so selections are scattered."""
    shapes = ((n, HEADS, SIZE), (n, KV_HEADS, SIZE), (n, KV_HEADS, SIZE))
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for shape in shapes)
    return q, k, v


def clustered_prompt(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Verticals and adjacent slashes, as in models' heads; four KV heads, each twice."""
    q, k, v = (x.repeat(1, 2, 1).bfloat16() for x in structured(n, HEADS // 2, KV_HEADS // 2, SIZE, device="cuda"))
    return q, k, v


def density_of(index: PrefillIndex) -> float:
    """Computed interactions over all, averaged over the heads."""
    return float(index.density().mean())


def rate(density: float, n: int, milliseconds: float) -> float:
    """TFLOP/s of the computed interactions: two products of ``SIZE`` numbers each."""
    return 4 * SIZE * HEADS * density * causal_count(n, n) / milliseconds / 1e9


def prefill(board: Board) -> None:
    """Block-sparse prefill, including its index."""
    table = Table("tokens", "density", "dense ms", "index ms", "sparse ms", "speedup", "goal", "bound", "of bound",
                  "TFLOP/s", title="Block-Sparse prefill, blocks of 128")  # fmt: skip
    for n in (SHORT, LONG):
        prefill_at(board, table, n)
        torch.cuda.empty_cache()
    board.console.print(table)


def prefill_at(board: Board, table: Table, n: int) -> None:
    """All densities at one length."""
    q, k, v = random_prompt(n)
    name, dense = fastest(dense_prefills(q, k, v))
    points = []
    for wanted in (1.0, 0.5, 0.2, 0.1, 0.05):
        method = BlockSparse(sparsity=1 - wanted)
        index = method.select(q, k) or BlockIndex.dense(n, n, method.block, method.block, "cuda")
        times = medians({
            "dense": dense,
            "index": partial(method.select, q, k),
            "kernel": partial(attend, q, k, v, index),
            "sparse": partial(sparse_prefill, method, q, k, v),
        })  # fmt: skip
        computed = density_of(index)
        speedup, reached = times["dense"] / times["sparse"], rate(computed, n, times["kernel"])
        points.append((computed, speedup))
        goal = ""
        if (n, wanted) in BLOCK_SPARSE:
            goal = board.goal(f"block_sparse, {label(n)}, density {wanted:g}", speedup, BLOCK_SPARSE[n, wanted])
        if (n, wanted) == (LONG, 0.1):
            board.say("TFLOP/s of computed tiles, 128k, density .10", reached, RATE)
            share = times["index"] / times["kernel"]
            board.say("index over kernel, block_sparse, 128k, density .10", share, INDEX, most=True)
        table.add_row(
            label(n), f"{computed:.3f}", f"{times['dense']:.2f} {name}", f"{times['index']:.2f}",
            f"{times['sparse']:.2f}", f"{speedup:.2f}", goal, f"{1 / computed:.1f}",
            f"{speedup * computed:.0%}", f"{reached:.0f}",
        )  # fmt: skip
    small = BlockSparse(sparsity=0.9, block=64)
    times = medians({"dense": dense, "sparse": partial(sparse_prefill, small, q, k, v)})
    board.console.print(f"Block-Sparse at {label(n)}: {break_even(points)}; with blocks of 64, density .10: "
                        f"{times['dense'] / times['sparse']:.2f} times as fast as dense")  # fmt: skip


def break_even(points: list[tuple[float, float]]) -> str:
    """The sparsity from which on sparse attention pays, between measured (density, speedup) along 1 / speedup."""
    for (more, slower), (less, faster) in itertools.pairwise(points):
        if slower < 1 <= faster:
            share = (1 / slower - 1) / (1 / slower - 1 / faster)
            return f"faster than dense from sparsity {1 - more + share * (more - less):.2f} on"
    return "faster than dense at all of these" if points[0][1] >= 1 else "slower than dense at all of these"


def lines(board: Board) -> None:
    """Vertical-slash prefill on clustered slashes: importance, top-k, conversion and attention."""
    table = Table("tokens", "density", "lines", "dense ms", "index ms", "sparse ms", "speedup", "goal", "bound",
                  "of bound", "TFLOP/s", "adaptive ms", title="Vertical-Slash prefill")  # fmt: skip
    for n in (SHORT, LONG):
        lines_at(board, table, n)
        torch.cuda.empty_cache()
    board.console.print(table)
    board.console.print("adaptive: the index when every call searches the numbers of lines for its sparsity")


def lines_at(board: Board, table: Table, n: int) -> None:
    """All densities at one length. The numbers of lines are searched once, and then given."""
    q, k, v = clustered_prompt(n)
    name, dense = fastest(dense_prefills(q, k, v))
    points = []
    for wanted in (0.5, 0.2, 0.1, 0.05):
        adaptive = VerticalSlash(sparsity=1 - wanted)
        solved = line_index(adaptive, q, k)
        method = VerticalSlash(verticals=int(solved.column_counts[0]), slashes=slashes_of(solved))
        index = line_index(method, q, k)
        times = medians({
            "dense": dense,
            "index": partial(method.select, q, k),
            "kernel": partial(attend, q, k, v, index),
            "sparse": partial(sparse_prefill, method, q, k, v),
            "adaptive": partial(adaptive.select, q, k),
        })  # fmt: skip
        computed, speedup = density_of(index), times["dense"] / times["sparse"]
        points.append((computed, speedup))
        goal = ""
        if (n, wanted) == (LONG, 0.1):
            goal = board.goal("vertical_slash, 128k, density .10", speedup, LINES)
            share = times["index"] / times["kernel"]
            board.say("index over kernel, vertical_slash, 128k, density .10", share, INDEX, most=True)
        table.add_row(
            label(n), f"{computed:.3f}", f"{method.verticals} + {method.slashes}", f"{times['dense']:.2f} {name}",
            f"{times['index']:.2f}", f"{times['sparse']:.2f}", f"{speedup:.2f}", goal, f"{1 / computed:.1f}",
            f"{speedup * computed:.0%}", f"{rate(computed, n, times['kernel']):.0f}", f"{times['adaptive']:.2f}",
        )  # fmt: skip
    board.console.print(f"Vertical-Slash at {label(n)}: {break_even(points)}")


def line_index(method: VerticalSlash, q: Tensor, k: Tensor) -> LineIndex:
    """The index, which at these lengths is sparse."""
    index = method.select(q, k)
    if index is None:
        raise RuntimeError("a sparse index was expected")
    return index


def slashes_of(index: LineIndex) -> int:
    """Number of slashes of each head."""
    if index.slash_counts is None:
        raise RuntimeError("slashes were expected")
    return int(index.slash_counts[0])


def skipping(board: Board) -> None:
    """BLASST, which selects on the fly, against dense attention and Block-Sparse of the same density."""
    table = Table("tokens", "kept", "threshold", "dense ms", "blast ms", "speedup", "block_sparse ms", "at density",
                  "speedup", title="BLASST prefill: scores of all tiles, values of those kept")  # fmt: skip
    for n in (SHORT, LONG):
        q, k, v = clustered_prompt(n)
        name, dense = fastest(dense_prefills(q, k, v))
        for wanted in (1.0, 0.3, 0.1):
            method, kept = skipping_at(q, k, v, wanted)
            block = BlockSparse(sparsity=1 - kept)
            times = medians({
                "dense": dense,
                "blast": partial(sparse_prefill, method, q, k, v),
                "block": partial(sparse_prefill, block, q, k, v),
            })  # fmt: skip
            _, (index, *_) = sparse_prefill(block, q, k, v)
            table.add_row(
                label(n), f"{kept:.3f}", f"{(method.scale or 0) / n:.1e}", f"{times['dense']:.2f} {name}",
                f"{times['blast']:.2f}", f"{times['dense'] / times['blast']:.2f}", f"{times['block']:.2f}",
                f"{density_of(index):.3f}", f"{times['dense'] / times['block']:.2f}",
            )  # fmt: skip
        torch.cuda.empty_cache()
    board.console.print(table)


def skipping_at(q: Tensor, k: Tensor, v: Tensor, wanted: float) -> tuple[Blast, float]:
    """The threshold, found by repeated halving, at which the kernel keeps about this share; and the share."""
    low, high, n = -60.0, 0.0, len(q)
    for _ in range(9):
        middle = low if wanted == 1 else (low + high) / 2
        method = Blast(scale=2.0**middle * n)
        _, indices = sparse_prefill(method, q, k, v)
        kept = sum(density_of(i) * causal_count(i.n_q, i.n_k) for i in indices) / causal_count(n, n)
        if wanted == 1:
            break
        low, high = (middle, high) if kept > wanted else (low, middle)
    return method, kept


def make_cache(n: int) -> tuple[PagedCache, Tensor]:
    """A paged cache of ``BATCH`` sequences whose blocks are shuffled, and a query for each."""
    each = n // PAGE
    shape = (BATCH * each, PAGE, KV_HEADS, SIZE)
    keys, values = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    table = torch.randperm(len(keys), device="cuda").int().view(BATCH, each)
    cache = PagedCache(keys, values, table, torch.full((BATCH,), n, dtype=torch.int32, device="cuda"))
    return cache, torch.randn(BATCH, HEADS, SIZE, dtype=torch.bfloat16, device="cuda")


def dense_decodes(q: Tensor, cache: PagedCache) -> dict[str, Run]:
    """Dense paged decoding: our own kernel with all pages, and FlashAttention 3."""
    n = cache.capacity
    runs: dict[str, Run] = {"ours": partial(sparse_decode, q, cache, PageIndex.dense(cache.lengths, KV_HEADS, PAGE, n))}
    flash = flash_attention_3()
    if flash is not None:
        ends = torch.arange(len(q) + 1, dtype=torch.int32, device="cuda")
        runs["FA3"] = lambda: flash(
            q, cache.keys, cache.values, 1, ends, n, seqused_k=cache.lengths, block_table=cache.block_table,
            causal=True, fa_version=3,
        )  # fmt: skip
    return runs


def decode(board: Board) -> None:
    """Quest, page selection included, against dense paged decoding of a batch."""
    table = Table("tokens", "budget", "dense ms", "select ms", "sparse ms", "speedup", "goal", "bound", "of bound",
                  title=f"Quest, pages of {PAGE}, batch {BATCH}, one layer")  # fmt: skip
    for n in (SHORT, LONG):
        decode_at(board, table, n)
        torch.cuda.empty_cache()
    board.console.print(table)
    board.console.print(f"bound: 1 / (budget + 1/{PAGE}), for the summaries of all pages are read")


def decode_at(board: Board, table: Table, n: int) -> None:
    """All budgets at one length."""
    cache, q = make_cache(n)
    state = page_summaries(cache, PAGE)
    runs = dense_decodes(q, cache)
    name = "FA3" if "FA3" in runs else "ours"
    points = []

    def step(method: Quest) -> object:
        return sparse_decode(q, cache, method.select(q, cache, state))

    for budget in (0.5, 0.2, 0.1, 0.05):
        method = Quest(sparsity=1 - budget, page=PAGE)
        select, sparse = partial(method.select, q, cache, state), partial(step, method)
        times = medians({"dense": runs[name], "select": select, "sparse": sparse}, 15)
        speedup, bound = times["dense"] / times["sparse"], 1 / (budget + 1 / PAGE)
        points.append((budget, speedup))
        goal = ""
        if n == LONG and budget in DECODE:
            goal = board.goal(f"quest, 128k, budget {budget:g}", speedup, DECODE[budget])
            board.say(f"share of the bound, quest, 128k, budget {budget:g}", speedup / bound, DECODE_SHARE)
        table.add_row(
            label(n), f"{budget:g}", f"{times['dense']:.3f} {name}", f"{times['select']:.3f}",
            f"{times['sparse']:.3f}", f"{speedup:.2f}", goal, f"{bound:.1f}", f"{speedup / bound:.0%}",
        )  # fmt: skip
    both = medians(runs, 15)
    every = ", ".join(f"{which} {both[which]:.3f} ms" for which in both)
    board.console.print(f"Quest at {label(n)}: {break_even(points)}; all pages: {every}")


def steps(board: Board) -> None:
    """All methods of decoding at sparsity .9, against dense paged decoding of a batch."""
    table = Table("method", "tokens", "dense ms", "select ms", "sparse ms", "speedup",
                  title=f"Methods of decoding at sparsity .9, batch {BATCH}, one layer")  # fmt: skip
    for n in (SHORT, LONG):
        steps_at(table, n)
        torch.cuda.empty_cache()
    board.console.print(table)


def steps_at(table: Table, n: int) -> None:
    """All methods at one length."""
    cache, q = make_cache(n)
    runs, written = dense_decodes(q, cache), cache.keys.flatten(0, 1)
    name = "FA3" if "FA3" in runs else "ours"
    for method in (kind(sparsity=0.9) for kind in METHODS if issubclass(kind, DecodeMethod)):
        state = method.new_state(cache)
        method.update(state, written, torch.arange(len(written), device="cuda"), PAGE)
        select = partial(method.select, q, cache, state)

        def sparse(select: Callable[[], PageIndex] = select) -> object:
            return sparse_decode(q, cache, select())

        times = medians({"dense": runs[name], "select": select, "sparse": sparse})
        table.add_row(
            method.name, label(n), f"{times['dense']:.3f} {name}", f"{times['select']:.3f}", f"{times['sparse']:.3f}",
            f"{times['dense'] / times['sparse']:.2f}",
        )  # fmt: skip


def memory(board: Board) -> None:
    """Memory of a prompt's index at density .10, and peak memory besides inputs and output."""
    table = Table("method", "tokens", "index MB", "of KV cache", "goal", "most held MB", title="Memory at density .10")
    for n in (SHORT, LONG):
        q, k, v = clustered_prompt(n)
        cache = sum(x.numel() * x.element_size() for x in (k, v))
        for method in prefill_methods():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            out, indices = sparse_prefill(method, q, k, v)
            # An index lives while its queries are computed; here all are kept, which counts as memory.
            index = max(i.nbytes() for i in indices)
            held = torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
            goal = board.goal(f"index of {method.name} at {label(n)}", index / cache, BUFFERS, most=True)
            table.add_row(
                method.name, label(n), f"{index / 1e6:.1f}", f"{index / cache:.2%}", goal, f"{held / 1e6:.0f}"
            )
    board.console.print(table)


def prefill_methods() -> list[PrefillMethod]:
    """Each at sparsity .9."""
    return [kind(sparsity=0.9) for kind in METHODS if issubclass(kind, PrefillMethod)]


def methods(board: Board) -> None:
    """All prefill methods at sparsity .9 on the same prompt."""
    table = Table("method", "tokens", "computed", "dense ms", "index ms", "sparse ms", "speedup",
                  title="Prefill methods at sparsity .9, as they come")  # fmt: skip
    for n in (SHORT, LONG):
        q, k, v = clustered_prompt(n)
        name, dense = fastest(dense_prefills(q, k, v))
        for method in prefill_methods():
            indices = select_prompt(method, q, k)
            computed = sum(density_of(i) * causal_count(i.n_q, i.n_k) for i in indices) / causal_count(n, n)
            times = medians({
                "dense": dense,
                "index": partial(select_prompt, method, q, k),
                "sparse": partial(sparse_prefill, method, q, k, v),
            }, 3)  # fmt: skip
            table.add_row(
                method.name, label(n), f"{computed:.3f}", f"{times['dense']:.1f} {name}", f"{times['index']:.2f}",
                f"{times['sparse']:.2f}", f"{times['dense'] / times['sparse']:.2f}",
            )  # fmt: skip
    board.console.print(table)


PARTS: dict[str, Callable[[Board], None]] = {
    "prefill": prefill,
    "lines": lines,
    "skipping": skipping,
    "decode": decode,
    "steps": steps,
    "memory": memory,
    "methods": methods,
}


def sanitize(tool: str, seed: int, only: str | None) -> int:
    """The exit code of a check of small shapes under a tool of compute-sanitizer, not 0 if the tool finds an error."""
    words = [
        "compute-sanitizer",
        "--tool",
        tool,
        "--error-exitcode",
        "9",
        sys.executable,
        __file__,
        "--check",
        "--small",
    ]
    words += ["--seed", str(seed), *(["--only", only] if only else [])]
    # Each tensor in memory of its own, so that reading beyond its end is noticed.
    return subprocess.run(words, env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, check=False).returncode


def main() -> None:
    """Measure, or check, and print; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is named")
    parser.add_argument("--check", action="store_true", help="compare every kernel with fp32, and measure nothing")
    kinds = sorted({kind_of(job) for job in jobs()})
    parser.add_argument("--only", choices=kinds, help="one kind of --check")
    parser.add_argument("--sanitize", choices=["memcheck", "racecheck"], help="--check small shapes under this tool")
    parser.add_argument("--small", action="store_true", help="of --check: small shapes, one after the other")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of --check; a fresh one each time")
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"no part is called {part!r}; choose from {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        parser.error("these are measurements of a GPU, and torch sees none")
    if arguments.sanitize:
        sys.exit(sanitize(arguments.sanitize, arguments.seed, arguments.only))
    board = Board(Console(width=150))
    properties = torch.cuda.get_device_properties(0)
    board.console.print(
        f"{properties.name}, torch {torch.__version__}, {HEADS} query heads, {KV_HEADS} KV heads of {SIZE}"
    )
    if arguments.check:
        check_all(board, arguments.seed, arguments.only, arguments.small)
    else:
        if flash_attention_3() is None:
            board.console.print(
                "vLLM is not installed: FlashAttention 3 is not among what dense attention is taken from"
            )
        for part in arguments.parts or PARTS:
            PARTS[part](board)
            torch.cuda.empty_cache()
    for line in board.missed:
        board.console.print(f"missed: {line}", markup=False)
    sys.exit(bool(board.missed))


if __name__ == "__main__":
    main()
