"""Cost of checking, reporting and building the board: seconds, peak memory and sizes of the commands themselves.

    python benchmarks/analysis.py check     # a submission of 10 tasks x 4 lengths x 100 samples, dense and sparse
    python benchmarks/analysis.py report    # a report over 100 runs of as many samples, and the analyses
    python benchmarks/analysis.py board     # a board of 1,000 submissions

Each command runs in a separate process, as a user would run it. ``check`` makes its data first, which takes some
minutes; ``--lengths`` makes it longer or shorter. ``benchmarks/submissions.py`` feeds the check mutated submissions.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from sparse_tasks.attention.attention import Attention
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine, Output, Request
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.models import Model
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.results import score_run
from sparse_tasks.evaluators.runs import Run
from tests.evaluators.example_runs import LLAMA_8B, made_run

TASKS = [
    *("story_aggregation", "story_filtering", "story_multihop", "story_retrieval", "ruler_niah", "ruler_vt"),
    *("ruler_cwe", "ruler_fwe", "ruler_niah_single_1", "ruler_niah_multikey_1"),
]
LENGTHS = ["4k", "8k", "16k", "32k"]
CHECK_SECONDS, REPORT_SECONDS, REPORT_MB, BOARD_SECONDS, BOARD_MB = 30, 60, 1000, 30, 2


# The system's figure includes the parent's memory at the fork; this one is of the process alone.
_TOLD = """
import atexit, re, sys
from pathlib import Path
where, *sys.argv[1:] = sys.argv[1:]
status = Path("/proc/self/status")
atexit.register(lambda: Path(where).write_text(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]))
from sparse_tasks.cli.main import main
main()
"""


def measured(*arguments: object) -> tuple[float, float, str]:
    """Seconds and peak memory in MB of a ``sparse-tasks`` command, and what it printed."""
    with tempfile.NamedTemporaryFile() as peak:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _TOLD, peak.name, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode:
            sys.exit(f"sparse-tasks {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}")
        return seconds, int(Path(peak.name).read_text()) / 1024, done.stdout


class Made(Engine):
    """Answers with a given accuracy, and reports plausible measurements."""

    name = "made"
    runs_methods = True
    takes_ids = False
    texts: dict[str, str]
    right = 0.8

    @classmethod
    def find(cls, name: str) -> Model:
        return Model(name, name, shape=LLAMA_8B)

    def context(self) -> int | None:
        return None

    def start(self, needed: int) -> None: ...
    def stop(self) -> None: ...
    def version(self) -> str | None:
        return None

    def details(self) -> dict[str, Any]:
        return {}

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        asked = self.settings.attention
        for request in requests:
            answer = self.texts[request.id] if random.random() < self.right else "I do not know"
            text = f"<explanation>{'It says so in the text. ' * 20}</explanation>\n<answer>{answer}</answer>"
            ran = {"prefill": 0.0, "decode": asked.sparsity or 0.0} if asked.sparse else None
            spread = None if ran is None else dict.fromkeys(ran, 0.0)
            yield Output(request.id, text, "stop", None, 120, 1.0, 2.0, ran, spread)


def answered(data: Dataset, folder: Path, attention: Attention) -> Path:
    """A run of the synthetic engine."""
    with Run(folder) as run:
        predict(RunRequest(data, data.select(), "acme/made", "made", attention=attention), run)
        score_run(run, data)
    return folder


def check(console: Console, arguments: argparse.Namespace) -> bool:
    """A submission of ten tasks, four lengths, a hundred samples, dense and quest 0.9."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "data"
        lengths = [option for length in arguments.lengths for option in ("-l", length)]
        tasks = [option for task in TASKS for option in ("-t", task)]
        seconds, _, _ = measured("generate", *lengths, *tasks, "-n", arguments.samples, "-o", data)
        console.print(f"data: {len(TASKS)} tasks, {', '.join(arguments.lengths)}, made in {seconds:.0f} s")
        dataset = open_dataset(str(data))
        ENGINES.names()
        ENGINES.register("made", Made)
        Made.texts = {row["id"]: row["answer"] for row in dataset.rows(dataset.select(), ["id", "answer"])}
        runs = [answered(dataset, folder / "dense", Attention.DENSE)]
        Made.right = 0.7
        runs.append(answered(dataset, folder / "quest", Attention.parse("quest", sparsity=0.9)))
        scoring, _, _ = measured("score", runs[0], "--data", data)
        submission = folder / "submission.json"
        seconds, megabytes, _ = measured("submit", *runs, "-o", submission)
        console.print(f"submit: {seconds:.1f} s, {megabytes:.0f} MB; file {submission.stat().st_size / 1e6:.2f} MB")
        seconds, megabytes, text = measured("leaderboard", "check", submission, "--data", data)
        console.print(text.strip())
        console.print(
            f"check of two runs: {seconds:.1f} s, {megabytes:.0f} MB; below {CHECK_SECONDS} s: "
            f"{seconds < CHECK_SECONDS}; {seconds / scoring:.2f} times as long as scoring one of them ({scoring:.1f} s)"
        )
        return seconds < CHECK_SECONDS


