"""``sparse-tasks evaluate``."""

from __future__ import annotations

from sparse_tasks.cli.output import Format
from sparse_tasks.cli.running import (
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
    Task,
    Temperature,
    Tokenizer,
    predicted,
    running_request,
    tell_result,
)

__all__ = ["evaluate"]


def evaluate(
    data: Data,
    model: Model,
    engine: Engine = "vllm",
    engine_arg: EngineArg = None,
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

    Example: sparse-tasks evaluate sparse-tasks-4k --model demo --limit 20
    """
    from sparse_tasks.evaluators.results import score_run

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
    )
    with predicted(request, output) as run:
        tell_result(score_run(run, request.dataset), run.path, format)
