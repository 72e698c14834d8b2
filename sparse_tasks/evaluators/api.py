"""Evaluation from Python, with the defaults of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_tasks.attention.attention import DENSE, Attention
from sparse_tasks.evaluators.analyses.table import ScoredRun, read_runs
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.predict import RunRequest, default_folder, predict
from sparse_tasks.evaluators.repeats import compare_repeated as compare
from sparse_tasks.evaluators.results import score_run
from sparse_tasks.evaluators.runs import Run

__all__ = ["compare", "evaluate", "load_run"]


def evaluate(
    data: str | Path,
    model: str | Path,
    *,
    engine: str = "vllm",
    engine_arguments: Mapping[str, object] | None = None,
    attention: str | None = None,
    sparsity: float | None = None,
    arguments: Mapping[str, object] | None = None,
    tasks: Sequence[str] = (),
    lengths: Sequence[str | int] = (),
    limit: int | None = None,
    output: str | Path | None = None,
    seed: int = 42,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    tokenizer: str | None = None,
    chat_template: str = "auto",
    begin_answer: bool | None = None,
    compress: str = "prompt",
    thinking: str = "auto",
    thinking_tags: Sequence[str] | None = None,
    thinking_budget: int | None = None,
    self_test: bool = True,
    free_blocks: bool = False,
) -> ScoredRun:
    """Let a model answer a data set, and score it; a run that was stopped is resumed.

    Args:
        data: Folder of a data set, or its id on the Hub.
        model: Folder of a model, its id on the Hub, its name on a server, ``demo`` or ``probe``.
        engine: Name of the engine.
        engine_arguments: Arguments of the engine, as ``--engine-arg`` takes them.
        attention: ``dense``, a method, or a method each for prefill and decoding: ``vertical_slash+quest``. None is
            dense, or unknown if the engine runs elsewhere.
        sparsity: Target sparsity, in [0, 1); None for the methods' own budgets.
        arguments: ``METHOD.PARAMETER`` to a value, as ``--set`` takes them.
        tasks: Names of tasks or groups; empty for all.
        lengths: Lengths of the data set; empty for all.
        limit: Use only the first ``limit`` samples per task and length; None for all.
        output: Folder to write; None for ``runs/<model>-<data set>``.
        seed: Seed of the sampling.
        max_new_tokens: Answer budget in tokens; None for the data set's own.
        temperature: 0 is greedy.
        tokenizer: The model's tokenizer; None for its own.
        chat_template: ``auto``, ``none`` or a Jinja file.
        begin_answer: Whether prompts end inside the answer, after ``<answer>``; None for the data set's choice.
        compress: What methods that evict read before they choose what they keep: the whole ``prompt``, or its
            ``context``, before the question.
        thinking: Whether the prompt opens a block of thought: ``auto`` reads the chat template; ``open`` and ``closed``
            are for prompts that are rendered elsewhere.
        thinking_tags: Tags around thoughts: names of families, or two tags separated by a blank; None for all families.
        thinking_budget: Tokens of thought in addition to the answer budget; None for no separate budget.
        self_test: Whether to compare sparse attention with vLLM's own before the first prompt.
        free_blocks: Whether to return cache blocks that no later query sees to vLLM.

    Raises:
        UsageError: An argument is not valid; the message names it.
        EngineError: The engine failed; earlier answers are kept.
    """
    chosen = Attention.parse(attention or DENSE, sparsity=sparsity, arguments=arguments)
    dataset = open_dataset(str(data))
    request = RunRequest(
        dataset=dataset,
        selection=dataset.select(tasks, lengths, limit),
        model=str(model),
        engine=engine,
        engine_arguments=dict(engine_arguments or {}),
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
        tokenizer=tokenizer,
        chat_template=chat_template,
        attention=None if attention is None else chosen,
        begin_answer=begin_answer,
        compress=compress,
        thinking=thinking,
        thinking_tags=list(thinking_tags or ()),
        thinking_budget=thinking_budget,
        self_test=self_test,
        free_blocks=free_blocks,
    )
    folder = default_folder(request) if output is None else Path(output)
    with Run(folder) as run:
        predict(request, run)
        score_run(run, dataset)
    return load_run(folder)


def load_run(folder: str | Path, *, partial: bool = False) -> ScoredRun:
    """Read a scored run: its settings and its result.

    Args:
        folder: The run.
        partial: Whether to accept an incomplete run, with the samples that are answered.

    Raises:
        UsageError: The folder is not a scored run.
        DataError: The run is incomplete, without ``partial``; or a file cannot be read.
    """
    return read_runs([folder], partial=partial).runs[0]
