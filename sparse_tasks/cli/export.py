"""``sparse-tasks export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.completion import complete_export
from sparse_tasks.cli.output import PartialOption, warn

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
    partial: PartialOption = False,
) -> None:
    """Write a run's results, or a data set, in the format of another project.

    For a run:

    every_eval_ever: a record of Every Eval Ever 0.3.0.

    eval_results: .eval_results/*.yaml for a model's repository.

    lm_eval: results_*.json, samples_*.jsonl in lm-eval's format.

    For a data set:

    ruler: LENGTH/TASK/validation.jsonl for RULER's scripts.

    kvpress: LENGTH/test.parquet for kvpress' evaluation.

    lm_eval_task: tasks that lm-eval runs (--include_path).
    """
    from sparse_tasks.core.errors import UsageError, nearest
    from sparse_tasks.evaluators.exports import DATA_EXPORTS, EXPORTS

    if to in DATA_EXPORTS:
        _export_data(DATA_EXPORTS.get(to), source, output or Path(f"{source.name.partition('@')[0]}-{to}"))
    elif to in EXPORTS:
        _export_run(EXPORTS.get(to), source, output or source / "exports" / to, partial)
    else:
        raise UsageError("to", to, nearest(to, [*EXPORTS.names(), *DATA_EXPORTS.names()]))


def _export_data(export_data: DataExport, source: Path, folder: Path) -> None:
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.evaluators.dataset import open_dataset

    dataset = open_dataset(str(source))
    for name, content in export_data(dataset, warn):
        write_whole(folder / name, content)
        print(folder / name)
    if dataset.asks_several(dataset.select()):
        warn("of samples with several questions, only the first is exported")


def _export_run(export_run: Export, run: Path, folder: Path, partial: bool) -> None:
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.evaluators.records import Prediction, ScoredSample
    from sparse_tasks.evaluators.results import read_scored
    from sparse_tasks.evaluators.runs import describe_missing, read_predictions

    read = read_scored(run, partial=partial)
    rows = [ScoredSample(**row) for row in read.scores.to_pylist()]
    files = export_run(read.settings, read.result, rows, read_predictions(run, Prediction).values())
    if read.result.missing:
        warn(f"PARTIAL: {describe_missing(run, read.result.missing, read.settings.dataset.samples)}.")
    for name, content in files.items():
        write_whole(folder / name, content)
        print(folder / name)
