"""The same samples under several methods and sparsities, each held against dense attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparse_tasks.attention.attention import DENSE, Attention, share_out
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.json import to_json
from sparse_tasks.evaluators.compare import compare
from sparse_tasks.evaluators.engines.engine import ENGINES
from sparse_tasks.evaluators.engines.running import Engines
from sparse_tasks.evaluators.predict import Progress, RunRequest, predict
from sparse_tasks.evaluators.records import Comparison, Result
from sparse_tasks.evaluators.results import read_outcomes, read_result, score_run
from sparse_tasks.evaluators.runs import Run

__all__ = ["COMPARISON", "Swept", "grid", "sweep"]

COMPARISON = "comparison.json"
"""In the folder of a run: how it differs from the dense one."""


@dataclass(frozen=True)
class Swept:
    """One run of a sweep.

    Attributes:
        folder: Of the run.
        attention: What computed attention.
        result: Its ``result.json``.
        comparison: With the dense run; None for that one.
    """

    folder: Path
    attention: Attention
    result: Result
    comparison: Comparison | None


def grid(methods: Sequence[str], sparsities: Sequence[float | None], arguments: Mapping[str, Any]) -> list[Attention]:
    """All that the options ask for: each method with each sparsity, dense attention once.

    Args:
        methods: ``dense``, methods, compositions.
        sparsities: For each of them.
        arguments: ``METHOD.PARAMETER`` to a value; each goes to what has the method in it.

    Raises:
        UsageError: An argument goes to none of them, or something is asked for twice.
    """
    found: list[Attention] = []
    for method, own in zip(methods, share_out(arguments, methods), strict=True):
        targets = [None] if method == DENSE else sparsities
        found += [Attention.parse(method, sparsity=sparsity, arguments=own) for sparsity in targets]
    labels = [one.label for one in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError("attention", label, "is asked for twice")
    return found


def sweep(
    request: RunRequest,
    attentions: Sequence[Attention],
    folder: Path,
    progress: Callable[[Attention], AbstractContextManager[Progress]],
) -> list[Swept]:
    """Run, score and compare, one folder for each; what is finished already is not done again.

    Args:
        request: What is asked; its attention does not matter.
        attentions: What is to compute attention. Dense attention is added where it is missing, as the first.
        folder: Holds a folder for each, by its label.
        progress: Gives what is told of a run.

    Raises:
        UsageError: Something does not fit; as a rule before anything has run.
        EngineError: The engine failed; what is finished stays.
    """
    dense = [one for one in attentions if not one.sparse] or [Attention.DENSE]
    wanted = [*dense, *(one for one in attentions if one.sparse)]
    _check(request, wanted)
    swept: list[Swept] = []
    with Engines() as engines:
        for attention in wanted:
            with Run(folder / attention.label) as run:
                with progress(attention) as told:
                    predict(replace(request, attention=attention), run, told, engines)
                result = score_run(run, request.dataset)
                comparison = _against(folder / dense[0].label, run.path) if attention.sparse else None
                if comparison is not None:
                    write_whole(run.path / COMPARISON, to_json(comparison))
            swept.append(Swept(run.path, attention, result, comparison))
    return swept


def _check(request: RunRequest, wanted: Sequence[Attention]) -> None:
    """Whether the engine takes all of them: a sweep should not end in the middle for what could be known before."""
    kind, seen = ENGINES.get(request.engine), set[str]()
    for attention in wanted:
        engine = kind(replace(request, attention=attention).settings())
        if attention.method not in seen:
            engine.context()
        seen.add(attention.method)


def _against(dense: Path, run: Path) -> Comparison:
    sha256 = [read_result(folder).dataset_sha256 for folder in (dense, run)]
    return compare(read_outcomes(dense), read_outcomes(run), dataset_a=sha256[0], dataset_b=sha256[1])
