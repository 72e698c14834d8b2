"""RULER's recall of substrings, to compare with published numbers."""

from collections.abc import Sequence

from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def string_match_all(prediction: str | None, answers: Sequence[str]) -> float:
    """The share of gold entries that stand anywhere in the whole output, in any case of letters, in [0, 1].

    RULER's own metric of its retrieval, tracing and counting tasks, for comparability only: it reads all
    that the model wrote, thoughts included, "46" matches "1460", and repeating the context scores 1.
    ``unordered_fraction`` is the strict relative.
    """
    text = (prediction or "").lower()
    return sum(answer.lower() in text for answer in answers) / len(answers)


METRICS.register("string_match_all", Metric(string_match_all, lenient=True))
