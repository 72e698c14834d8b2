"""Cost of data sets with many files: processor time with 1,000 files over that with 10.

    python benchmarks/files.py [--files 1000]

Each file contains one short sample, which isolates the cost of a file. Publishing and streaming go through the server
of ``tests/hub/server.py``; a first upload is interrupted after a third of the files. A step whose time grows faster
than the number of files, or that exceeds its limit, is reported, with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest

from sparse_tasks.core.manifest import MANIFEST, PROGRESS, read_manifest
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.generators import dataset
from sparse_tasks.generators.request import GenerateOptions, Request, make_request
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.hub.package import package
from sparse_tasks.hub.publish import HubError, Repository
from tests.hub.server import FakeHub, environment, serving

FEW = 10
NAME = "org/data"
# Seconds that a step may take with 1,000 files.
LIMITS = {"read the manifest": 1.0, "stream from a folder": 5.0, "stream from the Hub": 5.0, "go on": 5.0}


def seconds(step: Callable[[], object]) -> float:
    """Processor time of this process and its threads, the server's included."""
    began = time.process_time()
    step()
    return time.process_time() - began


def first(name: str, env: dict[str, str]) -> float:
    """Seconds to the first sample of a data set, in a separate process, without its imports."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FIRST, name],
        env=os.environ | env,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


_FIRST = """
import sys, time
from datasets import load_dataset
began = time.process_time()
next(iter(load_dataset(sys.argv[1], "2k", split="test", streaming=True)))
print(time.process_time() - began)
"""


def publish(folder: Path) -> None:
    """Upload what the Hub lacks, in one commit."""
    files, repository = package(open_dataset(str(folder))), Repository(NAME)
    repository.publish(repository.look(files), files, "Publish")


def publish_in_part(hub: FakeHub, folder: Path, files: int) -> None:
    """Publish to a server that takes a third of the files."""
    hub.uploads = files // 3
    try:
        publish(folder)
    except HubError:
        hub.uploads = None


def steps(files: int, root: Path) -> dict[str, float]:
    """Seconds of each step."""
    tokenizer = load_tokenizer()
    request: Request = make_request(GenerateOptions(lengths=[2048], tasks=["ruler_niah"], samples=files))
    folder, found = root / "data", {}
    generate_folder(request, tokenizer, root / "warm", encoder="hf")
    shutil.rmtree(root / "warm")
    found["make"] = seconds(lambda: generate_folder(request, tokenizer, folder, encoder="hf"))
    (folder / MANIFEST).rename(folder / PROGRESS)
    sorted(folder.glob("*/*.parquet"))[-1].unlink()
    found["go on"] = seconds(lambda: generate_folder(request, tokenizer, folder, encoder="hf"))
    found["read the manifest"] = seconds(lambda: read_manifest(folder))
    found["stream from a folder"] = first(str(folder), {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "home")})
    patch = pytest.MonkeyPatch()
    with serving(root / "home", patch) as hub:
        publish_in_part(hub, folder, files)
        arrived, before = len(hub.store), len(hub.requests)
        found["publish the rest"] = seconds(lambda: publish(folder))
        uploads = hub.asked("PUT", "/_store/")
        sent = sum(method == "PUT" for method, _, _ in hub.requests[before:])
        print(f"{files:,} files: {arrived:,} arrived at first, {sent:,} were sent later, {uploads:,} in all, with "
              f"{len(hub.requests) - before - sent} other requests.")  # fmt: skip
        before = len(hub.requests)
        found["stream from the Hub"] = first(NAME, environment(hub, root / "home"))
        print(f"{files:,} files: {len(hub.requests) - before} requests until the first sample is there.")
    patch.undo()
    return found


def main() -> int:
    """Print a table; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    many = parser.parse_args().files
    dataset._SHARD_TOKENS = 1
    results = {}
    for files in (FEW, many):
        with tempfile.TemporaryDirectory() as root:
            results[files] = steps(files, Path(root))
    exceeded = False
    print(f"\n{'step':<22} {FEW:>7} {many:>8,} {'ratio':>7}")
    for name, near in results[FEW].items():
        far = results[many][name]
        wrong = far / near > 1.5 * many / FEW or far > LIMITS.get(name, float("inf"))
        exceeded |= wrong
        print(f"{name:<22} {near:>6.2f}s {far:>7.2f}s {far / near:>7.1f}{'  missed' if wrong else ''}")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
