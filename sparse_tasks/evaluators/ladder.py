"""Ladders: questions in levels (see ``generators/ladder``), paired within samples to locate a loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
from msgspec.structs import replace

from sparse_tasks.attention.attention import DENSE
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.records import Count, Difference, Name, Record, Share
from sparse_tasks.evaluators.ability import able
from sparse_tasks.evaluators.compare import recorded
from sparse_tasks.evaluators.records import ComparedTask, DifferenceInterval, Outcome, Probability
from sparse_tasks.evaluators.results import read_scored
from sparse_tasks.evaluators.statistics import (
    difference_interval,
    holm,
    mean_interval,
    precise_mean,
    sign_flip_p_value,
)

GIVEN: Final = "given"
RETRIEVE: Final = "retrieve"
TWO_PROMPTS: Final = "two_prompts"
ALL: Final = "all"
RUNGS: Final = (GIVEN, RETRIEVE, TWO_PROMPTS, ALL)
"""Reasoning alone, retrieval alone, one after the other, both at once."""
STEPS: Final = ((TWO_PROMPTS, GIVEN), (ALL, TWO_PROMPTS), (ALL, GIVEN))
"""Pairs of rungs of one answer: what is lost where the first is asked in place of the second."""
COLUMNS: Final = (*Outcome.__struct_fields__, "turns", "levels")


class Rung(Record, frozen=True, kw_only=True):
    """Score at a rung."""

    rung: Name
    mean: Share
    low: Share
    high: Share


class Step(Record, frozen=True, kw_only=True):
    """Mean score at one rung minus that at another, paired within samples.

    Attributes:
        rung: The first rung.
        less: The rung subtracted.
        difference: The mean.
        interval: Confidence interval of the difference.
        p_value: Two-sided sign-flip test.
        p_holm: The same, adjusted for the steps of all ladders at a length that the model can do.
    """

    rung: Name
    less: Name
    difference: Difference
    interval: DifferenceInterval
    p_value: Probability
    p_holm: Probability


class Ladder(Record, frozen=True, kw_only=True):
    """A ladder at a length: its rungs and steps.

    Attributes:
        unparsed: Share of samples with an unparsed answer, whose loss is one of form.
        unable: Whether dense attention reaches no rung, so that the steps mean nothing.
    """

    length: Count
    task: Name
    n: Count
    unparsed: Share
    unable: bool
    rungs: list[Rung]
    steps: list[Step]


def by_rung(scores: pa.Table) -> list[Outcome]:
    """Outcomes of a run's scores by rung, named after task and rung.

    The score of two prompts is the product of both: the second prompt contains the right answer to the first, without
    which a model could not go on. ``parsed`` says whether all of a sample's questions had an answer.

    Args:
        scores: The ``COLUMNS`` of ``scores.parquet``. Samples whose questions are no levels are left out.
    """
    outcomes = []
    for row in scores.select(list(COLUMNS)).to_pylist():
        turns, levels = row.pop("turns"), row.pop("levels")
        found = dict(zip(levels or (), turns or (), strict=True))
        if RETRIEVE in found and "compute" in found:
            found[TWO_PROMPTS] = found[RETRIEVE] * found["compute"]
        for rung in RUNGS:
            if rung in found:
                own = {"id": f"{row['id']} {rung}", "task": f"{row['task']}_{rung}", "score": found[rung]}
                outcomes.append(Outcome(**(row | own)))
    return outcomes


def ladders(run: str | Path, *, level: float = 0.95, partial: bool = False) -> list[Ladder]:
    """The ladders of a scored run, by length and task.

    Args:
        run: Folder of the run.
        level: Confidence level of the intervals, in (0, 1).
        partial: Whether to use the answered samples of an incomplete run.

    Raises:
        DataError: The run is incomplete, without ``partial``.
        UsageError: The folder is not a scored run, or none of its tasks is a ladder; or the level is out of range.
    """
    if not 0 < level < 1:
        raise UsageError("level", level, "must be in (0, 1), such as 0.95")
    folder = to_path(run)
    scored = read_scored(folder, COLUMNS, partial=partial)
    dense = scored.result.attention.method == DENSE
    scores: dict[tuple[int, str], dict[str, list[float]]] = {}
    parsed: dict[tuple[int, str], list[float]] = {}
    for outcome in by_rung(scored.scores):
        task, rung = split(outcome.task)
        scores.setdefault((outcome.length, task), {}).setdefault(rung, []).append(outcome.score)
        if rung == ALL:
            parsed.setdefault((outcome.length, task), []).append(outcome.parsed)
    if not scores:
        raise no_ladder(folder)
    found = [
        _ladder(*place, rungs, level, dense, 1 - precise_mean(parsed[place])) for place, rungs in sorted(scores.items())
    ]
    return [one for length in sorted({one.length for one in found}) for one in _adjusted(found, length)]


def no_ladder(folder: Path) -> UsageError:
    """The error for a run without a ladder."""
    return UsageError("ladder", str(folder), "has no questions in levels; generate --preset ladder makes such tasks")


def split(name: str) -> tuple[str, str]:
    """Task and rung, of a name that ``by_rung`` gives."""
    return next((name.removesuffix(f"_{rung}"), rung) for rung in RUNGS if name.endswith(f"_{rung}"))


def lost_in(rows: Sequence[ComparedTask]) -> str:
    """Where a run loses against another, in words, by the significantly different rungs of a ladder at a length."""
    if all(row.unable for row in rows):
        return "unable, so nothing is said"
    lost = {split(row.task)[1] for row in rows if row.difference < 0 and row.p_holm < 0.05 and not row.unable}
    parts = [part for rung, part in ((RETRIEVE, "in retrieval"), (GIVEN, "in reasoning")) if rung in lost]
    if parts:
        return f"B loses {' and '.join(parts)}"
    return "B loses in doing both, in neither alone" if lost else "no loss of B is sure"


def _ladder(
    length: int, task: str, scores: dict[str, list[float]], level: float, dense: bool, unparsed: float
) -> Ladder:
    rungs = []
    for rung in RUNGS:
        interval = mean_interval(scores[rung], level)
        rungs.append(Rung(rung=rung, mean=precise_mean(scores[rung]), low=interval.low, high=interval.high))
    steps = []
    for rung, less in STEPS:
        changes = [one - other for one, other in zip(scores[rung], scores[less], strict=True)]
        p_value = sign_flip_p_value(changes)
        steps.append(
            Step(
                rung=rung,
                less=less,
                difference=precise_mean(changes),
                interval=recorded(difference_interval(changes, level)),
                p_value=p_value,
                p_holm=p_value,
            )
        )
    unable = dense and not any(able(rung.mean) for rung in rungs)
    n = len(scores[ALL])
    return Ladder(length=length, task=task, n=n, unparsed=unparsed, unable=unable, rungs=rungs, steps=steps)


def _adjusted(found: Sequence[Ladder], length: int) -> list[Ladder]:
    """The ladders of a length, with p-values adjusted for all their steps that say something."""
    own = [one for one in found if one.length == length]
    adjusted = iter(holm([step.p_value for one in own if not one.unable for step in one.steps]))
    return [
        one if one.unable else replace(one, steps=[replace(step, p_holm=next(adjusted)) for step in one.steps])
        for one in own
    ]