def report(console: Console, arguments: argparse.Namespace) -> bool:
    """A hundred runs of ten tasks, four lengths, a hundred samples: four models, dense and 24 sparse runs each."""
    generator = np.random.default_rng(0)
    methods = ["quest", "snapkv", "vertical_slash", "block_sparse"]
    budgets = [0.5, 0.7, 0.8, 0.87, 0.9, 0.95]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(4):
            shape = replace(LLAMA_8B, layers=8 * (number + 1), dense_layers=8 * (number + 1))
            keys = [(task, length) for task in TASKS for length in (4096, 8192, 16384, 32768)]
            dense = {key: generator.beta(4, 1.5, arguments.samples) for key in keys}
            model = f"acme/made-{number}"
            made_run(folder / f"{number}" / "dense", dense, model=model, shape=shape)
            for method in methods:
                for sparsity in budgets:
                    lost = {key: np.clip(values - sparsity**8 * generator.random(len(values)), 0, 1)
                            for key, values in dense.items()}  # fmt: skip
                    phase = "prefill" if method in ("vertical_slash", "block_sparse") else "decode"
                    other = "decode" if phase == "prefill" else "prefill"
                    made_run(folder / f"{number}" / f"{method}-{sparsity}", lost, model=model, shape=shape,
                             attention=method, sparsity=sparsity, measured={phase: sparsity, other: 0.0})  # fmt: skip
        folders = [folder / str(number) for number in range(4)]
        console.print(f"made {sum(len(list(one.iterdir())) for one in folders)} runs")
        seconds, megabytes, _ = measured("analyze", *folders)
        console.print(f"analyze: {seconds:.1f} s, {megabytes:.0f} MB")
        page = folder / "report.html"
        seconds, megabytes, text = measured("report", *folders, "-o", page)
        console.print(text.strip())
        console.print(
            f"report: {seconds:.1f} s (below {REPORT_SECONDS}: {seconds < REPORT_SECONDS}), {megabytes:.0f} MB (below "
            f"{REPORT_MB}: {megabytes < REPORT_MB}); page {page.stat().st_size / 1e6:.2f} MB"
        )
        return seconds < REPORT_SECONDS and megabytes < REPORT_MB


def board(console: Console, arguments: argparse.Namespace) -> bool:
    """A thousand submissions of a dense and a sparse run each, over ten tasks and four lengths."""
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        keys = [(task, length) for task in TASKS for length in (4096, 8192, 16384, 32768)]
        runs = [
            made_run(folder / "dense", {key: [generator.random() for _ in range(20)] for key in keys}),
            made_run(folder / "quest", {key: [generator.random() for _ in range(20)] for key in keys},
                     attention="quest", sparsity=0.9),
        ]  # fmt: skip
        first = json.loads(make_submission(read_runs(runs), "first", None))
        submissions = folder / "submissions"
        submissions.mkdir()
        for number in range(arguments.submissions):
            for run in first["runs"]:
                for part in (run["settings"], run["result"]):
                    part["model"]["name"] = f"acme/model-{number % 40}"
                for average in run["result"]["averages"]:
                    average["mean"] = generator.uniform(average["low"], average["high"])
            first["name"] = f"submission {number}"
            (submissions / f"{number:04d}.json").write_text(json.dumps(first), encoding="utf-8")
        site = folder / "site"
        seconds, megabytes, text = measured("leaderboard", "build", submissions, "-o", site)
        console.print(text.strip())
        page = (site / "index.html").stat().st_size / 1e6
        console.print(
            f"board of {arguments.submissions:,}: {seconds:.1f} s (below {BOARD_SECONDS}: {seconds < BOARD_SECONDS}), "
            f"{megabytes:.0f} MB; page {page:.2f} MB (below {BOARD_MB}: {page < BOARD_MB})"
        )
        return seconds < BOARD_SECONDS and page < BOARD_MB


def main() -> None:
    """Run one of them; exit code 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "report", "board"])
    parser.add_argument("--lengths", nargs="+", default=LENGTHS, help="of the checked data set")
    parser.add_argument("--samples", type=int, default=100, help="of each task at each length")
    parser.add_argument("--submissions", type=int, default=1000, help="on the board")
    arguments = parser.parse_args()
    done = {"check": check, "report": report, "board": board}[arguments.what](Console(), arguments)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
