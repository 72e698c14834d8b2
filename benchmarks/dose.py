"""Dose and response: whether a parameter that should make a task harder does so for a model.

    python benchmarks/dose.py generate --out DATA --tokenizer MODEL --preset small   # a data set for each level
    python benchmarks/dose.py evaluate --data DATA --model MODEL --runs RUNS         # one engine answers all of them
    python benchmarks/dose.py table --runs RUNS                                      # of all models, as Markdown

``--preset paper`` is for the probe, which learned its prompts; other small models need ``small``, whose answers are
begun. Data may be made without a GPU. Other options are passed to ``sparse-tasks generate`` and ``evaluate``
(``--workers``, ``--engine-arg``, ``--limit``). A miniature for a CPU: ``generate --out DATA --preset paper --tokenizer
probe --length 2k --samples 3 --levels 2 --task ruler_vt``, and ``evaluate --model probe`` as above.

A level is one value of one parameter; levels share no samples. Intervals are 95% (``mean_interval``), those of
differences made of them by MOVER (``macro``). A task *falls* if the last level scores significantly less than the first
and no level scores significantly more than an easier one; it *rises* if one does. If every level is below .1, the model
is unable, and there is no verdict.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

from msgspec import UNSET

from sparse_tasks.core.errors import SparseTasksError
from sparse_tasks.evaluators.ability import able
from sparse_tasks.evaluators.analyses.table import ScoredRun, read_runs
from sparse_tasks.evaluators.records import RunSettings
from sparse_tasks.evaluators.statistics import Interval, macro, mean_interval, precise_mean

Scores: TypeAlias = Sequence[float]


@dataclass(frozen=True)
class Dose:
    """A parameter that makes a task harder.

    Attributes:
        task: Name of the task.
        parameter: Name of the parameter.
        levels: Its values, the easiest first.
        fixed: Other parameters, which make the easiest level easy or isolate this one.
    """

    task: str
    parameter: str
    levels: tuple[str, ...]
    fixed: Mapping[str, str] = field(default_factory=dict)

    def settings(self, level: int) -> list[str]:
        """The arguments of ``generate --set`` for a level, from 0."""
        values = {**self.fixed, self.parameter: self.levels[level]}
        return [f"{self.task}.{name}={value}" for name, value in values.items()]


DOSES = (
    Dose("story_retrieval", "questions", ("4", "16", "28"), {"distractors": "0"}),
    Dose("story_multihop", "hops", ("1", "3", "8")),
    Dose("story_filtering", "chapters", ("1", "3", "9")),
    Dose("story_aggregation", "events", ("3", "6", "9"), {"kind": "spent", "distractors": "1"}),
    Dose("story_judge", "sales", ("4", "6", "9"), {"distractors": "0"}),
    Dose("qa_biographies", "hops", ("1", "2", "4")),
    Dose("ruler_niah", "queries", ("4", "8", "16")),
    Dose("ruler_niah_single_1", "distractors", ("0", "4", "24")),
    Dose("ruler_niah_single_2", "distractors", ("0", "4", "24")),
    Dose("ruler_niah_single_3", "distractors", ("0", "4", "24")),
    Dose("ruler_niah_multikey_1", "distractors", ("0", "4", "24")),
    Dose("ruler_niah_multikey_2", "queries", ("1", "4", "16")),
    Dose("ruler_niah_multikey_3", "queries", ("1", "4", "16")),
    Dose("ruler_niah_multivalue", "values", ("4", "8", "16")),
    Dose("ruler_niah_multiquery", "queries", ("4", "8", "16")),
    Dose("ruler_vt", "hops", ("4", "8", "16")),
    Dose("ruler_cwe", "rare", ("3", "10", "25")),
    Dose("ruler_fwe", "alpha", ("3", "2", "1.5")),
    Dose("reason_ledger", "steps", ("2", "10", "40"), {"things": "2", "distractors": "0"}),
    Dose("reason_walk", "steps", ("2", "10", "40"), {"kind": "layers"}),
    Dose("reason_sort", "steps", ("2", "10", "40"), {"lures": "0"}),
    Dose("reason_execute", "steps", ("2", "10"), {"totals": "1"}),
    Dose("copy_nth", "alike", ("2", "4", "16"), {"lines": "6"}),
    Dose("code_value", "hops", ("1", "2", "6", "16"), {"kind": "written"}),
    Dose("code_definition", "hops", ("1", "2", "6")),
    Dose("code_calls", "accepted", ("1", "3", "9"), {"refused": "1"}),
    Dose("turns_story", "kinds", ("facts", "mixed"), {"distractors": "0", "events": "2", "gifts": "1"}),
    Dose("ladder_retrieval", "events", ("2", "4", "6"), {"distractors": "0"}),
    Dose("ladder_multivalue", "events", ("2", "4", "6"), {"distractors": "0"}),
    Dose("ladder_multihop", "hops", ("1", "3", "8"), {"distractors": "0"}),
    Dose("ladder_filtering", "gifts", ("2", "4", "6"), {"distractors": "0"}),
    Dose("ladder_aggregation", "events", ("2", "4", "6"), {"distractors": "0"}),
)
"""A line a task; those that need texts of others have no parameter but these texts.

