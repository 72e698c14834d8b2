"""Ten thousand corrupted submissions: the check's verdict on each, its time and its memory.

    python benchmarks/submissions.py                    # 10,000 of all kinds
    python benchmarks/submissions.py 500 --seed 7       # others, fewer
    python benchmarks/submissions.py 100 --kind bomb    # of one kind

Each must get a verdict that satisfies its schema, within two seconds of CPU time and 500 MB of memory, and no false
claim may be accepted (by an oracle that shares no code with the check). Exit code 1 if one of these fails; ``--keep``
names a folder for those submissions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from sparse_tasks.core.records import problem, to_builtins
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.records import Verdict
from sparse_tasks.generators.request import GenerateOptions, make_request
from sparse_tasks.generators.run import generate_folder
from tests.evaluators.leaderboard.handed_in import answered
from tests.evaluators.leaderboard.mutations import MUTATIONS, dishonesty, mutated

SECONDS, MEGABYTES = 2.0, 500.0


@dataclass(frozen=True)
class Outcome:
    """Outcome of one submission.

    Attributes:
        kinds: Kinds of the mutation.
        seed: Seed of the mutation.
        verdict: Codes of the refusal, or ``accepted``.
        seconds: CPU time.
        megabytes: Peak memory of the process during the check.
        broken: The broken requirement; None if there is none.
    """

    kinds: str
    seed: int
    verdict: str
    seconds: float
    megabytes: float
    broken: str | None


def make_data(folder: Path) -> Dataset:
    """Two tasks at two lengths, four samples each."""
    request = make_request(GenerateOptions(lengths=[1100, 1500], tasks=["ruler_niah", "ruler_vt"], samples=4))
    generate_folder(request, load_tokenizer("qwen2.5"), folder)
    return open_dataset(str(folder))


def make_honest(folder: Path, dataset: Dataset) -> bytes:
    """A dense run and a sparse one that fails one sample of four."""
    answered(folder / "dense", dataset)
    answered(folder / "quest", dataset, attention="quest", sparsity=0.5, wrong=[1])
    return make_submission(read_runs([folder]), "Honest", "honest@example.org")


def forget_peak() -> None:
    """Reset the process's peak memory, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_megabytes() -> float:
    """Peak memory of this process since then."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def judge(content: bytes, path: Path, dataset: Dataset, rows: list[dict[str, Any]]) -> tuple[str, float, str | None]:
    """The verdict, its CPU time in seconds, and the requirement that it breaks."""
    path.write_bytes(content)
    began = time.process_time()
    try:
        verdict = check(path, [dataset])
    except KeyboardInterrupt:
        raise
    except BaseException:  # including fatal interpreter errors
        return "raised", time.process_time() - began, traceback.format_exc(limit=-3)
    seconds = time.process_time() - began
    return _codes(verdict), seconds, _broken(verdict, content, dataset, rows)


def _codes(verdict: Verdict) -> str:
    return "accepted" if verdict.accepted else ", ".join(sorted({reason.code for reason in verdict.reasons}))


def _broken(verdict: Verdict, content: bytes, dataset: Dataset, rows: list[dict[str, Any]]) -> str | None:
    if wrong := problem(to_builtins(verdict), Verdict):
        return f"verdict: {wrong}"
    if not all(one.message.isprintable() and one.where.isprintable() for one in (*verdict.reasons, *verdict.warnings)):
        return "verdict: has characters that cannot be shown"
    if verdict.accepted and (lie := dishonesty(content, rows, dataset.sha256)):
        return f"accepted: {lie}"
    return None


def run(number: int, first: int, kind: str | None, keep: Path | None) -> list[Outcome]:
    """Judge mutations with seeds from ``first`` on."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_data(Path(folder) / "data")
        rows = list(dataset.rows(dataset.select()))
        honest, path = make_honest(Path(folder) / "runs", dataset), Path(folder) / "submission.json"
        for seed in range(first, first + number):
            kinds, content = mutated(honest, seed, kind)
            forget_peak()
            verdict, seconds, broken = judge(content, path, dataset, rows)
            megabytes = peak_megabytes()
            if broken is None and seconds > SECONDS:
                broken = f"took {seconds:.1f} s"
            if broken is None and megabytes > MEGABYTES:
                broken = f"took {megabytes:.0f} MB"
            outcomes.append(Outcome(kinds, seed, verdict, seconds, megabytes, broken))
            if broken is not None and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{kinds}-{seed}.json").write_bytes(content)
    return outcomes


def show(outcomes: list[Outcome], console: Console) -> None:
    """Print tables by kind and by verdict."""
    by_kind: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kinds.rpartition("+")[2]].append(outcome)
    table = Table("kind", "number", "accepted", "slowest, s", "peak, MB", "refused most often as", title="By kind")
    for kind in MUTATIONS:
        if not (of_kind := by_kind.get(kind)):
            continue
        codes = Counter(outcome.verdict for outcome in of_kind if outcome.verdict != "accepted").most_common(3)
        table.add_row(
            kind,
            f"{len(of_kind):,}",
            f"{sum(outcome.verdict == 'accepted' for outcome in of_kind):,}",
            f"{max(outcome.seconds for outcome in of_kind):.2f}",
            f"{max(outcome.megabytes for outcome in of_kind):.0f}",
            "; ".join(f"{codes} ({times})" for codes, times in codes),
        )
    console.print(table)
    verdicts = Table("code", "submissions", title="By verdict")
    for code, times in Counter(code for outcome in outcomes for code in outcome.verdict.split(", ")).most_common():
        verdicts.add_row(code, f"{times:,}")
    console.print(verdicts)
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    largest = max(outcomes, key=lambda outcome: outcome.megabytes)
    console.print(
        f"{len(outcomes):,} submissions, {sum(outcome.seconds for outcome in outcomes):,.0f} s; slowest "
        f"{slowest.seconds:.2f} s ({slowest.kinds}, seed {slowest.seed}), most memory {largest.megabytes:.0f} MB "
        f"({largest.kinds}, seed {largest.seed})"
    )


def main() -> int:
    """Run the benchmark; exit code 1 if a requirement is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", nargs="?", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first")
    parser.add_argument("--kind", choices=sorted(MUTATIONS), help="only this kind")
    parser.add_argument("--keep", type=Path, help="folder for submissions that break a promise")
    arguments = parser.parse_args()
    console = Console()
    outcomes = run(arguments.number, arguments.seed, arguments.kind, arguments.keep)
    show(outcomes, console)
    broken = [outcome for outcome in outcomes if outcome.broken is not None]
    for outcome in broken[:20]:
        console.print(f"{outcome.kinds}, seed {outcome.seed}: {outcome.broken}", markup=False)
    console.print(f"promises broken: {len(broken):,}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
