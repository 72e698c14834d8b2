"""RULER's match of any reference, to compare with published numbers."""

from collections.abc import Sequence

from sparse_tasks.evaluators.metrics.metric import METRICS, Metric


def string_match_part(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 where any of the gold answers stands anywhere in the whole output, in any case of letters.

    RULER's own metric of its question answering tasks, for comparability only, with the weaknesses of
    ``string_match_all``. It is the best over the references, not their mean. ``token_f1`` and ``exact_match``
    are the strict relatives.
    """
    text = (prediction or "").lower()
    return float(any(answer.lower() in text for answer in answers))


METRICS.register("string_match_part", Metric(string_match_part, binary=True, lenient=True, alternatives=True))
