"""Tasks that a model can do: no conclusions are drawn from tasks that it fails with dense attention."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeAlias

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.records import Outcome, Result
from sparse_tasks.evaluators.statistics import precise_mean

__all__ = ["ABLE", "Place", "able", "config_means", "dense_means", "describe_places", "describe_unable", "unable"]

ABLE: Final = 0.1
"""The least mean score of dense attention, on a task at a length, with which a model counts as able to do it.

Chance and fragments of answers score a few hundredths on most tasks. Below a tenth, what sparse attention could lose is
hardly more than that, and methods that do well and methods that do harm look the same.
"""

Place: TypeAlias = tuple[int, str]
"""A length and a task."""


def able(dense: float) -> bool:
    """Whether a mean score of dense attention shows that the model can do the task."""
    return dense >= ABLE


def unable(*runs: Mapping[Place, float]) -> frozenset[Place]:
    """Pairs of task and length that no model can do.

    Args:
        runs: Mean scores of dense runs.
    """
    places = {place for run in runs for place in run}
    return frozenset(place for place in places if not any(able(run[place]) for run in runs if place in run))


def config_means(result: Result) -> dict[Place, float]:
    """Mean scores of a run."""
    return {(config.length, config.task): config.mean for config in result.configs}


def dense_means(outcomes: Iterable[Outcome]) -> dict[Place, float]:
    """Mean scores of a dense run."""
    scores: dict[Place, list[float]] = {}
    for outcome in outcomes:
        scores.setdefault((outcome.length, outcome.task), []).append(outcome.score)
    return {place: precise_mean(values) for place, values in scores.items()}


def describe_places(places: Collection[Place]) -> str:
    """``ruler_vt (4k, 8k), ruler_cwe (8k)``."""
    lengths: dict[str, list[int]] = {}
    for length, task in sorted(places):
        lengths.setdefault(task, []).append(length)
    return ", ".join(f"{task} ({', '.join(map(label, of_task))})" for task, of_task in lengths.items())


def describe_unable(failed: Collection[Place], of: int) -> str:
    """The consequence of failing some of ``of`` pairs of task and length, in a sentence or two."""
    if len(failed) == of:
        return (
            f"Dense attention scores below {ABLE:g} on every task, so nothing can be concluded about sparse attention: "
            "take a model that can do the tasks, or easier tasks (sparse-tasks generate --preset small)."
        )
    places = describe_places(failed)
    return f"unable: {places}. Dense attention scores below {ABLE:g} there, so no conclusion is drawn from it."
