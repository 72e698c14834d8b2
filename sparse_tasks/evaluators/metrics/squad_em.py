"""A short answer in free words, all or nothing."""

from collections.abc import Sequence

from sparse_tasks.evaluators.metrics.metric import METRICS, Metric
from sparse_tasks.evaluators.metrics.token_f1 import words


def squad_em(prediction: str | None, answers: Sequence[str]) -> float:
    """SQuAD's exact match: 1.0 where the prediction is any of ``answers``, which are alternatives, else 0.0.

    Compared are SQuAD's tokens, in order (see ``token_f1``).
    """
    given = words(prediction or "")
    return float(bool(given) and any(given == words(answer) for answer in answers))


METRICS.register("squad_em", Metric(squad_em, binary=True, alternatives=True))
