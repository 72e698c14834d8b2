"""CPU time of short commands, as a multiple of that of ``python -c pass``.

    python benchmarks/start.py [--runs 5]

CPU time is user and system time of the process and of the children that it waits for, the minimum of several runs. Runs
of bare Python alternate with those of the commands, so both see the same machine load. Modules are compiled before, as
after a first run. Exit code 1 if a command exceeds its limit.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A command with its limit.

    Attributes:
        name: Its row in the table.
        arguments: Of ``sparse-tasks``; ``DATA`` stands for a data set's folder, ``NEW`` for a folder that does not
            exist.
        limit: Maximum CPU time, over that of bare Python.
        exit_code: Expected exit code.
    """

    name: str
    arguments: str
    limit: float
    exit_code: int = 0


SAMPLE = "generate --length 8k --task story_retrieval --samples 1 --output"
COMMANDS = (
    Command(
        "a length that is too short", "generate --length 100 --task story_retrieval --samples 1 --output NEW", 40, 2
    ),
    Command("a length that is not one", "generate --length 8q --task story_retrieval --output NEW", 40, 2),
    Command("list", "list", 40),
    Command("show", "show DATA story_retrieval 0", 40),
    Command("first sample of generate", f"{SAMPLE} NEW", 130),
    Command("validate of one sample", "validate DATA", 130),
)


def cpu_seconds(command: list[str], exit_code: int = 0) -> float:
    """CPU time of a command, including its children.

    Raises:
        RuntimeError: It ends with another exit code.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != exit_code:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print a table; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (default: 5)")
    runs = parser.parse_args().runs
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    program = [sys.executable, "-m", "sparse_tasks"]
    with tempfile.TemporaryDirectory() as folder:
        data, new = Path(folder, "data"), Path(folder, "new")
        # It also converts the built-in tokenizer, if not cached.
        cpu_seconds([*program, *SAMPLE.split(), str(data)])
        bare: list[float] = []
        times: dict[Command, list[float]] = {command: [] for command in COMMANDS}
        for _ in range(runs):
            for command in COMMANDS:
                bare.append(cpu_seconds([sys.executable, "-c", "pass"]))
                words = [{"DATA": str(data), "NEW": str(new)}.get(word, word) for word in command.arguments.split()]
                times[command].append(cpu_seconds([*program, *words], command.exit_code))
                shutil.rmtree(new, ignore_errors=True)
    print(f"bare python: {min(bare) * 1000:.1f} ms\n")
    print(f"{'command':<28} {'CPU ms':>8} {'x bare':>8} {'limit':>8}")
    exceeded = False
    for command, seconds in times.items():
        ratio = min(seconds) / min(bare)
        exceeded |= ratio > command.limit
        print(f"{command.name:<28} {min(seconds) * 1000:>8.0f} {ratio:>8.1f} {command.limit:>8.0f}")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
