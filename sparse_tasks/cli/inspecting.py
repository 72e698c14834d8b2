"""``sparse-tasks attention inspect``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.output import Format, frameless, print_json, print_table
from sparse_tasks.cli.running import (
    Compress,
    FormatOption,
    Lengths,
    LocalModel,
    OneMethod,
    RunBar,
    Set,
    Sparsity,
    Tasks,
    attentions,
    engine_arguments,
)
from sparse_tasks.core.format import PLAIN

if TYPE_CHECKING:
    from sparse_tasks.attention.inspection import Inspected


def inspect(
    model: LocalModel,
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="DATA", help="Data set: a folder, or ORG/NAME on the Hub.")
    ],
    attention: OneMethod,
    sparsity: Sparsity = None,
    set_: Set = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", metavar="N", help="Samples of each task at each length, from the first.")
    ] = 2,
    steps: Annotated[int, typer.Option(metavar="N", help="Decoding steps after each prompt.", min=0)] = 16,
    task: Tasks = None,
    length: Lengths = None,
    compress: Compress = "prompt",
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-arg", metavar="KEY=VALUE", help="device, dtype or impl, as for the engine transformers."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Picture of layers and heads: a .png, .svg or .pdf file.",
            show_default="none",
        ),
    ] = None,
    format: FormatOption = Format.human,
) -> None:
    """Compare what a method sees with a model's true attention, by layer and head, in transformers.

    The model answers under dense attention and the method looks on: what it would see, and the error that this makes.

    Example: sparse-tasks attention inspect -m demo -d sparse-tasks-1k -a quest -s 0.9 -o quest.svg
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.dataset import open_dataset
    from sparse_tasks.evaluators.inspecting import inspect as inspect_model
    from sparse_tasks.evaluators.predict import RunRequest

    chosen = attentions(attention, sparsity, set_ or [])
    if len(chosen) > 1:
        raise UsageError("attention", attention, "is several methods or sparsities; inspect one at a time")
    if output is not None:
        from sparse_tasks.attention.picture import check_path

        check_path(output)
    dataset = open_dataset(data)
    request = RunRequest(
        dataset=dataset,
        selection=dataset.select(task or [], length or [], samples),
        model=model,
        engine="transformers",
        engine_arguments=engine_arguments(engine_arg or []),
        command_line=sys.argv[1:],
        attention=chosen[0],
        compress=compress,
    )
    with RunBar() as bar:
        inspected = inspect_model(request, steps, bar)
    if output is not None:
        from sparse_tasks.attention.maps import draw_maps

        draw_maps(inspected, output, title=f"{model}, {chosen[0].label}, {dataset.name}")
    if format is Format.json:
        print_json(
            {
                "model": model,
                "data": dataset.name,
                "attention": chosen[0].method,
                "sparsity": chosen[0].sparsity,
                "arguments": chosen[0].arguments,
                "compress": compress,
                "phases": [asdict(found) for found in inspected],
                "file": None if output is None else str(output),
            }
        )
        return
    for found in inspected:
        _print(found)
    print("\nrecall: share of the true attention on the keys that are seen; error: of the")
    print("output, relative to its norm. Each layer has the mean over its heads and the")
    print("worst head.")
    if output is not None:
        print(output)


def _print(found: Inspected) -> None:
    table = frameless("layer", ("sparsity", "recall", "worst", "head", "error", "worst", "head"))
    for number, sparsity, recall, error in zip(found.layers, found.sparsity, found.recall, found.error, strict=True):
        table.add_row(str(number), PLAIN.number(sparsity), *_cells(recall, min(recall)), *_cells(error, max(error)))
    recall, error = ([_mean(row) for row in rows] for rows in (found.recall, found.error))
    means = [PLAIN.number(_mean(values)) for values in (found.sparsity, recall, error)]
    table.add_section()
    table.add_row("mean", means[0], means[1], "", "", means[2], "", "")
    print(f"\n{found.phase}, {found.queries:,} queries")
    print_table(table)


def _cells(heads: list[float], worst: float) -> list[str]:
    return [PLAIN.number(_mean(heads)), PLAIN.number(worst), str(heads.index(worst))]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
