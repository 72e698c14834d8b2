"""What the commands that run a model share: their options, the progress shown, the table of results."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_tasks.cli.completion import complete_engine, complete_method, complete_task
from sparse_tasks.cli.output import Format, print_json

if TYPE_CHECKING:
    from sparse_tasks.attention.attention import Attention as AttentionOf
    from sparse_tasks.evaluators.engines.engine import Output as EngineOutput
    from sparse_tasks.evaluators.predict import RunRequest
    from sparse_tasks.evaluators.records import AverageResult, ConfigResult, Result
    from sparse_tasks.evaluators.runs import Run
    from sparse_tasks.evaluators.sweep import Swept

__all__ = [
    "Attention",
    "AttentionArg",
    "Bar",
    "ChatTemplate",
    "Data",
    "Engine",
    "EngineArg",
    "FormatOption",
    "Length",
    "Limit",
    "MaxNewTokens",
    "Model",
    "NoScore",
    "Output",
    "Seed",
    "Set",
    "Sparsity",
    "Task",
    "Temperature",
    "Tokenizer",
    "attention_of",
    "attentions",
    "engine_arguments",
    "method_arguments",
    "predicted",
    "tell_predictions",
    "tell_result",
    "tell_sweep",
]

Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help="A data set folder, or a data set on the Hub: ORG/NAME or ORG/NAME@revision."),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="M", help="A folder, a Hub id, demo; a server's name; a file to replay."),
]
Engine = Annotated[
    str, typer.Option(metavar="NAME", help="vllm, openai, transformers or replay.", autocompletion=complete_engine)
]
EngineArg = Annotated[
    list[str] | None,
    typer.Option("--engine-arg", metavar="KEY=VALUE", help="An argument of the engine. May be repeated."),
]
Attention = Annotated[
    str,
    typer.Option(
        "--attention",
        "-a",
        metavar="NAME",
        help="dense, a method, or two: vertical_slash+quest.",
        autocompletion=complete_method,
    ),
]
Sparsity = Annotated[
    str | None,
    typer.Option("--sparsity", "-s", metavar="S", help="Target sparsity, in [0, 1).", show_default="their own budgets"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="METHOD.KEY=VALUE",
        help="Set a parameter of a method: quest.page=32, or page=32 if there is one method. May be repeated.",
        show_default=False,
    ),
]
AttentionArg = Annotated[list[str] | None, typer.Option("--attention-arg", hidden=True)]
Task = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-t",
        metavar="NAME",
        help="A task or a group. May be repeated.",
        show_default="all",
        autocompletion=complete_task,
    ),
]
Length = Annotated[
    list[str] | None,
    typer.Option("--length", "-l", metavar="N", help="A length of the data set. May be repeated.", show_default="all"),
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", help="The first N samples of each task at each length.", show_default="all"),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="RUN", help="Folder to write.", show_default="runs/<model>-<data set>"),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the sampling.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Answer budget in tokens.", show_default="the data set's own")
]
Temperature = Annotated[float, typer.Option(metavar="T", help="0 is greedy.")]
Tokenizer = Annotated[
    str | None, typer.Option(metavar="NAME", help="The model's tokenizer.", show_default="the model's own")
]
ChatTemplate = Annotated[
    str, typer.Option(metavar="FILE", help="auto (the tokenizer's own, if any), none, or a Jinja file.")
]
NoScore = Annotated[
    bool, typer.Option("--no-score", help="Write the answers only; score them later with sparse-tasks score.")
]
FormatOption = Annotated[Format, typer.Option(help="How to print the result.")]


def engine_arguments(texts: list[str]) -> dict[str, Any]:
    """Arguments of an engine, as ``--engine-arg`` takes them."""
    return dict(_argument("engine-arg", text, "enforce_eager=true") for text in texts)


def attentions(names: str, sparsity: str | None, arguments: list[str]) -> list[AttentionOf]:
    """The attentions of ``--attention a,b --sparsity 0.5,0.9 --set METHOD.KEY=VALUE``, in this order."""
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.sweep import grid

    shares: list[float | None] = []
    for text in [None] if sparsity is None else sparsity.split(","):
        try:
            shares.append(None if text is None else float(text))
        except ValueError as error:
            raise UsageError("sparsity", text, "is not a number; write 0.9, or several as in 0,0.5,0.9") from error
    methods = [name.strip() for name in names.split(",")]
    if methods == ["dense"] and any(shares):
        raise UsageError("sparsity", sparsity, "goes with a method; name one with --attention, as in quest")
    return grid(methods, shares, method_arguments(arguments))


def method_arguments(texts: list[str]) -> dict[str, Any]:
    """Parameters of methods by ``METHOD.KEY``, as ``--set`` takes them."""
    return dict(_argument("set", text, "quest.page=32") for text in texts)


def _argument(option: str, text: str, example: str) -> tuple[str, Any]:
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.json import parse_json

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(option, text, f"sets nothing; write KEY=VALUE, as in {example}")
    try:
        return key, parse_json(value.encode(errors="replace"))
    except (ValueError, RecursionError):
        return key, value


@contextmanager
def predicted(request: RunRequest, output: Path | None) -> Iterator[Run]:
    """The run's folder, held, with every prediction in it."""
    from sparse_tasks.evaluators.predict import default_folder, predict
    from sparse_tasks.evaluators.runs import Run

    with Run(output or default_folder(request)) as run:
        with Bar() as bar:
            predict(request, run, bar)
        yield run


