"""The same samples under several methods and sparsities, each compared with dense attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sparse_tasks.attention.attention import DENSE, Attention, share_out
from sparse_tasks.core.errors import UsageError, keeping
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.json import to_json
from sparse_tasks.evaluators.engines.engine import ENGINES
from sparse_tasks.evaluators.engines.group import engines
from sparse_tasks.evaluators.engines.running import Starter
from sparse_tasks.evaluators.predict import Progress, RunRequest, predict
from sparse_tasks.evaluators.records import Comparison, Result
from sparse_tasks.evaluators.results import compare_runs, score_run
from sparse_tasks.evaluators.runs import COMPARISON, Run


@dataclass(frozen=True)
class Swept:
    """A run of a sweep.

    Attributes:
        folder: Its folder.
        attention: Its attention.
        result: Its ``result.json``.
        comparison: With the dense run; None for the dense run.
    """

    folder: Path
    attention: Attention
    result: Result
    comparison: Comparison | None


def grid(methods: Sequence[str], sparsities: Sequence[float | None], arguments: Mapping[str, Any]) -> list[Attention]:
    """Each method at each sparsity, and dense attention once.

    Args:
        methods: ``dense``, methods, compositions.
        sparsities: Target sparsities; None for the methods' own budgets.
        arguments: ``METHOD.PARAMETER`` to a value; each goes to the methods and compositions with that method.

    Raises:
        UsageError: An argument is for none of them, or an attention is repeated.
    """
    attentions: list[Attention] = []
    for method, values in zip(methods, share_out(arguments, methods), strict=True):
        targets = [None] if method == DENSE else sparsities
        attentions += [Attention.parse(method, sparsity=sparsity, arguments=values) for sparsity in targets]
    labels = [attention.label for attention in attentions]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError("attention", label, "is repeated; name each attention once")
    return attentions


def sweeps(
    requests: Mapping[Path, RunRequest],
    attentions: Sequence[Attention],
    progress: Callable[[Path, Attention], AbstractContextManager[Progress]],
) -> dict[Path, list[Swept]]:
    """Run, score and compare, for several models and data sets; finished runs are not repeated.

    Args:
        requests: Settings, all with the same engines, by the parent of their runs' folders, which are named by label;
            their attention is ignored.
        attentions: Attentions to run. Dense attention comes first, and is added if missing.
        progress: Makes the receiver of a run's progress.

    Raises:
        UsageError: A setting does not fit; mostly before anything has run.
        EngineError: The engine failed; finished runs are kept.
    """
    dense = [attention for attention in attentions if not attention.sparse] or [Attention.DENSE]
    ordered = [*dense, *(attention for attention in attentions if attention.sparse)]
    for request in requests.values():
        _check(request, ordered)
    first = next(iter(requests.values()))
    with engines(first.engines, first.on) as starter:
        return {
            folder: _sweep(request, ordered, folder, partial(progress, folder), starter)
            for folder, request in requests.items()
        }


def sweep(
    request: RunRequest,
    attentions: Sequence[Attention],
    folder: Path,
    progress: Callable[[Attention], AbstractContextManager[Progress]],
) -> list[Swept]:
    """As ``sweeps``, for one model and one data set."""
    return sweeps({folder: request}, attentions, lambda _, attention: progress(attention))[folder]


def _sweep(
    request: RunRequest,
    ordered: Sequence[Attention],
    folder: Path,
    progress: Callable[[Attention], AbstractContextManager[Progress]],
    starter: Starter,
) -> list[Swept]:
    """Runs of one model on one data set; the first is dense."""
    swept: list[Swept] = []
    finished = lambda: f"{len(swept)} of {len(ordered)} runs, finished" if swept else ""  # noqa: E731
    with keeping(folder, finished):
        for attention in ordered:
            with Run(folder / attention.label) as run:
                with progress(attention) as receiver:
                    predict(replace(request, attention=attention), run, receiver, starter)
                result = score_run(run, request.dataset)
                comparison = compare_runs(folder / ordered[0].label, run.path) if attention.sparse else None
                if comparison is not None:
                    write_whole(run.path / COMPARISON, to_json(comparison))
            swept.append(Swept(run.path, attention, result, comparison))
    return swept


def _check(request: RunRequest, attentions: Sequence[Attention]) -> None:
    """Check that the engine supports all of them, so that a sweep does not fail halfway."""
    kind, seen = ENGINES.get(request.engine), set[str]()
    if kind.labelled:
        named = ", ".join(attention.label for attention in attentions)
        raise UsageError(
            "attention", named, f"is a sweep, but {kind.name} has the answers of a single run; name one attention"
        )
    for attention in attentions:
        engine = kind(replace(request, attention=attention).settings())
        if attention.method not in seen:
            engine.context()
        seen.add(attention.method)
