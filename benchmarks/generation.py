"""Cost of a sample: time in units of one encode of its prompt, memory, and gain of a second worker.

    python benchmarks/generation.py            # the whole table, some ten minutes
    python benchmarks/generation.py --quick    # fewer samples, 64k and 256k
    python benchmarks/generation.py --against FOLDER    # only the default suite at 64k, in turn with an older checkout,
                                                        # and its validation

All numbers are ratios or sizes within one run. The unit is one ``tokenizers.Tokenizer.encode`` of the rendered prompt,
in processor time, measured next to the sample. Every sample is made as in ``sparse-tasks generate``: composed, fitted
with the same encoder, checked by its oracle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from rich.console import Console
from rich.table import Table

from sparse_tasks.core.length import label
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.core.tokenizers.fast import Fastokens
from sparse_tasks.generators.request import GenerateOptions, make_request
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS

LIMITS = {"unit": 0.3, "growth": 1.2, "memory": 1500, "workers": 1.7}


def unit_cost(task_name: str, length: int, samples: int) -> float:
    """Seconds to make the samples over seconds to encode their prompts once."""
    tokenizer = load_tokenizer().with_encoder(Fastokens)
    request = make_request(GenerateOptions(lengths=[length], tasks=[task_name], samples=samples))
    task = request.tasks[0]
    make_sample(request, tokenizer, task, length, samples)  # loads word lists, estimates the size: once per run
    making = encoding = 0.0
    for index in range(samples):
        began = time.process_time()
        sample = make_sample(request, tokenizer, task, length, index)
        making += time.process_time() - began
        text = tokenizer.render(sample.prompt)
        began = time.process_time()
        tokenizer.backend.encode(text, add_special_tokens=False)
        encoding += time.process_time() - began
    return making / encoding


class Run(NamedTuple):
    """Cost of a command: seconds, peak memory in MB of its largest process, processor time of all processes."""

    seconds: float
    memory: int
    work: float


def command(*words: str, folder: str, release: Path = Path(__file__).parents[1]) -> Run:
    """Run a checkout's command line in a separate process, in a folder."""
    began = time.perf_counter()
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL); used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(used.ru_maxrss, used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, sys.executable, "-m", "sparse_tasks", *words],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(release)},
    )
    memory, work = done.stdout.split()
    return Run(time.perf_counter() - began, int(memory) // 1024, float(work))


def generate(*options: str) -> Run:
    """Generate a temporary data set."""
    with tempfile.TemporaryDirectory() as folder:
        return command("generate", *options, "--output", "data", folder=folder)


def against(release: Path, runs: int) -> dict[str, float]:
    """Time of an older checkout over this one's for the default suite at 64k, and the cost of validation."""
    suite = ("generate", "--length", "64k", "--output")
    ours, theirs, checks = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            theirs.append(command(*suite, "theirs", folder=folder, release=release))
            ours.append(command(*suite, "ours", folder=folder))
            checks.append(command("validate", "ours", folder=folder))
    least = min(run.seconds for run in ours)
    return {
        "seconds": min(run.seconds for run in theirs) / least,
        "work": min(run.work for run in theirs) / min(run.work for run in ours),
        "memory_mb": max(run.memory for run in ours),
        "least_seconds": least,
        "validation": min(run.seconds for run in checks) / least,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of an older release")
    quick = (arguments := parser.parse_args()).quick
    if arguments.against:
        for name, number in against(arguments.against.resolve(), 1 if quick else 3).items():
            print(f"{name}: {number:.2f}")
        return
    short, long = 2**16, 2**18 if quick else 2**20
    console = Console()
    table = Table(title=f"Cost of a sample in encodes of its prompt (limit {LIMITS['unit']})", title_justify="left")
    for column in (
        "task",
        label(short),
        label(long),
        f"growth (limit {LIMITS['growth']})",
        f"peak MB at {label(long)}",
    ):
        table.add_column(column, justify="left" if column == "task" else "right")
    numbers: dict[str, object] = {}
    missed: list[str] = []
    # Tasks without a third-party corpus.
    for name in (task.name for task in TASKS if "corpus" not in task.texts):
        near = unit_cost(name, short, 4 if quick else 12)
        far = unit_cost(name, long, 2)
        memory = generate("--length", str(long), "--task", name, "--samples", "1", "--workers", "1").memory
        numbers[name] = {"near": near, "far": far, "growth": far / near, "memory_mb": memory}
        table.add_row(name, f"{near:.2f}", f"{far:.2f}", f"{far / near:.2f}", f"{memory:,}")
        if max(near, far) > LIMITS["unit"] or far / near > LIMITS["growth"] or memory > LIMITS["memory"]:
            missed.append(name)
    console.print(table)

    few, many = ("64", "128") if quick else ("64", "192")  # 64 fill a shard, which is held in memory
    memory = [
        generate("--length", "64k", "--task", "story_retrieval", "--samples", n, "--workers", "1").memory
        for n in (few, many)
    ]
    console.print(f"Peak memory at 64k: {memory[0]:,} MB with {few} samples, {memory[1]:,} MB with {many} samples.")
    numbers["memory_by_samples_mb"] = dict(zip((few, many), memory, strict=True))
    n = "8" if quick else "60"
    seconds = [generate("--length", "64k", "--samples", n, "--workers", workers).seconds for workers in ("1", "2")]
    gain = seconds[0] / seconds[1]
    console.print(f"Two workers over one, all tasks at 64k, {n} samples each, start included: {gain:.2f} x.")
    numbers["workers"] = gain
    if gain < LIMITS["workers"]:
        missed.append("workers")
    seconds = [generate("--length", "64k", "--samples", n, "--encoder", name).seconds for name in ("hf", "auto")]
    numbers["encoder"] = seconds[0] / seconds[1]
    console.print(f"A proven encoder over Hugging Face's, the same data set on all cores: {numbers['encoder']:.2f} x.")
    console.print(f"missed: {', '.join(missed)}" if missed else "All limits held.")
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
