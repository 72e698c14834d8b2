"""A single answer, right or wrong."""

import re
from collections.abc import Sequence
from typing import Final

from sparse_tasks.evaluators.answers import normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric

_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]+")
# No other word: "46 more", "46 thousand" and "46 excluded" are not 46.
_UNITS: Final = re.compile("(?:crown|coin|thing|item|chapter)s?")


def exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 where the prediction is ``answers[0]`` after normalisation, else 0.0.

    Where the gold answer is a whole number, a unit of the tasks may follow it: "46 crowns" is 46. "46 or 47", "46
    thousand" and "about 46" are not.
    """
    given, gold = normalise(prediction or ""), normalise(answers[0])
    if not given:
        return 0.0
    if _WHOLE_NUMBER.fullmatch(gold):
        number, _, unit = given.partition(" ")
        if _UNITS.fullmatch(unit):
            given = number
    return float(given == gold)


METRICS.register("exact_match", Metric(exact_match, binary=True))
