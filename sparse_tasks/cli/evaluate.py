"""``sparse-tasks evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparse_tasks.cli.output import Format
from sparse_tasks.cli.running import (
    Attention,
    AttentionArg,
    Bar,
    ChatTemplate,
    Data,
    Engine,
    EngineArg,
    FormatOption,
    Length,
    Limit,
    MaxNewTokens,
    Model,
    Output,
    Seed,
    Set,
    Sparsity,
    Task,
    Temperature,
    Tokenizer,
    attentions,
    predicted,
    running_request,
    tell_result,
    tell_sweep,
)

if TYPE_CHECKING:
    from sparse_tasks.attention.attention import Attention as AttentionOf
    from sparse_tasks.evaluators.predict import RunRequest

__all__ = ["evaluate"]


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
    format: FormatOption = Format.human,
) -> None:
    """Let a model answer a data set, and score it: predict and score in one.

    A run that was stopped goes on where it stopped when the same command is given again.

    Several methods or sparsities (-a quest,snapkv -s 0.5,0.9) are a sweep, each held against dense attention.

    Example: sparse-tasks evaluate sparse-tasks-4k --model demo --attention quest --sparsity 0.9
    """
    from sparse_tasks.evaluators.results import score_run

    asked = attentions(attention, sparsity, [*(set_ or []), *(attention_arg or [])])
    request = running_request(
        data,
        model,
        engine,
        engine_arg,
        task,
        length,
        limit,
        seed,
        max_new_tokens,
        temperature,
        tokenizer,
        chat_template,
        asked[0],
    )
    if len(asked) > 1:
        _sweep(request, asked, output, format)
        return
    with predicted(request, output) as run:
        tell_result(score_run(run, request.dataset), run.path, format)


def _sweep(request: RunRequest, asked: list[AttentionOf], output: Path | None, format: Format) -> None:
    from sparse_tasks.evaluators.predict import default_folder
    from sparse_tasks.evaluators.sweep import sweep

    folder = output or default_folder(request, "sweep")
    tell_sweep(sweep(request, asked, folder, lambda attention: Bar(attention.label)), folder, format)
