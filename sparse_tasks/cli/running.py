"""Shared by commands that run a model: options, progress, tables of results."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_tasks.cli.completion import complete_method, complete_task
from sparse_tasks.cli.output import Format, frameless, print_json, print_table
from sparse_tasks.cli.progress import Bar
from sparse_tasks.core.format import PLAIN

if TYPE_CHECKING:
    from sparse_tasks.attention.attention import Attention as AttentionOf
    from sparse_tasks.core.records import JsonObject
    from sparse_tasks.evaluators.ability import Place
    from sparse_tasks.evaluators.engines.engine import Output as EngineOutput
    from sparse_tasks.evaluators.records import (
        AverageResult,
        ConfigResult,
        Later,
        Result,
        RunSettings,
        TurnResult,
    )
    from sparse_tasks.evaluators.sweep import Swept

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Data set: a folder, or ORG/NAME or ORG/NAME@revision on the Hub.")
]
LocalModel = Annotated[
    str, typer.Option("--model", "-m", metavar="M", help="Model: a folder, a Hub id, demo, probe or probe-steps.")
]
OneMethod = Annotated[
    str,
    typer.Option(
        "--attention",
        "-a",
        metavar="NAME",
        help="A method, or two (vertical_slash+quest).",
        autocompletion=complete_method,
    ),
]
Sparsity = Annotated[
    str | None,
    typer.Option(
        "--sparsity", "-s", metavar="S", help="Target sparsity, in [0, 1).", show_default="the method's own budget"
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-t",
        metavar="NAME",
        help="Task or group of tasks. May be repeated.",
        show_default="all",
        autocompletion=complete_task,
    ),
]
Lengths = Annotated[
    list[str] | None,
    typer.Option(
        "--length", "-l", metavar="N", help="Prompt length in the data set. May be repeated.", show_default="all"
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", help="Use only the first N samples per task and length.", show_default="all"),
]
AnswerBudget = Annotated[
    int | None, typer.Option(metavar="N", help="Answer budget in tokens.", show_default="the data set's own")
]
Compress = Annotated[
    str,
    typer.Option(
        metavar="PART",
        help="What methods that evict read before they choose: the prompt, or only its context.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="METHOD.KEY=VALUE",
        help="Parameter of a method: quest.page=32, or page=32 with a single method. May be repeated.",
        show_default=False,
    ),
]
NoSelfTest = Annotated[
    bool,
    typer.Option(
        "--no-self-test", help="Start vLLM without comparing sparse attention with its own first (docs/serving.md)."
    ),
]
FreeBlocks = Annotated[
    bool,
    typer.Option("--free-blocks", help="Return cache blocks that no later query sees to vLLM (docs/serving.md)."),
]
FormatOption = Annotated[Format, typer.Option(help="Output format.")]


def engine_arguments(texts: list[str]) -> dict[str, Any]:
    """Parse ``--engine-arg``."""
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
        raise UsageError("sparsity", sparsity, "needs a method; name one with --attention, as in quest")
    return grid(methods, shares, method_arguments(arguments))


def method_arguments(texts: list[str]) -> dict[str, Any]:
    """Parse ``--set`` into values by ``METHOD.KEY``."""
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


class RunBar(Bar):
    """Progress of a run: a bar in a terminal, else a line at each step.

    Args:
        name: Printed first, if there are several runs.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__("reading", name)

    def counting(self, samples: int) -> None:
        """Show that prompts are being encoded."""
        self.stage("counting tokens", samples)

    def counted(self) -> None:
        """Show one more encoded prompt."""
        self.advance()

    def starting(self, engine: str, samples: int, tokens: int, done: int) -> None:
        """Show that the engine loads the model."""
        finished = f", {done:,} already answered" if done else ""
        self.console.print(
            f"{self._name}{samples:,} samples to answer ({tokens:,} tokens{finished}); {engine} is starting ..."
        )
        self.stage("loading")
        self._to_answer = samples

    def started(self) -> None:
        """Show that the engine is ready."""
        if not self.console.is_terminal:
            self.console.print("answering ...")
        self.stage("answering", self._to_answer)

    def noted(self, note: str) -> None:
        """Print an engine's note."""
        self.console.print(f"{self._name}{note}")

    def predicted(self, output: EngineOutput) -> None:
        """Show one more answer."""
        self.advance(tokens=(output.input_tokens or 0) + (output.output_tokens or 0))