class Bar:
    """Progress on standard error: a bar in a terminal, else a line at each step.

    Args:
        what: Said first, where there are several.
    """

    def __init__(self, what: str = "") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>11}"),
            TimeRemainingColumn(),
        )
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._bar = self._progress.add_task("reading", total=None, rate="")
        self._began, self._tokens = time.monotonic(), 0
        self._what = f"{what}: " if what else ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def counting(self, samples: int) -> None:
        """Prompts are encoded to see whether they fit."""
        if samples:
            self._progress.reset(self._bar, description="counting tokens", total=samples, rate="")

    def counted(self) -> None:
        """One was."""
        self._progress.advance(self._bar)

    def starting(self, engine: str, samples: int, tokens: int, done: int) -> None:
        """The engine loads the model."""
        there = f", {done:,} there already" if done else ""
        self._console.print(
            f"{self._what}{samples:,} samples to answer ({tokens:,} tokens{there}); {engine} starts ..."
        )
        self._progress.reset(self._bar, description="loading", total=None, rate="")
        self._samples = samples

    def started(self) -> None:
        """The engine is ready."""
        if not self._console.is_terminal:
            self._console.print("answering ...")
        self._began, self._tokens = time.monotonic(), 0
        self._progress.reset(self._bar, description="answering", total=self._samples, rate="")

    def predicted(self, output: EngineOutput) -> None:
        """An answer was written."""
        self._tokens += (output.input_tokens or 0) + (output.output_tokens or 0)
        rate = f"{self._tokens / max(time.monotonic() - self._began, 1e-3):,.0f} tok/s"
        self._progress.update(self._bar, advance=1, rate=rate)


def tell_predictions(run: Run, format: Format) -> None:
    """Print how many predictions a run holds."""
    samples = len(run.finished())
    if format is Format.json:
        print_json({"run": str(run.path), "predictions": samples})
    else:
        print(f"{run.path}: {samples:,} predictions\nnext: sparse-tasks score {run.path}")


