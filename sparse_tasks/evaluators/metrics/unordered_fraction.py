"""Several answers in any order."""

from collections.abc import Sequence

from sparse_tasks.evaluators.answers import items, normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def unordered_fraction(prediction: str | None, answers: Sequence[str]) -> float:
    """The share of gold entries that were given, in [0, 1].

    Order and repeats do not matter. Divided by the number of gold entries or of different entries given,
    whichever is larger, so that repeating the context wins nothing. RULER's ``string_match_all`` is the
    lenient relative: it looks for each gold entry anywhere in the output.
    """
    gold = [normalise(answer) for answer in answers]
    given = frozenset(map(normalise, set(items(prediction or "", frozenset(gold))))) - {""}
    return sum(entry in given for entry in gold) / max(len(gold), len(given))


METRICS.register("unordered_fraction", Metric(unordered_fraction))