def result_json(result: Result, folder: Path) -> JsonObject:
    """A run as JSON."""
    from sparse_tasks.core.records import to_builtins

    return {"run": str(folder), **to_builtins(result)}


def print_result(result: Result, folder: Path, format: Format) -> None:
    """Print the scores of a run."""
    from sparse_tasks.core.length import label
    from sparse_tasks.evaluators.ability import unable
    from sparse_tasks.evaluators.forms import RULES
    from sparse_tasks.evaluators.results import dense_scores

    if format is Format.json:
        print_json(result_json(result, folder))
        return
    table = frameless("task", ("length", "n", "score", "95% interval", "unparsed", "cut off"))
    failed = unable(dense_scores(folder, result))
    for average in result.averages:
        configs = [config for config in result.configs if config.length == average.length]
        for config in configs:
            number, interval = _score(config)
            score = (f"unable {number}" if (config.length, config.task) in failed else number), interval
            shares = [PLAIN.share(share, 0) for share in (config.unparsed, config.truncated)]
            table.add_row(config.task, label(config.length), f"{config.n:,}", *score, *shares)
        if average.tasks > 1:
            table.add_row("mean of tasks", label(average.length), f"{average.n:,}", *_score(average), "", "")
        table.add_section()
    print(f"{result.model.name}, attention {attention_of(result)}{prompts(result)}")
    print_table(table)
    for average in result.averages:
        if measured := _measured([config for config in result.configs if config.length == average.length]):
            print(f"measured sparsity at {label(average.length)}: {measured}")
    _print_thinking(result)
    _print_turns(result)
    if any(config.fallback for config in result.configs):
        print("Some answers were read from an unclosed <answer> or a \\boxed{}; result.json says how many (fallback).")
    if rules := sorted({name for config in result.configs for name in config.read_by or () if name in RULES}):
        print(f"Some answers were read by rules ({', '.join(rules)}); result.json says how many (read_by).")
    if any(config.ambiguous for config in result.configs):
        print("Some answers can be read in two ways and are unparsed; result.json says how many (ambiguous).")
    print_unable(failed, len(result.configs))
    print(f"run: {folder}")


def _print_thinking(result: Result) -> None:
    """Print mean tokens of thought and of answers, and the share cut off in thought, where the model thought."""
    from sparse_tasks.core.length import label

    if not any(config.thinking_tokens or config.cut_thinking for config in result.configs):
        return
    table = frameless("tokens", ("length", "thinking", "answer", "cut off thinking"))
    for config in result.configs:
        tokens = [PLAIN.formatted(tokens or None, ",.0f") for tokens in (config.thinking_tokens, config.answer_tokens)]
        table.add_row(config.task, label(config.length), *tokens, PLAIN.share(config.cut_thinking or 0.0, 0))
    print_table(table)


def _print_turns(result: Result) -> None:
    """Print the score of each question, and whether later ones score less, where samples ask several."""
    from sparse_tasks.core.length import label

    for config in result.configs:
        if not config.turns:
            continue
        table = frameless("question", ("n", "score", "95% interval"))
        for turn in config.turns:
            table.add_row(turn.level or str(turn.turn), f"{turn.n:,}", *_score(turn))
        print(f"\n{config.task} at {label(config.length)}, by question")
        print_table(table)
        if later := config.later:
            print(_describe_later(later))


def _describe_later(later: Later) -> str:
    """Whether later questions score less, with the evidence."""
    more = "less" if later.difference < 0 else "more"
    found = f"Later questions score {more}" if later.p_value < 0.05 else "No sign that later questions score less"
    difference = PLAIN.signed(later.difference)
    limits = PLAIN.interval(later.interval.low, later.interval.high, sign=True)
    return f"{found}: later half minus earlier half {difference} {limits}, p {PLAIN.p_value(later.p_value)}."


