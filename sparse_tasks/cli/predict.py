"""``sparse-tasks predict``."""

from __future__ import annotations

from sparse_tasks.cli.output import Format, print_json
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
)
from sparse_tasks.core.errors import UsageError

__all__ = ["predict"]


def predict(
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
    """Let a model answer a data set, without scoring.

    A run that was stopped goes on where it stopped when the same command is given again.
    """
    asked = attentions(attention, sparsity, [*(set_ or []), *(attention_arg or [])])
    if len(asked) > 1:
        raise UsageError("attention", attention, "names several, or several sparsities; sweeps are evaluate's")
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
    with predicted(request, output) as run:
        samples = len(run.finished())
        if format is Format.json:
            print_json({"run": str(run.path), "predictions": samples})
        else:
            print(f"{run.path}: {samples:,} predictions\nnext: sparse-tasks score {run.path}")