The probe learned some values alone (four hops of ``ruler_vt``, four keys of ``ruler_niah``): fewer would not be easier
for it, so its levels begin there. ``reason_execute`` has at most 10 steps: at 40 the answer leaves room for so few
boxes that finding one becomes easier.
"""


def difference(easier: Scores, harder: Scores) -> tuple[float, Interval]:
    """Score of the harder level minus that of the easier, with its interval; the two share no samples."""
    up, down = mean_interval(harder), mean_interval(easier)
    mirrored = Interval(-down.high, -down.low, down.method)
    half, interval = macro([(precise_mean(harder), up), (-precise_mean(easier), mirrored)])
    return 2 * half, Interval(2 * interval.low, 2 * interval.high, interval.method)


def verdict(levels: Sequence[Scores]) -> str:
    """The verdict on scores by level, the easiest first.

    ``unable``; ``rises``; ``falls``, with a note if means are out of order within sampling error;
    ``undecided``.
    """
    means = [precise_mean(level) for level in levels]
    if not any(map(able, means)):
        return "unable"
    if any(difference(easier, harder)[1].low > 0 for easier, harder in combinations(levels, 2)):
        return "rises"
    if difference(levels[0], levels[-1])[1].high >= 0:
        return "undecided"
    return "falls" if means == sorted(means, reverse=True) else "falls (within intervals)"


def shown(scores: Scores) -> str:
    """``.85 (.71 to .93)``."""
    interval = mean_interval(scores)
    mean, low, high = (f"{x:.2f}".removeprefix("0") for x in (precise_mean(scores), interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def table(scores: Mapping[tuple[str, str, str], Scores], doses: Sequence[Dose] = DOSES) -> str:
    """A Markdown table, one row per task.

    Args:
        scores: By model, task and level.
        doses: Parameters and levels; those without scores are left out.
    """
    models = list(dict.fromkeys(model for model, _, _ in scores))
    lines = [["task", "parameter", *(word for model in models for word in (model, "")), "falls"], []]
    lines[1] = ["---"] * len(lines[0])
    for dose in doses:
        cells: list[str] = []
        falling: list[str] = []
        for model in models:
            levels = {level: scores.get((model, dose.task, level)) for level in dose.levels}
            answered = [(level, of) for level, of in levels.items() if of is not None]
            said = "" if not answered else "one level" if len(answered) < 2 else verdict([of for _, of in answered])
            cells += ["<br>".join(f"{level}: {shown(of)}" for level, of in answered), said]
            falling += [model] if said.startswith("falls") else []
        if any(cells):
            lines.append([f"`{dose.task}`", f"`{dose.parameter}`", *cells, ", ".join(falling) or "none"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_level(runs: Sequence[Path], doses: Sequence[Dose] = DOSES) -> dict[tuple[str, str, str], Scores]:
    """Scores by model, task and the run's level, for ``table``."""
    read = read_runs(runs)
    scores: dict[tuple[str, str, str], Scores] = {}
    for run in read.runs:
        of_run = read.samples[read.samples["run"] == run.name]
        for dose in doses:
            values = of_run.loc[of_run["task"] == dose.task, "score"]
            if len(values):
                scores[run.model, dose.task, _level(run, dose)] = list(values)
    return scores


