"""``sparse-tasks evaluate``."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_tasks.cli.output import Format
from sparse_tasks.cli.running import (
    Attention,
    AttentionArg,
    ChatTemplate,
    Data,
    Engine,
    EngineArg,
    FormatOption,
    Length,
    Limit,
    MaxNewTokens,
    Model,
    NoScore,
    Output,
    RunBar,
    Seed,
    Set,
    Sparsity,
    Task,
    Temperature,
    Tokenizer,
    attentions,
    engine_arguments,
    predicted,
    tell_predictions,
    tell_result,
    tell_sweep,
)

if TYPE_CHECKING:
    from sparse_tasks.attention.attention import Attention as AttentionOf
    from sparse_tasks.evaluators.predict import RunRequest

__all__ = ["evaluate", "predict"]


def evaluate(
    data: Data,
    model: Model,
    engine: Engine = "vllm",
    engine_arg: EngineArg = None,
    attention: Attention = "dense",
    sparsity: Sparsity = None,
    set_: Set = None,
    attention_arg: AttentionArg = None,
    task: Task = None,
    length: Length = None,
    limit: Limit = None,
    output: Output = None,
    seed: Seed = 42,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    tokenizer: Tokenizer = None,
    chat_template: ChatTemplate = "auto",
    no_score: NoScore = False,
    format: FormatOption = Format.human,
) -> None:
    """Let a model answer a data set, and score it.

    A run that was stopped goes on where it stopped when the same command is given again.

    Several methods or sparsities (-a quest,snapkv -s 0.5,0.9) are a sweep, each held against dense attention.

    Example: sparse-tasks evaluate sparse-tasks-4k --model demo --attention quest --sparsity 0.9
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.dataset import open_dataset
    from sparse_tasks.evaluators.predict import RunRequest
    from sparse_tasks.evaluators.results import score_run

    chosen = attentions(attention, sparsity, [*(set_ or []), *(attention_arg or [])])
    if no_score and len(chosen) > 1:
        raise UsageError("attention", attention, "is a sweep, which is always scored; give one without --no-score")
    dataset = open_dataset(data)
    request = RunRequest(
        dataset=dataset,
        selection=dataset.select(task or [], length or [], limit),
        model=model,
        engine=engine,
        engine_arguments=engine_arguments(engine_arg or []),
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
        tokenizer=tokenizer,
        chat_template=chat_template,
        command_line=sys.argv[1:],
        attention=chosen[0],
    )
    if len(chosen) > 1:
        _sweep(request, chosen, output, format)
        return
    with predicted(request, output) as run:
        if no_score:
            tell_predictions(run, format)
        else:
            tell_result(score_run(run, request.dataset), run.path, format)


@wraps(evaluate)
def predict(**options: Any) -> None:
    """Answer without scoring: the former name of ``evaluate --no-score``."""
    evaluate(**(options | {"no_score": True}))


def _sweep(request: RunRequest, chosen: list[AttentionOf], output: Path | None, format: Format) -> None:
    from sparse_tasks.evaluators.predict import default_folder
    from sparse_tasks.evaluators.sweep import sweep

    folder = output or default_folder(request, "sweep")
    tell_sweep(sweep(request, chosen, folder, lambda attention: RunBar(attention.label)), folder, format)
