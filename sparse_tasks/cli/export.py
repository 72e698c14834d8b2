"""``sparse-tasks export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.completion import complete_export
from sparse_tasks.cli.output import warn

if TYPE_CHECKING:
    from sparse_tasks.evaluators.exports import DataExport, Export


def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|DATA", help="A scored run; or a data set: a folder, or ORG/NAME on the Hub.")
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="NAME", help="One of the formats above.", autocompletion=complete_export),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder to write.", show_default="RUN/exports/NAME, or ./DATA-NAME"
        ),
    ] = None,
) -> None:
    """Write a run's results, or a data set, in the format of another project.

    Of a run:

    every_eval_ever: a record of Every Eval Ever 0.3.0.

    eval_results: .eval_results/*.yaml for a model's repository.

    lm_eval: results_*.json, samples_*.jsonl as lm-eval has them.

    Of a data set:

    ruler: LENGTH/TASK/validation.jsonl for RULER's scripts.

    kvpress: LENGTH/test.parquet for kvpress' evaluation.

    lm_eval_task: tasks that lm-eval runs (--include_path).
    """
    from sparse_tasks.core.errors import UsageError, nearest
    from sparse_tasks.evaluators.exports import DATA_EXPORTS, EXPORTS

    if to in DATA_EXPORTS:
        _export_data(DATA_EXPORTS.get(to), source, output or Path(f"{source.name.partition('@')[0]}-{to}"))
    elif to in EXPORTS:
        _export_run(EXPORTS.get(to), source, output or source / "exports" / to)
    else:
        raise UsageError("to", to, nearest(to, [*EXPORTS.names(), *DATA_EXPORTS.names()]))


def _export_data(export_data: DataExport, source: Path, folder: Path) -> None:
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.evaluators.dataset import open_dataset

    for name, content in export_data(open_dataset(str(source)), warn):
        write_whole(folder / name, content)
        print(folder / name)


def _export_run(export_run: Export, run: Path, folder: Path) -> None:
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.evaluators.results import read_result, read_scores
    from sparse_tasks.evaluators.runs import Run

    result, rows = read_result(run), read_scores(run)
    with Run(run) as opened:
        settings = opened.settings
        if settings is None:
            raise UsageError("run", str(run), "holds no run.json; name a folder that evaluate has made")
        files = export_run(settings, result, rows, opened.predictions())
    for name, content in files.items():
        write_whole(folder / name, content)
        print(folder / name)
