"""An answer of many steps, right up to the first mistake."""

from collections.abc import Sequence

from sparse_tasks.evaluators.answers import items, normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def prefix_fraction(prediction: str | None, answers: Sequence[str]) -> float:
    """The share of steps before the first mistake, in [0, 1]: later steps do not count.

    Step i is entry i of the answer and must be ``answers[i]``; an omitted step is a mistake at its place.
    Divided by the number of gold entries or of entries given, whichever is larger, so that steps beyond the end cost.
    """
    right, given = steps_before_mistake(prediction, answers)
    return right / max(len(answers), given)


def steps_before_mistake(prediction: str | None, answers: Sequence[str]) -> tuple[int, int]:
    """The number of steps before the first mistake (all if there is none), and of all steps given."""
    gold = [normalise(answer) for answer in answers]
    given = [normalise(item) for item in items(prediction or "", frozenset(gold))]
    wrong = (place for place, (entry, step) in enumerate(zip(given, gold, strict=False)) if entry != step)
    return next(wrong, min(len(given), len(gold))), len(given)


METRICS.register("prefix_fraction", Metric(prefix_fraction, stepwise=True))
