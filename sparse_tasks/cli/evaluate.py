"""``sparse-tasks evaluate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sparse_tasks.cli.completion import complete_engine, complete_method
from sparse_tasks.cli.output import Format, print_json
from sparse_tasks.cli.running import (
    AnswerBudget,
    Compress,
    FormatOption,
    FreeBlocks,
    Lengths,
    Limit,
    NoSelfTest,
    RunBar,
    Set,
    Sparsity,
    Tasks,
    attentions,
    engine_arguments,
    print_result,
    print_sweep,
    result_json,
    sweep_json,
)

if TYPE_CHECKING:
    from sparse_tasks.core.records import JsonObject
    from sparse_tasks.evaluators.records import Result

Done = TypeVar("Done")


def evaluate(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...", help="Data sets: each a folder, or ORG/NAME or ORG/NAME@revision on the Hub."
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="M",
            help="Model: a folder, a Hub id, demo, probe or probe-steps; a name on a server; a file to replay. "
            "May be repeated.",
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Inference engine: vllm, openai, transformers or replay.",
            autocompletion=complete_engine,
        ),
    ] = "vllm",
    engine_arg: Annotated[
        list[str] | None,
        typer.Option("--engine-arg", metavar="KEY=VALUE", help="Argument of the engine. May be repeated."),
    ] = None,
    engines: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of engines that share the samples, each on its own GPUs or cores.",
            show_default="1; with --on as many as there is room for",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster on which the engines run: ray://HOST:10001, HOST:6379 on one of its nodes, or auto.",
            show_default="this machine",
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            "-a",
            metavar="NAME",
            help="Attention method: dense, a method, or two (vertical_slash+quest); with replay a label.",
            show_default="dense",
            autocompletion=complete_method,
        ),
    ] = None,
    sparsity: Sparsity = None,
    set_: Set = None,
    attention_arg: Annotated[list[str] | None, typer.Option("--attention-arg", hidden=True)] = None,
    task: Tasks = None,
    length: Lengths = None,
    limit: Limit = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="RUN",
            help="Folder for the run, for the sweep, or for all runs of several models or data sets.",
            show_default="runs/<model>-<data set>",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Sampling seed.")] = 42,
    max_new_tokens: AnswerBudget = None,
    temperature: Annotated[float, typer.Option(metavar="T", help="Sampling temperature; 0 is greedy.")] = 0.0,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Tokenizer: a built-in name, a folder, or a Hub id.", show_default="the model's own"
        ),
    ] = None,
    chat_template: Annotated[
        str, typer.Option(metavar="FILE", help="Chat template: auto (the tokenizer's, if any), none, or a Jinja file.")
    ] = "auto",
    begin_answer: Annotated[
        bool | None, typer.Option("--begin-answer", help="Begin the model's answer with <answer>.")
    ] = None,
    no_begin_answer: Annotated[
        bool, typer.Option("--no-begin-answer", help="Do not begin answers, even if the data set does.")
    ] = False,
    compress: Compress = "prompt",
    thinking: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="Whether the prompt opens a block of thought: auto (depends on the chat template), open or closed.",
        ),
    ] = "auto",
    thinking_tags: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAGS",
            help="Tags around thoughts: a family, or two tags as in '<plan> </plan>'. May be repeated.",
            show_default="all families",
        ),
    ] = None,
    thinking_budget: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Budget for thought in tokens, in addition to the answer budget.", show_default="none"
        ),
    ] = None,
    no_self_test: NoSelfTest = False,
    free_blocks: FreeBlocks = False,
    no_score: Annotated[
        bool, typer.Option("--no-score", help="Only write the answers; score them later with sparse-tasks score.")
    ] = False,
    format: FormatOption = Format.human,
) -> None:
    """Let a model answer a data set, and score it.

    The same command resumes a run that was stopped.

    Several methods or sparsities (-a quest,snapkv -s 0.5,0.9) make a sweep: each is compared with dense attention.

    If there are several models or data sets, each model answers each data set.

    Example: sparse-tasks evaluate sparse-tasks-4k --model demo --attention quest --sparsity 0.9
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.dataset import open_dataset
    from sparse_tasks.evaluators.predict import RunRequest, default_folder
    from sparse_tasks.evaluators.predict import predict as predict_run
    from sparse_tasks.evaluators.results import score_run
    from sparse_tasks.evaluators.runs import Run
    from sparse_tasks.evaluators.sweep import sweeps

    if begin_answer and no_begin_answer:
        raise UsageError("begin-answer", True, "contradicts --no-begin-answer; use one of them")
    chosen = attentions(attention or "dense", sparsity, [*(set_ or []), *(attention_arg or [])])
    if no_score and len(chosen) > 1:
        raise UsageError("attention", attention, "is a sweep, which is always scored; leave out --no-score")
    datasets = [open_dataset(each) for each in data]
    pairs = [(name, dataset) for name in model for dataset in datasets]  # the model stays loaded
    requests: dict[Path, RunRequest] = {}
    for name, dataset in pairs:
        request = RunRequest(
            dataset=dataset,
            selection=dataset.select(task or [], length or [], limit),
            model=name,
            engine=engine,
            engine_arguments=engine_arguments(engine_arg or []),
            temperature=temperature,
            seed=seed,
            max_new_tokens=max_new_tokens,
            tokenizer=tokenizer,
            chat_template=chat_template,
            command_line=sys.argv[1:],
            attention=None if attention is None else chosen[0],
            begin_answer=False if no_begin_answer else begin_answer,
            compress=compress,
            thinking=thinking,
            thinking_tags=thinking_tags or (),
            thinking_budget=thinking_budget,
            self_test=not no_self_test,
            free_blocks=free_blocks,
            engines=engines,
            on=on,
        )
        folder = default_folder(request, "sweep" if len(chosen) > 1 else None)
        if output is not None:
            folder = output if len(pairs) == 1 else output / folder.name
        if folder in requests:
            raise UsageError("output", str(folder), "would be the folder of two runs; start them one at a time")
        requests[folder] = request
    several = len(pairs) > 1
    if len(chosen) > 1:
        swept = sweeps(requests, chosen, lambda path, one: RunBar(f"{path.name} {one.label}" if several else one.label))
        _print_all(swept, print_sweep, sweep_json, format)
        return
    results: dict[Path, Result] = {}
    answered: dict[Path, int] = {}
    with ExitStack() as held:  # any interruption, also while printing, reports what each run has
        for folder, request in requests.items():
            run = held.enter_context(Run(folder))
            with RunBar(folder.name if several else "") as bar:
                predict_run(request, run, bar)
            if no_score:
                answered[folder] = len(run.finished())
            else:
                results[folder] = score_run(run, request.dataset)
        _print_all(results, print_result, result_json, format)
        _print_all(answered, _print_answered, _answered_json, format)


def _print_all(
    done: Mapping[Path, Done],
    print_one: Callable[[Done, Path, Format], None],
    as_json: Callable[[Done, Path], JsonObject],
    format: Format,
) -> None:
    """Print results one after another, or as one list for programs."""
    if format is Format.json and len(done) > 1:
        print_json([as_json(one, folder) for folder, one in done.items()])
        return
    for number, (folder, one) in enumerate(done.items()):
        if number:
            print()
        print_one(one, folder, format)


def _print_answered(count: int, folder: Path, format: Format) -> None:
    if format is Format.json:
        print_json(_answered_json(count, folder))
    else:
        print(f"{folder}: {count:,} predictions\nnext: sparse-tasks score {shlex.quote(str(folder))}")


def _answered_json(count: int, folder: Path) -> JsonObject:
    return {"run": str(folder), "predictions": count}


@wraps(evaluate)
def predict(**options: Any) -> None:
    """Answer without scoring: the former name of ``evaluate --no-score``."""
    evaluate(**(options | {"no_score": True}))