def print_unable(failed: Collection[Place], of: int) -> None:
    """Print what the model cannot do, and the consequence."""
    from textwrap import fill

    from sparse_tasks.evaluators.ability import describe_unable

    if failed:
        print("\n" + fill(describe_unable(failed, of), 80, subsequent_indent="   ", break_on_hyphens=False))


def _score(row: ConfigResult | AverageResult | TurnResult) -> list[str]:
    return [PLAIN.number(row.mean), PLAIN.interval(row.low, row.high)]


def attention_of(result: Result | RunSettings) -> str:
    """The method that computed attention, with its target sparsity."""
    method, sparsity = result.attention.method, result.attention.sparsity
    name = method if method == "dense" or sparsity is None else f"{method} at sparsity {sparsity:g}"
    return f"{name} (nominal)" if result.attention.nominal else name


def prompts(result: Result | RunSettings) -> str:
    """A description of unusual prompts, for the end of a line."""
    from sparse_tasks.evaluators.results import prompting

    return f", {prompting(result)}".removeprefix(", query-aware")


def _measured(configs: list[ConfigResult]) -> str:
    """Measured sparsity over all tasks of a length; "" where nothing was measured."""
    from sparse_tasks.evaluators.results import mean_measure

    words = []
    for phase in ("prefill", "decode"):
        share, spread = mean_measure(configs, "sparsity", phase), mean_measure(configs, "sparsity_spread", phase)
        if share is not None:
            words.append(f"{phase} {share:.3f}" + ("" if spread is None else f" (spread {spread:.3f})"))
    reads = [config.kv_bytes_per_step for config in configs if config.kv_bytes_per_step]
    if words and len(reads) == len(configs):
        words.append(f"{PLAIN.amount(sum(reads) / len(reads))}B of keys and values a step")
    return ", ".join(words)


def sweep_json(swept: list[Swept], folder: Path) -> JsonObject:
    """A sweep as JSON."""
    from sparse_tasks.core.records import to_builtins

    runs = [
        {"run": str(run.folder), "comparison": None if run.comparison is None else to_builtins(run.comparison)}
        | to_builtins(run.result)
        for run in swept
    ]
    return {"sweep": str(folder), "runs": runs}


def print_sweep(swept: list[Swept], folder: Path, format: Format) -> None:
    """Print the scores of a sweep, and the difference of each run from dense attention."""
    from sparse_tasks.core.length import label
    from sparse_tasks.evaluators.ability import unable
    from sparse_tasks.evaluators.results import average, dense_scores, mean_measure

    if format is Format.json:
        print_json(sweep_json(swept, folder))
        return
    first = swept[0].result
    failed = unable(dense_scores(swept[0].folder, first))
    print(f"{first.model.name}{prompts(first)}")
    for of_length in first.averages:
        length = of_length.length
        tasks = [config.task for config in first.configs if config.length == length]
        able = [task for task in tasks if (length, task) not in failed]
        columns = ("target", "prefill", "decode", "score", "vs dense", "95% interval")
        table = frameless("attention", columns)
        for run in swept:
            configs = [config for config in run.result.configs if config.length == length]
            target = run.attention.sparsity if run.attention.sparse else None
            row = [run.attention.method, PLAIN.formatted(target, "g")]
            row += [PLAIN.number(mean_measure(configs, "sparsity", phase)) for phase in ("prefill", "decode")]
            scored = average([config for config in configs if config.task in (able or tasks)])
            row.append(PLAIN.number(scored.mean))
            for compared in run.comparison.averages if run.comparison else []:
                if compared.length == length:
                    row.append(PLAIN.signed(compared.difference))
                    row.append(PLAIN.interval(compared.interval.low, compared.interval.high, sign=True))
            if not able:
                row.append("unable")
            table.add_row(*row)
        what = f"{scored.tasks} tasks" if scored.tasks > 1 else (able or tasks)[0]
        print(f"\nlength {label(length)}, {what}, {scored.n:,} samples")
        print_table(table)
    print("\nprefill, decode: measured sparsity; score: mean of the tasks; vs dense: paired difference, as in compare")
    print_unable(failed, len(first.configs))
    print(f"runs: {folder}{os.sep}*")
