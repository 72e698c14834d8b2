"""Accuracy of the estimates of ``generate --dry-run``.

    python benchmarks/estimate.py [--runs 2]

Each setting is estimated and run alternately, several times, so both see the same machine load. A run's time is the
processor time of all its processes over the cores that they may use, so that other programs do not count; an estimate
is compared with the mean of the runs. Exit code 1 if one is off by more than a factor of 1.5, or two differ by that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

LIMIT = 1.5
SETTINGS = (
    "-l 4k -t ruler_niah -t ruler_vt -n 200 -w 1",
    "-l 4k -n 30 -w 2",
    "-l 16k -t story -n 30 -w 1",
    "-l 16k -t qa_biographies -t ruler_cwe -n 60 -w 2",
    "-l 64k -n 20 -w 2",
    "-l 64k -t story_retrieval -n 30 -w 4",
    "-l 256k -t story_aggregation -t ruler_niah -n 6 -w 2",
    "-l 1M -t ruler_vt -t story_filtering -n 2 -w 1",
    "-l 8k -l 128k -t ruler_fwe -t story_multihop -n 8 -w 2 --preset hard",
)


def generate(setting: str, *more: str) -> tuple[float, str]:
    """Processor time of a command with all its processes, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "sparse_tasks", "generate", *setting.split(), "--format", "json", *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> int:
    """Print a table; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2, help="estimates and runs of each setting (default: 2)")
    runs = parser.parse_args().runs
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"{'setting':<70} {'run s':>8} {'estimates over run':>20} {'range':>14} {'apart':>6}")
    exceeded = False
    for setting in SETTINGS:
        cores = min(available, int(setting.split("-w ")[1].split()[0]))
        totals, took = [], []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                output = str(Path(folder, "data"))
                totals.append(json.loads(generate(setting, "--dry-run", "-o", output)[1])["total"])
                took.append(generate(setting, "-o", output)[0] / cores)
        real = fmean(took)
        ratios = [total["seconds"] / real for total in totals]
        apart = max(ratios) / min(ratios)
        within = (
            f"{min(total['low'] for total in totals) / real:.2f} to {max(total['high'] for total in totals) / real:.2f}"
        )
        reported = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{setting:<70} {real:>8.1f} {reported:>20} {within:>14} {apart:>6.2f}", flush=True)
        exceeded |= max(*ratios, apart) > LIMIT or min(ratios) < 1 / LIMIT
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
