"""Generating on a cluster: measured from one node to two, and simulated up to a thousand workers.

    python benchmarks/cluster.py scaling     # nodes of one core each, on this machine, in turn
    python benchmarks/cluster.py simulate    # 10^9 tokens, and the figure docs/scale.svg

The simulation draws the times of files from the processor time of samples that it makes first, which other load does
not change. Some workers are slow throughout, and some die while making a file, which is then restarted.
"""

from __future__ import annotations

import argparse
import heapq
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sparse_tasks.core.json import to_json
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.generators.dataset import Shard, file_of, shards
from sparse_tasks.generators.encoding import FAST
from sparse_tasks.generators.request import GenerateOptions, Request, make_request
from sparse_tasks.generators.run import Worker, make
from sparse_tasks.generators.seeds import Stream

LENGTH, TOKENS = 65_536, 10**9
WORKERS = (1, 10, 30, 100, 300, 1_000)
START = 10.0  # seconds until a worker has started
SLOW, TIMES = 0.05, 3.0  # share of slow workers, and their slowdown
DEATHS = 0.02  # share of files in the middle of which the worker dies
AGAIN = 20.0  # seconds until another worker replaces it
ROUNDS = 20


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scaling", "simulate"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--figure", type=Path, default=Path("docs/scale.svg"))
    options = parser.parse_args()
    if options.what == "scaling":
        scaling(options.rounds)
    else:
        simulate(options.figure)


def scaling(rounds: int) -> None:
    """Seconds of the same data set on one node and on two: of the command, and from the first file to the last."""
    taken: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(rounds):
        for nodes in taken:
            taken[nodes].append(_on(nodes))
            print(f"{nodes} node{'s' * (nodes > 1)}: {taken[nodes][-1][0]:.1f} s, files {taken[nodes][-1][1]:.1f} s")
    for number, what in enumerate(("the command", "the files")):
        ratios = [one[number] / two[number] for one, two in zip(taken[1], taken[2], strict=True)]
        print(f"{what}: {statistics.median(ratios):.2f} times as fast on two ({min(ratios):.2f} to {max(ratios):.2f})")


def _on(nodes: int) -> tuple[float, float]:
    os.environ |= {"RAY_worker_niceness": "0"}  # same priority as everything else here
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**small)
        with tempfile.TemporaryDirectory() as folder:
            words = ["generate", "-l", "16k", "-n", "128", "-o", f"{folder}/data", "--on", cluster.address]
            # Files of 16 samples, for many files per core.
            script = (
                "import sparse_tasks.generators.dataset as d; d._SHARD_TOKENS = 2**18;"
                "from sparse_tasks.cli.main import main; main()"
            )
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)
            taken = time.monotonic() - began
            written = [path.stat().st_mtime for path in Path(folder).rglob("*.parquet")]
            return taken, max(written) - min(written)
    finally:
        cluster.shutdown()


def simulate(figure: Path) -> None:
    """Hours of a data set of 10^9 tokens by the number of workers, with the manifest's size."""
    request = make_request(GenerateOptions(lengths=[LENGTH], samples=1))
    samples = -(-TOKENS // (LENGTH * len(request.tasks)))
    request = make_request(GenerateOptions(lengths=[LENGTH], samples=samples))
    seconds = _recorded(request)
    files = list(shards(request))
    print(f"{request.tokens:,} tokens in {len(files):,} files; seconds of processor time a sample:")
    for task, times in seconds.items():
        print(f"  {task:<20} {statistics.mean(times):.3f} ({min(times):.3f} to {max(times):.3f})")
    print(f"manifest: {_manifest_bytes(files):,} bytes")
    found: dict[str, list[float]] = {"even": [], "with slow and dying workers": []}
    print(f"{'workers':>8} {'even':>10} {'with slow and dying workers':>30}")
    for workers in WORKERS:
        even = _time(files, seconds, workers, 0, even=True)
        rough = [_time(files, seconds, workers, number, even=False) for number in range(ROUNDS)]
        found["even"].append(even)
        found["with slow and dying workers"].append(statistics.mean(rough))
        print(
            f"{workers:>8,} {even:>8,.0f} s {statistics.mean(rough):>12,.0f} s ({min(rough):,.0f} to {max(rough):,.0f})"
        )
    _draw(found, figure)


def _recorded(request: Request) -> dict[str, list[float]]:
    """Processor time of some samples of each task, and of their part of a file."""
    here = Worker(request, load_tokenizer().with_encoder(FAST if FAST.label() else None))
    found: dict[str, list[float]] = {}
    for task in request.tasks:
        make(here, (task, LENGTH, 0), False)  # warm up
        for index in range(1, 7):
            began = time.process_time()
            sample = make(here, (task, LENGTH, index), False)
            file_of(Shard(task, LENGTH, index, index + 1, "x"), [sample], None)
            found.setdefault(task.name, []).append(time.process_time() - began)
    return found


def _time(files: list[Shard], seconds: dict[str, list[float]], workers: int, number: int, even: bool) -> float:
    """Seconds until the last file is made, each by the first free worker."""
    stream = Stream("cluster", workers, number)
    drawn = lambda: stream.below(10**9) / 10**9  # noqa: E731
    slow = [not even and drawn() < SLOW for _ in range(workers)]
    free = [(START, worker) for worker in range(workers)]
    heapq.heapify(free)
    waiting, last = list(reversed(files)), 0.0
    while waiting:
        shard = waiting.pop()
        now, worker = heapq.heappop(free)
        takes = sum(stream.choice(seconds[shard.task.name]) for _ in range(shard.first, shard.last))
        takes *= TIMES if slow[worker] else 1
        if not even and drawn() < DEATHS:
            waiting.append(shard)
            heapq.heappush(free, (now + takes * drawn() + AGAIN, worker))
            continue
        last = max(last, now + takes)
        heapq.heappush(free, (now + takes, worker))
    return last


def _manifest_bytes(files: list[Shard]) -> int:
    entry = {"bytes": 10**7, "rows": 64, "sha256": "0" * 64, "tokens": 2**22, "samples_sha256": "0" * 64}
    return len(to_json({"files": {shard.path: entry for shard in files}}))


def _draw(found: dict[str, list[float]], figure: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scale"
    from matplotlib import pyplot as plt

    canvas, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, times in found.items():
        axes.plot(WORKERS, times, marker="o", label=name)
    axes.plot(
        WORKERS,
        [found["even"][0] / workers for workers in WORKERS],
        ":",
        color="grey",
        label="twice as many, half the time",
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="workers of one core",
        ylabel="seconds",
        title="10^9 tokens at 64k, simulated",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    canvas.savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
