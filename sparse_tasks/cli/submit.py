"""``sparse-tasks submit``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.analyze import RunsArgument
from sparse_tasks.cli.output import check_output, warn


def submit(
    runs: RunsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")] = Path(
        "submission.json"
    ),
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name on the board.", show_default="the models' names")
    ] = None,
    contact: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Contact for questions: an address or a handle.", show_default="nobody"),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", "-d", metavar="DATA", help="Where a data set is now. May be repeated.", show_default="as recorded"
        ),
    ] = None,
) -> None:
    """Write a submission for a leaderboard: runs with all their predictions, in one file.

    A sparse run is compared with the dense run of its model, if that is among the runs.

    Runs that no leaderboard would accept are refused. The file contains no folder, user name or command line.
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.core.format import size
    from sparse_tasks.core.length import label
    from sparse_tasks.evaluators.analyses.table import read_runs
    from sparse_tasks.evaluators.dataset import at_hand
    from sparse_tasks.evaluators.exports.parts import dataset_id
    from sparse_tasks.evaluators.leaderboard.check import foreseen
    from sparse_tasks.evaluators.leaderboard.reading import read_submission
    from sparse_tasks.evaluators.leaderboard.submission import make_submission

    check_output(output, "submission", b'"sparse-tasks-submission"')
    read = read_runs(runs)
    records = {run.settings.dataset.sha256: run.settings.dataset for run in read.runs}
    datasets = at_hand(records.values(), data or ())
    content = make_submission(read, name, contact)
    if reasons := foreseen(content, output, list(datasets.values())):
        first, more = reasons[0], f" (and {len(reasons) - 1} more reasons)" if len(reasons) > 1 else ""
        remedy = "score the run again" if first.code.endswith("_differ") else "leave the run out"
        what = f"is refused by leaderboard check: {first.code}: {first.message}{more}; {remedy}"
        raise UsageError("runs", first.where, what)
    for absent in records.keys() - datasets.keys():
        where = records[absent].place
        warn(f"{where} is missing or is not the runs' data set, so only settings were checked; --data says where it is")
    write_whole(output, content)
    submission = read_submission(output)
    print(f"{output}: {size(len(content))}, {submission.content.name}")
    for run in submission.runs:
        dataset = run.settings.dataset
        lengths = ", ".join(map(label, dataset.lengths))
        alone = "" if run.attention in ("dense", "unknown") else ", without a dense run"
        compared = ", compared with dense" if run.comparison else alone
        print(f"  {run.model}, {run.label}: {run.packed.lines:,} predictions over {dataset_id(run.settings)} "
              f"({len(dataset.tasks)} tasks at {lengths}){compared}")  # fmt: skip
    # Without them the data is regenerated.
    places = dict.fromkeys(dataset.name for dataset in datasets.values()) if records.keys() == datasets.keys() else ()
    options = [word for place in places for word in ("--data", place)]
    command = shlex.join(["sparse-tasks", "leaderboard", "check", str(output), *options])
    print(f"Check it as a leaderboard would: {command}")
