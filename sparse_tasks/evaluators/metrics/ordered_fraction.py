"""Several answers, each with its place."""

from collections.abc import Sequence

from sparse_tasks.evaluators.answers import Entry, entries, normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def ordered_fraction(prediction: str | None, answers: Sequence[str]) -> float:
    """The share of places that hold the right entry, in [0, 1].

    Entry i must be ``answers[i]``. A numbered entry is at its number, so that a missing entry does not shift
    the rest. Divided by the number of gold entries or of entries given, whichever is larger, so that extra
    entries cost.
    """
    gold = [normalise(answer) for answer in answers]
    given = entries(prediction or "", frozenset(gold))
    placed = _placed(given)
    right = sum(normalise(placed.get(place, "")) == entry for place, entry in enumerate(gold, start=1))
    return right / max(len(gold), len(given))


def _placed(given: list[Entry]) -> dict[int, str]:
    """Entries by place, counted from 1.

    By their numbers if any; an entry without a number then has no place. By order if none has a number, or the numbers
    are not places: all the same, as in lazy markdown, or counted from 0.
    """
    numbers = [entry.number for entry in given if entry.number is not None]
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 1:
        return {place: entry.text for place, entry in enumerate(given, start=1)}
    return {entry.number: entry.text for entry in given if entry.number is not None}


METRICS.register("ordered_fraction", Metric(ordered_fraction))
