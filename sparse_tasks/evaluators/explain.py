"""Where a method's loss comes from: from its budget, from its selection, or from its kernel.

Four runs over the same samples, each one step from the last: dense attention; the oracle, which reads the same number
of keys, but the right ones; the method with its torch twin; the method with its kernel. The paired differences between
neighbours are the parts, and their sum is the difference between the last run and dense attention.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import UsageError, keeping
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.json import to_json
from sparse_tasks.evaluators.engines.running import Engines
from sparse_tasks.evaluators.predict import Progress, RunRequest, predict
from sparse_tasks.evaluators.records import Comparison, Result
from sparse_tasks.evaluators.results import compare_runs, score_run
from sparse_tasks.evaluators.runs import COMPARISON, Run

DENSE, ORACLE, TWIN, KERNEL = "dense", "oracle", "twin", "kernel"
"""Runs, and their folders."""

_PARTS: Final = {"budget": (DENSE, ORACLE), "selection": (ORACLE, TWIN), "numerics": (TWIN, KERNEL)}


@dataclass(frozen=True)
class Explanation:
    """The loss of a method in parts.

    Attributes:
        attention: The methods.
        oracle: The oracles with their budgets and units.
        results: ``result.json`` of each run, in their order; "kernel" only where kernels run.
        parts: Comparisons of a run with the one before it: "budget", "selection", and "numerics" where kernels run;
            and "total", of the last run with the first. The differences of the parts add up to that of the total; their
            intervals do not.
    """

    attention: Attention
    oracle: Attention
    results: dict[str, Result]
    parts: dict[str, Comparison]


def explain(
    request: RunRequest, folder: Path, progress: Callable[[str], AbstractContextManager[Progress]]
) -> Explanation:
    """Run, score and compare, each run in its folder; finished runs are reused.

    Args:
        request: Settings of the engine ``transformers``; its attention names the methods, which have a sparsity.
        folder: Folder for the runs.
        progress: Makes the receiver of a run's progress, from the run's name.

    Raises:
        UsageError: A setting does not fit.
        EngineError: The engine failed; finished runs are kept.
    """
    attention = request.attention or Attention.DENSE
    if not attention.sparse:
        raise UsageError("attention", attention.method, "has no loss to explain; name a method, as in quest")
    if "impl" in request.engine_arguments:
        raise UsageError(
            "engine-arg", f"impl={request.engine_arguments['impl']}", "is what differs between the runs; leave it out"
        )
    oracle = attention.oracle
    runs = {DENSE: (Attention.DENSE, {}), ORACLE: (oracle, {"impl": "torch"}), TWIN: (attention, {"impl": "torch"})}
    if _has_kernels(request):
        runs[KERNEL] = (attention, {"impl": "triton"})
    results: dict[str, Result] = {}
    finished = lambda: f"{len(results)} of {len(runs)} runs, finished" if results else ""  # noqa: E731
    with keeping(folder, finished), Engines() as engines:
        for name, (computed_by, more) in runs.items():
            settings = replace(request, attention=computed_by, engine_arguments={**request.engine_arguments, **more})
            with Run(folder / name) as run:
                with progress(name) as receiver:
                    predict(settings, run, receiver, engines)
                results[name] = score_run(run, request.dataset)
                if name != DENSE:
                    write_whole(run.path / COMPARISON, to_json(compare_runs(folder / DENSE, run.path)))
    pairs = {part: pair for part, pair in _PARTS.items() if pair[1] in runs} | {"total": (DENSE, list(runs)[-1])}
    parts = {part: compare_runs(folder / before, folder / after) for part, (before, after) in pairs.items()}
    return Explanation(attention, oracle, results, parts)


def _has_kernels(request: RunRequest) -> bool:
    import torch

    from sparse_tasks.attention.kernels.dispatch import has_kernels

    return has_kernels(str(request.engine_arguments.get("device", "cuda" if torch.cuda.is_available() else "cpu")))