def tell_result(result: Result, folder: Path, format: Format) -> None:
    """Print what a run scored."""
    from rich.console import Console
    from rich.table import Table

    from sparse_tasks.core.length import label
    from sparse_tasks.core.records import to_builtins

    if format is Format.json:
        print_json({"run": str(folder), **to_builtins(result)})
        return
    table = Table()
    table.add_column("task", no_wrap=True)
    for name in ("length", "n", "score", "95% interval", "unparsed", "cut off"):
        table.add_column(name, justify="right")
    for average in result.averages:
        for one in result.configs:
            if one.length == average.length:
                shares = [f"{one.unparsed:.0%}", f"{one.truncated:.0%}"]
                table.add_row(one.task, label(one.length), f"{one.n:,}", *_numbers(one), *shares)
        if average.tasks > 1:
            table.add_row("mean of tasks", label(average.length), f"{average.n:,}", *_numbers(average), "", "")
        table.add_section()
    print(f"{result.model.name}, attention {attention_of(result)}")
    Console().print(table)
    for average in result.averages:
        if measured := _measured([one for one in result.configs if one.length == average.length]):
            print(f"measured at {label(average.length)}: {measured}")
    if any(one.fallback for one in result.configs):
        print("Some answers were read from an unclosed <answer> or a \\boxed{}; result.json says how many (fallback).")
    print(f"run: {folder}")


def attention_of(result: Result) -> str:
    """What computed attention, with the sparsity that was asked for."""
    asked = result.attention
    nominal = asked.sparsity if asked.method != "dense" else None
    return asked.method + ("" if nominal is None else f" at sparsity {nominal:g}")


def _measured(configs: list[ConfigResult]) -> str:
    """The sparsity that ran, over all tasks of a length; "" where nothing was measured."""
    from sparse_tasks.evaluators.results import mean_measure

    words = []
    for phase in ("prefill", "decode"):
        share, spread = mean_measure(configs, "sparsity", phase), mean_measure(configs, "sparsity_spread", phase)
        if share is not None:
            words.append(f"{phase} {share:.3f}" + ("" if spread is None else f" (spread {spread:.3f})"))
    read = [one.kv_bytes_per_step for one in configs if one.kv_bytes_per_step]
    if words and len(read) == len(configs):
        words.append(f"{_bytes(sum(read) / len(read))} of keys and values a step")
    return ", ".join(words)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def tell_sweep(swept: list[Swept], folder: Path, format: Format) -> None:
    """Print what the runs of a sweep scored, and how each differs from dense attention."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sparse_tasks.core.length import label
    from sparse_tasks.core.records import to_builtins
    from sparse_tasks.evaluators.results import mean_measure

    if format is Format.json:
        runs = [
            {"run": str(one.folder), "comparison": None if one.comparison is None else to_builtins(one.comparison)}
            | to_builtins(one.result)
            for one in swept
        ]
        print_json({"sweep": str(folder), "runs": runs})
        return
    print(swept[0].result.model.name)
    for place, average in enumerate(swept[0].result.averages):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("attention", no_wrap=True)
        for column in ("asked", "prefill", "decode", "score", "vs dense", "95% interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for one in swept:
            configs = [config for config in one.result.configs if config.length == average.length]
            asked = one.attention.sparsity if one.attention.sparse else None
            row = [one.attention.method, "-" if asked is None else f"{asked:g}"]
            for phase in ("prefill", "decode"):
                share = mean_measure(configs, "sparsity", phase)
                row.append("-" if share is None else f"{share:.3f}")
            row.append(f"{one.result.averages[place].mean:.3f}")
            if one.comparison is None:
                row += ["", ""]
            else:
                difference = one.comparison.averages[place]
                row.append(f"{difference.difference:+.3f}")
                row.append(f"{difference.interval.low:+.3f} {difference.interval.high:+.3f}")
            table.add_row(*row)
        tasks = f"{average.tasks} tasks" if average.tasks > 1 else swept[0].result.configs[0].task
        print(f"\nlength {label(average.length)}, {tasks}, {average.n:,} samples")
        Console().print(table)
    print("\nprefill, decode: measured sparsity; score: mean of the tasks; vs dense: pairwise, as compare has it")
    print(f"runs: {folder}{os.sep}*")


def _numbers(one: ConfigResult | AverageResult) -> list[str]:
    return [f"{one.mean:.3f}", f"{one.low:.3f}-{one.high:.3f}"]
