"""A single answer, right or wrong."""

from collections.abc import Sequence

from sparse_tasks.evaluators.answers import normalise
from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 where the prediction is ``answers[0]`` after normalisation, else 0.0."""
    return float(normalise(prediction or "") == normalise(answers[0]))


METRICS.register("exact_match", Metric(exact_match, binary=True))
