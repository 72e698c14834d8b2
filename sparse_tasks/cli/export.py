"""``sparse-tasks export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.completion import complete_export


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A scored run.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="NAME", help="every_eval_ever, eval_results or lm_eval.", autocompletion=complete_export
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write.", show_default="RUN/exports/<name>"),
    ] = None,
) -> None:
    """Write a run's results in the format of another project.

    every_eval_ever: a record of Every Eval Ever 0.3.0.

    eval_results: .eval_results/*.yaml for a model's repository.

    lm_eval: results_*.json, samples_*.jsonl as lm-eval has them.
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.evaluators.exports import EXPORTS
    from sparse_tasks.evaluators.results import read_result, read_scores
    from sparse_tasks.evaluators.runs import Run

    export_run = EXPORTS.get(to)
    result, rows = read_result(run), read_scores(run)
    with Run(run) as opened:
        settings = opened.settings
        if settings is None:
            raise UsageError("run", str(run), "holds no run.json; name a folder that evaluate has made")
        files = export_run(settings, result, rows, opened.predictions())
    folder = output or run / "exports" / to
    for name, content in files.items():
        write_whole(folder / name, content)
        print(folder / name)
