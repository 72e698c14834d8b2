"""Our block-sparse prefill against those of other projects, on the same causal masks, on one Hopper GPU.

    python benchmarks/shootout.py --install     # installs what it can, reports the rest, and measures
    python benchmarks/shootout.py --quick       # three lengths, three densities, in some two minutes

32 query heads, 8 KV heads of 128, bfloat16. Each KV head has a random mask of its own, of square blocks, with the
diagonal in it; FlashInfer's takes no finer one. Every kernel is first tried on a short prompt in a separate process, so
one that fails or hangs only gives a line of output. Index is the time from the mask to a kernel's input, host included;
kernel is the median of runs that alternate with dense attention, which is the fastest of FlashAttention 3 and 4 and
cuDNN. The error is that of some queries against fp32, relative, of norms; cuDNN's has no causal mask within the
diagonal's blocks, and is compared with what it should compute.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kernels import dense_prefills, fastest, medians, random_prompt
from rich.console import Console
from rich.table import Table
from rivals import RIVALS, Rival, dense_fa4
from torch import Tensor

from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.core.length import label

LENGTHS, QUICK_LENGTHS = (8192, 16_384, 32_768, 65_536, 131_072), (32_768, 131_072, 8192)
DENSITIES, QUICK_DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05), (0.2, 0.1, 0.05)
BLOCKS = (128, 64)
SHORT = 4096
WRONG = 0.02
"""Relative error from which on a kernel computes something else; rounding to bfloat16 gives some .005."""

Row = dict[str, Any]


def random_mask(n: int, block: int, kv_heads: int, density: float) -> Tensor:
    """Bool ``[kv_heads, rows, columns]``: the diagonal and random blocks before it, with about this causal density."""
    rows = n // block
    own, before = rows * (block * (block + 1) // 2), rows * (rows - 1) // 2 * block**2
    share = (density * causal_count(n, n) - own) / max(before, 1)
    random = torch.rand(kv_heads, rows, rows, device="cuda", generator=torch.Generator("cuda").manual_seed(n + block))
    number = torch.arange(rows, device="cuda")
    return ((random < share) & (number < number[:, None])) | (number == number[:, None])


def density_of(mask: Tensor, block: int) -> float:
    """Causal interactions of the mask's blocks over all, averaged over the heads."""
    n = mask.shape[1] * block
    own = mask.shape[1] * (block * (block + 1) // 2)
    return (own + (float(mask.sum()) / len(mask) - mask.shape[1]) * block**2) / causal_count(n, n)


def error_of(out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, block: int, causal: bool) -> float:
    """Relative error of 64 queries of three heads."""
    (n, heads, size), kv_heads = q.shape, k.shape[1]
    if out.shape != q.shape:
        raise ValueError(f"the output has the shape {tuple(out.shape)}, not {tuple(q.shape)}")
    rows = torch.randperm(n, device="cuda", generator=torch.Generator("cuda").manual_seed(n))[:64]
    rows[0] = n - 1
    keys = torch.arange(n, device="cuda")
    wrong = norm = 0.0
    for head in (0, heads // 2 + 1, heads - 1):
        of = head * kv_heads // heads
        seen = mask[of, rows // block].repeat_interleave(block, 1)
        if causal:
            seen &= keys <= rows[:, None]
        scores = (q[rows, head].float() @ k[:, of].float().T * size**-0.5).masked_fill(~seen, float("-inf"))
        exact = scores.softmax(-1) @ v[:, of].float()
        wrong += float((out[rows, head].float() - exact).square().sum())
        norm += float(exact.square().sum())
    return float((wrong / norm) ** 0.5)


def reported(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def probe(name: str) -> str:
    """Try a kernel on a short prompt, and return its error, or ""."""
    rival = next(rival for rival in RIVALS if rival.name == name)
    q, k, v = random_prompt(SHORT)
    problems = []
    for block in BLOCKS:
        mask = random_mask(SHORT, block, k.shape[1], 0.3)
        try:
            index, run = rival.make(q, k, v, block)
            error = error_of(run(index(mask)), q, k, v, mask, block, rival.causal)
            if not error < WRONG:
                problems.append(f"blocks of {block}: wrong, relative error {error:.3g}")
        except Exception as failed:  # whatever another's package raises is the result
            problems.append(f"blocks of {block}: {reported(failed)}")
    return "; ".join(problems) if len(problems) == len(BLOCKS) else ""


def probed(rival: Rival, seconds: float) -> str:
    """``probe`` in a separate process."""
    try:
        ran = subprocess.run(
            [sys.executable, __file__, "--probe", rival.name], capture_output=True, text=True, timeout=seconds,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not ready after {seconds:.0f} s"
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return f"ended with {ran.returncode}: {last[:300]}"
    result: str = json.loads(ran.stdout.splitlines()[-1])
    return result


def install() -> dict[str, str]:
    """Install missing packages; return what could not be installed, and why."""
    failed = {}
    for package in sorted({rival.package for rival in RIVALS} - {""}):
        try:
            importlib.metadata.version(package)
            continue
        except importlib.metadata.PackageNotFoundError:
            ran = subprocess.run(
                [sys.executable, "-m", "pip", "install", "--pre", package], capture_output=True, text=True, check=False
            )
        if ran.returncode:
            failed[package] = (ran.stderr.strip().splitlines() or ["no message"])[-1]
    return failed


def measure(
    rivals: list[Rival], lengths: tuple[int, ...], densities: tuple[float, ...], until: float, repeats: int
) -> Iterator[Row]:
    """A row for each kernel, length, block size and density, until the time is up."""
    for n in lengths:
        q, k, v = random_prompt(n)
        runs = dense_prefills(q, k, v)
        if any(rival.name == "flash-attn-4" for rival in rivals):
            runs["FA4"] = partial(dense_fa4, q, k, v)
        name, dense = fastest({key: run for key, run in runs.items() if works(run)}, 2)
        for block in BLOCKS:
            made: dict[str, Any] = {}
            for density in densities:
                if time.monotonic() > until:
                    yield {"tokens": n, "block": block, "density": density, "note": "no time left"}
                    continue
                mask = random_mask(n, block, k.shape[1], density)
                yield from measure_at(rivals, made, q, k, v, block, mask, f"{name}", dense, repeats)
            made.clear()
            torch.cuda.empty_cache()


def works(run: Callable[[], object]) -> bool:
    """Whether dense attention runs."""
    try:
        run()
        torch.cuda.synchronize()
    except Exception:  # third-party package; others may work
        return False
    return True


def measure_at(
    rivals: list[Rival],
    made: dict[str, Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: int,
    mask: Tensor,
    name: str,
    dense: Callable[[], object],
    repeats: int,
) -> Iterator[Row]:
    """All kernels on one mask, alternately."""
    runs: dict[str, Callable[[], object]] = {"dense": dense}
    rows: dict[str, Row] = {}
    density = density_of(mask, block)
    for rival in rivals:
        row: Row = {"kernel": rival.name, "tokens": len(q), "block": block, "density": density, "note": ""}
        rows[rival.name] = row
        try:
            if rival.name not in made:
                made[rival.name] = rival.make(q, k, v, block)
            index, run = made[rival.name]
            row["error"] = error_of(run(index(mask)), q, k, v, mask, block, rival.causal)
            torch.cuda.synchronize()
            began = time.perf_counter()
            ready = index(mask)
            torch.cuda.synchronize()
            row["index_ms"] = 1e3 * (time.perf_counter() - began)
            runs[rival.name] = partial(run, ready)
        except Exception as failed:  # whatever another's package raises is the result
            row["note"] = reported(failed)
        else:
            row["note"] = "" if row["error"] < WRONG else "wrong"
            row["note"] += "" if rival.causal else "not causal on the diagonal"
    times = medians(runs, repeats)
    for key, row in rows.items():
        row |= {"dense": name, "dense_ms": times["dense"], "ms": times.get(key)}
    yield from rows.values()


def table(rows: list[Row]) -> Table:
    """All rows."""
    printed = Table("tokens", "block", "density", "kernel", "ms", "x dense", "index ms", "x with it", "bound", "error",
                    "note", title="Block-sparse prefill, 32/8 heads of 128, bfloat16, causal")  # fmt: skip
    before = None
    for row in rows:
        at = (row["tokens"], row["block"], round(row["density"], 3))
        if before is not None and at != before:
            printed.add_section()
        before = at
        cells = [label(row["tokens"]), str(row["block"]), f"{row['density']:.3f}", row.get("kernel", "")]
        if row.get("ms") is not None:
            ms, index, dense = row["ms"], row["index_ms"], row["dense_ms"]
            cells += [f"{ms:.2f}", f"{dense / ms:.2f}", f"{index:.2f}", f"{dense / (ms + index):.2f}",
                      f"{1 / row['density']:.1f}", f"{row['error']:.1e}"]  # fmt: skip
        else:
            cells += [""] * 6
        printed.add_row(*cells, row["note"])
    return printed


def picture(rows: list[Row], path: Path) -> None:
    """Speed against dense by density, a panel for each length and block size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    there = [row for row in rows if row.get("ms") is not None]
    panels = sorted({(row["block"], row["tokens"]) for row in there})
    figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels) + 0.6, 3.3), squeeze=False, sharey=True)
    for axis, (block, n) in zip(axes[0], panels, strict=True):
        shown = [row for row in there if (row["block"], row["tokens"]) == (block, n)]
        for number, rival in enumerate(RIVALS):
            rows = [row for row in shown if row["kernel"] == rival.name]
            points = sorted((row["density"], row["dense_ms"] / row["ms"]) for row in rows)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=rival.name, color=f"C{number}")
        densities = sorted({row["density"] for row in shown})
        axis.plot(densities, [1 / d for d in densities], color="0.7", linestyle=":", marker=".", label="1 / density")
        axis.set(xscale="log", yscale="log", title=f"{label(n)}, blocks of {block}", xlabel="density")
        axis.xaxis.set(major_locator=FixedLocator(densities), minor_locator=NullLocator())
        axis.xaxis.set_major_formatter(lambda density, _: f"{density:.2g}")
        axis.yaxis.set(major_locator=FixedLocator([1, 2, 5, 10, 20]), minor_locator=NullLocator())
        axis.yaxis.set_major_formatter(lambda speed, _: f"{speed:g}x")
    axes[0][0].set_ylabel("speed of dense attention")
    handles = {
        text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Try all, measure what works, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install what is missing first")
    parser.add_argument("--quick", action="store_true", help="three lengths and densities")
    parser.add_argument("--only", nargs="+", choices=[rival.name for rival in RIVALS], help="kernels beside ours")
    parser.add_argument("--seconds", type=float, help="no new mask after that; 110 with --quick")
    parser.add_argument("--probe-seconds", type=float, help="for each kernel's first run; 60 with --quick, else 400")
    parser.add_argument("--picture", type=Path, default=Path("shootout.png"))
    parser.add_argument("--json", type=Path, help="rows, for what comes after")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("these are measurements of a GPU, and torch sees none")
    if arguments.probe:
        sys.stdout.write(json.dumps(probe(arguments.probe)) + "\n")
        return
    began, quick = time.monotonic(), arguments.quick
    console = Console(width=170)
    console.print(f"{torch.cuda.get_device_properties(0).name}, torch {torch.__version__}")
    for package, why in (install() if arguments.install else {}).items():
        console.print(f"not installed: {package}: {why}", markup=False)
    asked = [rival for rival in RIVALS if arguments.only is None or rival.name in ("ours", *arguments.only)]
    limit = arguments.probe_seconds or (60 if quick else 400)
    with ThreadPoolExecutor(len(asked)) as pool:
        problems = dict(zip(asked, pool.map(lambda rival: probed(rival, limit), asked), strict=True))
    for rival, problem in problems.items():
        if problem:
            console.print(f"left out: {rival.name}: {problem}", markup=False)
    console.print(f"tried after {time.monotonic() - began:.0f} s")
    lengths, densities = (QUICK_LENGTHS, QUICK_DENSITIES) if quick else (LENGTHS, DENSITIES)
    seconds = arguments.seconds or (110 if quick else 3600)
    alive = [rival for rival, problem in problems.items() if not problem]
    rows: list[Row] = []
    try:
        with torch.no_grad():
            for row in measure(alive, lengths, densities, began + seconds, 3 if quick else 7):
                rows.append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps(rows))
    except Exception as failed:  # a kernel may break the device: print the measurements so far
        console.print(f"stopped: {reported(failed)}", markup=False)
    console.print(table(rows))
    if any(row.get("ms") is not None for row in rows):
        picture(rows, arguments.picture)
        console.print(f"drawn: {arguments.picture}")
    console.print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
