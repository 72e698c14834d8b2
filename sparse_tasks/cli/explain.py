"""``sparse-tasks explain``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.output import Format, frameless, print_json, print_table
from sparse_tasks.cli.running import (
    AnswerBudget,
    Compress,
    Data,
    FormatOption,
    Lengths,
    Limit,
    LocalModel,
    OneMethod,
    RunBar,
    Set,
    Tasks,
    attentions,
    engine_arguments,
    print_unable,
    prompts,
)
from sparse_tasks.core.format import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparse_tasks.evaluators.explain import Explanation
    from sparse_tasks.evaluators.records import ComparedAverage, ComparedTask, ConfigResult


def explain(
    data: Data,
    model: LocalModel,
    attention: OneMethod,
    sparsity: Annotated[str, typer.Option("--sparsity", "-s", metavar="S", help="Target sparsity, in [0, 1).")],
    set_: Set = None,
    task: Tasks = None,
    length: Lengths = None,
    limit: Limit = None,
    max_new_tokens: AnswerBudget = None,
    compress: Compress = "prompt",
    engine_arg: Annotated[
        list[str] | None,
        typer.Option("--engine-arg", metavar="KEY=VALUE", help="device or dtype, as for the engine transformers."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for the runs.",
            show_default="runs/<model>-<data set>-explain-<method>",
        ),
    ] = None,
    format: FormatOption = Format.human,
) -> None:
    """Split a method's loss into budget, selection and numerics, in transformers.

    Runs dense attention, an oracle with the same budget, the method in plain torch, and, on a GPU, with its kernels.

    The same command resumes a run that was stopped.

    Example: sparse-tasks explain sparse-tasks-4k --model demo --attention quest --sparsity 0.9
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.records import to_builtins
    from sparse_tasks.evaluators.dataset import open_dataset
    from sparse_tasks.evaluators.explain import explain as explain_loss
    from sparse_tasks.evaluators.predict import RunRequest, default_folder

    chosen = attentions(attention, sparsity, set_ or [])
    if len(chosen) > 1:
        raise UsageError(
            "attention", f"{attention} at {sparsity}", "is several methods or sparsities; explain one at a time"
        )
    dataset = open_dataset(data)
    request = RunRequest(
        dataset=dataset,
        selection=dataset.select(task or [], length or [], limit),
        model=model,
        engine="transformers",
        engine_arguments=engine_arguments(engine_arg or []),
        max_new_tokens=max_new_tokens,
        compress=compress,
        command_line=sys.argv[1:],
        attention=chosen[0],
    )
    folder = output or default_folder(request, f"explain-{chosen[0].label}")
    explanation = explain_loss(request, folder, RunBar)
    if format is Format.human:
        _print(explanation, folder)
        return
    print_json(
        {
            "folder": str(folder),
            "attention": to_builtins(explanation.attention),
            "oracle": to_builtins(explanation.oracle),
            "results": {name: to_builtins(result) for name, result in explanation.results.items()},
            "parts": {name: to_builtins(comparison) for name, comparison in explanation.parts.items()},
        }
    )


def _print(explanation: Explanation, folder: Path) -> None:
    from sparse_tasks.core.length import label

    total = explanation.parts["total"]
    dense = next(iter(explanation.results.values()))
    print(f"{dense.model.name}, {explanation.attention.label}{prompts(dense)}")
    settings = [f"{path}={value}" for path, value in explanation.oracle.arguments.items() if "sparsity" not in path]
    print("oracle:", explanation.oracle.method, *settings)
    for length in sorted({row.length for row in total.rows}):
        tasks = [row.task for row in total.rows if row.length == length and not row.unable]
        for task in tasks:
            compared = {
                part: next(row for row in comparison.rows if (row.length, row.task) == (length, task))
                for part, comparison in explanation.parts.items()
            }
            _table(f"{task}, length {label(length)}", explanation, compared, length, [task])
        if len(tasks) > 1:
            averages = {
                part: next(average for average in comparison.averages if average.length == length)
                for part, comparison in explanation.parts.items()
            }
            _table(f"mean of {len(tasks)} tasks, length {label(length)}", explanation, averages, length, tasks)
    print("\nprefill, decode: measured sparsity; difference: paired, from the run above.")
    print("Parts add up to the total; intervals do not.")
    if "numerics" not in explanation.parts:
        print("numerics: not measured (kernels need a GPU); the method ran in plain torch.")
    print_unable([(row.length, row.task) for row in total.rows if row.unable], len(total.rows))
    print(f"runs: {folder}{os.sep}*")


def _table(
    title: str,
    explanation: Explanation,
    compared: dict[str, ComparedTask] | dict[str, ComparedAverage],
    length: int,
    tasks: Sequence[str],
) -> None:
    table = frameless("part", ("run", "prefill", "decode", "score", "difference", "95% interval"))
    total = compared["total"]
    for (name, result), part in zip(explanation.results.items(), ["", *compared], strict=False):
        configs = [config for config in result.configs if config.length == length and config.task in tasks]
        score = total.mean_a if part == "" else compared[part].mean_b
        table.add_row(part, name, *_measured(configs), PLAIN.number(score), *_difference(compared.get(part)))
    table.add_section()
    table.add_row("total", "", "", "", "", *_difference(total))
    print(f"\n{title}, {total.n:,} samples")
    print_table(table)


def _measured(configs: list[ConfigResult]) -> list[str]:
    from sparse_tasks.evaluators.results import mean_measure

    return [PLAIN.number(mean_measure(configs, "sparsity", phase)) for phase in ("prefill", "decode")]


def _difference(row: ComparedTask | ComparedAverage | None) -> list[str]:
    if row is None:
        return ["", ""]
    return [PLAIN.signed(row.difference), PLAIN.interval(row.interval.low, row.interval.high, sign=True)]