def _level(run: ScoredRun, dose: Dose) -> str:
    """The parameter's value in a run's data set, in the dose's form."""
    settings = run.settings
    if not isinstance(settings, RunSettings) or settings.made_from is UNSET:
        raise SystemExit(f"{run.path} does not say what its data set was made with; evaluate it again")
    value = settings.made_from.request.tasks[dose.task].parameters[dose.parameter]
    level = f"{value:g}" if isinstance(value, float) else str(value)
    if level not in dose.levels:
        of = f"{dose.task}.{dose.parameter}"
        raise SystemExit(f"{run.path}: {of} is {level}, which is no level; generate it again with {dose.levels}")
    return level


def generate(arguments: argparse.Namespace) -> None:
    """Generate a data set for each level, of all tasks that have it."""
    doses = [dose for dose in DOSES if not arguments.task or dose.task in arguments.task]
    for level in range(min(arguments.levels, max(len(dose.levels) for dose in doses))):
        words = ["--length", arguments.length, "--samples", str(arguments.samples), "--preset", arguments.preset]
        words += ["--output", str(arguments.out / f"level-{level + 1}")]
        words += ["--tokenizer", arguments.tokenizer, *arguments.more]
        for dose in doses:
            if level < len(dose.levels):
                words += ["--task", dose.task, *(w for setting in dose.settings(level) for w in ("--set", setting))]
        sparse_tasks("generate", *words)


def evaluate(arguments: argparse.Namespace) -> None:
    """A run for each level, in ``RUNS/<model>-level-<n>``."""
    folders = sorted(arguments.data.glob("level-*"))
    if not folders:
        raise SystemExit(f"{arguments.data} holds no level-1; name the folder that generate has written")
    words = ["evaluate", "--model", arguments.model, *arguments.more]
    if len(folders) > 1 and not arguments.at_once:  # one engine is kept for all
        sparse_tasks(*words, "--output", str(arguments.runs), *map(str, folders))
        return
    model = Path(arguments.model).name
    with ThreadPoolExecutor(len(folders)) as pool:
        for done in [
            pool.submit(sparse_tasks, *words, "--output", str(arguments.runs / f"{model}-{folder.name}"), str(folder))
            for folder in folders
        ]:
            done.result()


def sparse_tasks(*words: str) -> None:
    """Run a command; exit with its code if it fails."""
    if code := subprocess.run([sys.executable, "-m", "sparse_tasks", *words], check=False).returncode:
        sys.exit(code)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("generate", help=generate.__doc__).add_argument
    add("--out", type=Path, required=True, metavar="DIR")
    add("--tokenizer", required=True, metavar="NAME", help="that of the model: a folder, a Hub id, or probe")
    add("--preset", default="small", help="paper for the probe (default: small)")
    add("--length", default="4k")
    add("--samples", type=int, default=40, help="of each task at each level (default: 40)")
    add("--levels", type=int, default=4, help="the first so many (default: all)")
    add("--task", action="append", choices=[dose.task for dose in DOSES], metavar="TASK", help="(default: all)")
    add = commands.add_parser("evaluate", help=evaluate.__doc__).add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="of generate")
    add("--model", required=True, metavar="M")
    add("--runs", type=Path, required=True, metavar="DIR")
    add("--at-once", action="store_true", help="an engine for each level, all at once: each needs its part of the GPU")
    add = commands.add_parser("table", help="Print the table of all runs.").add_argument
    add("--runs", type=Path, required=True, metavar="DIR")
    arguments, more = parser.parse_known_args()
    arguments.more = more
    if arguments.more and arguments.command == "table":
        parser.error(f"unknown: {' '.join(arguments.more)}")
    try:
        if arguments.command == "table":
            print(table(by_level([arguments.runs])))
        else:
            {"generate": generate, "evaluate": evaluate}[arguments.command](arguments)
    except SparseTasksError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
