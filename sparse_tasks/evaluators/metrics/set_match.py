"""A set of answers, all or nothing."""

import re
from collections.abc import Sequence
from typing import Final

from sparse_tasks.evaluators.answers import items, normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric

# A choice's letter: "(B)", "B)", "B."; with anything after it, it is not just a letter.
_LETTER: Final = re.compile(r"\(?([A-Za-z])[.):]?")


def set_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 where the entries given are the gold ones, neither more nor fewer, else 0.0.

    Order and repeats do not matter: "A, C" is "C and A". It is strict: "B) because", "B or C" and "the second" are
    not "B".
    """
    gold = frozenset(map(normalise, answers))
    given = frozenset(_entry(item) for item in set(items(prediction or "", gold))) - {""}
    return float(given == gold)


def _entry(item: str) -> str:
    letter = _LETTER.fullmatch(item.strip())
    return normalise(letter[1] if letter else item)


METRICS.register("set_match", Metric(set_match, binary=True))
