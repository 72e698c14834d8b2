"""A sequence, scored by the entries in the right order."""

from bisect import bisect_left
from collections.abc import Sequence

from sparse_tasks.evaluators.answers import items, normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def sequence_fraction(prediction: str | None, answers: Sequence[str]) -> float:
    """The longest common subsequence of the entries given and the gold ones, over the larger of the two lists.

    In [0, 1]: 1 if they are the same in the same order. A wrong, missing, extra or misplaced entry costs only itself.
    """
    gold = [normalise(answer) for answer in answers]
    given = [normalise(item) for item in items(prediction or "", frozenset(gold))]
    places: dict[str, list[int]] = {}
    for place, entry in reversed(list(enumerate(gold))):
        places.setdefault(entry, []).append(place)
    # Places in gold of the entries given, in descending order (Hunt and Szymanski, 1977): ends[k] is the smallest place
    # at which a common subsequence of k + 1 entries can end.
    ends: list[int] = []
    for entry in given:
        for place in places.get(entry, ()):
            k = bisect_left(ends, place)
            ends[k : k + 1] = [place]
    return len(ends) / max(len(gold), len(given))


METRICS.register("sequence_fraction", Metric(sequence_fraction))
