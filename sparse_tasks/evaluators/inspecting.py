"""Inspection of what methods select of a model's attention, on the samples of a data set."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.engines.engine import EngineSettings
from sparse_tasks.evaluators.engines.transformers import TransformersEngine
from sparse_tasks.evaluators.predict import Progress, RunRequest, prompt_tokenizer
from sparse_tasks.evaluators.prompts import check_context, count_tokens, made_for, requests

if TYPE_CHECKING:
    from sparse_tasks.attention.huggingface import SparseRun
    from sparse_tasks.attention.inspection import Inspected


class _Inspecting(TransformersEngine):
    """Answers under dense attention, and inspects it."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        from sparse_tasks.attention.inspection import Inspection

        self.inspection = Inspection(settings.attention, settings.arguments.get("impl", "auto"))

    def _sparse(self, context: int | None) -> AbstractContextManager[SparseRun | None]:
        from sparse_tasks.attention.huggingface import attended_by

        self.inspection.context = context
        return attended_by(self._model, self.inspection)


def answer(engine: TransformersEngine, request: RunRequest, steps: int, progress: Progress) -> None:
    """Let an observing engine answer each prompt of a run.

    Args:
        engine: The engine, not started; stopped in the end.
        request: Settings.
        steps: Decoding steps after each prompt, fewer if an answer ends earlier.
        progress: Receiver of progress.

    Raises:
        UsageError: A setting does not fit.
        EngineError: The model failed.
    """
    tokenizer = prompt_tokenizer(request, engine.settings.model)
    if not made_for(request.dataset, tokenizer, request.begins_answer):
        progress.counting(sum(1 for _ in request.dataset.rows(request.selection, ["id"])))
    begun = request.begins_answer
    counting = count_tokens(request.dataset, request.selection, tokenizer, progress.counted, begin_answer=begun)
    counted = list(counting)
    needs = [(sample.length, tokens, steps + 1) for sample, tokens in counted]  # the prompt yields the first token
    needed = check_context(needs, engine.context())
    progress.starting("transformers", len(needs), sum(tokens for _, tokens, _ in needs), 0)
    try:
        engine.start(needed)
        progress.started()
        budgets = {sample.id: steps + 1 for sample, _ in counted}
        contexts = request.compress == "context"
        prompts = requests(
            request.dataset, request.selection, tokenizer, budgets, begin_answer=begun, contexts=contexts
        )
        for output in engine.generate(prompts):
            progress.predicted(output)
    finally:
        engine.stop()


def inspect(request: RunRequest, steps: int, progress: Progress) -> list[Inspected]:
    """Compare the methods of a run with the model's dense attention, in ``transformers``.

    The model reads each prompt and writes an answer with dense attention, greedily; methods only observe.

    Args:
        request: Settings; its attention names the methods.
        steps: Decoding steps after each prompt, fewer if an answer ends earlier; at least 1 for methods that decode or
            evict.
        progress: Receiver of progress.

    Returns:
        The phases in which the methods act.

    Raises:
        UsageError: A setting does not fit, or no step was decoded.
        EngineError: The model failed.
    """
    attention = request.attention or Attention.DENSE
    if not attention.sparse:
        raise UsageError("attention", attention.method, "has nothing to inspect; name a method, as in quest")
    if steps < 0 or (steps == 0 and attention.decode is not None):
        raise UsageError("steps", steps, "has to be at least 1 for a method that decodes or evicts")
    engine = _Inspecting(request.settings())
    answer(engine, request, steps, progress)
    inspected = engine.inspection.inspected()
    if len(inspected) < len(attention.methods):
        raise UsageError("steps", steps, "were never decoded, because every answer ended at its first token")
    return inspected
