"""``sparse-tasks score``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.output import Format
from sparse_tasks.cli.running import FormatOption, print_result


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder written by evaluate.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where the data set is now.", show_default="as recorded")
    ] = None,
    format: FormatOption = Format.human,
) -> None:
    """Score a run's predictions again, without the model."""
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.results import score_run
    from sparse_tasks.evaluators.runs import SETTINGS, Run

    if not os.path.isfile(run / SETTINGS):  # Path.is_file raises for a path that is too long
        raise UsageError("run", str(run), f"holds no {SETTINGS}; name a folder written by evaluate")
    with Run(run) as opened:
        print_result(score_run(opened, data), run, format)
