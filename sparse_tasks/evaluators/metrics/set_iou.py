"""A set of answers, compared as sets."""

from collections.abc import Sequence

from sparse_tasks.evaluators.answers import items, normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def set_iou(prediction: str | None, answers: Sequence[str]) -> float:
    """Intersection over union (Jaccard index) of the entries given and the gold ones, in [0, 1].

    Order and repeats do not matter. An extra entry costs as much as a missing entry. The value is not rounded.
    """
    gold = frozenset(map(normalise, answers))
    given = frozenset(map(normalise, set(items(prediction or "", gold)))) - {""}
    return len(given & gold) / len(given | gold)


METRICS.register("set_iou", Metric(set_iou))
