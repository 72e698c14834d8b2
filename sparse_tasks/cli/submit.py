"""``sparse-tasks submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.analyze import RunsArgument
from sparse_tasks.cli.output import check_output


def submit(
    runs: RunsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")] = Path(
        "submission.json"
    ),
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name on the board.", show_default="the models' names")
    ] = None,
    contact: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Person to ask: an address, a handle.", show_default="nobody")
    ] = None,
) -> None:
    """Write a submission for a leaderboard: runs with all their predictions, in one file.

    A sparse run is compared with the dense run of its model, if that is among the runs.

    No folder, user name or command line gets into the file.
    """
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.core.length import label
    from sparse_tasks.evaluators.analyses.table import read_runs
    from sparse_tasks.evaluators.exports.parts import dataset_id
    from sparse_tasks.evaluators.leaderboard.reading import read_submission
    from sparse_tasks.evaluators.leaderboard.submission import make_submission

    check_output(output, "submission", b'"sparse-tasks-submission"')
    content = make_submission(read_runs(runs), name, contact)
    write_whole(output, content)
    submission = read_submission(output)
    print(f"{output}: {len(content) / 2**20:,.2f} MiB, {submission.content.name}")
    for run in submission.runs:
        dataset = run.settings.dataset
        lengths = ", ".join(map(label, dataset.lengths))
        alone = "" if run.attention in ("dense", "unknown") else ", without a dense run"
        compared = ", compared with dense" if run.comparison else alone
        print(f"  {run.model}, {run.label}: {run.packed.lines:,} predictions over {dataset_id(run.settings)} "
              f"({len(dataset.tasks)} tasks at {lengths}){compared}")  # fmt: skip
    print(f"Check it as a keeper would: sparse-tasks leaderboard check {output} --data DATA")
