"""The metrics, by the name that a sample's ``metric`` column holds.

A metric is one function in one file here, and one line in ``METRICS``; the contract tests pick it up from
there. They are strict: an answer earns nothing by saying more than it was asked, and the order of entries
matters only where the task asked for an order. Those in ``LENIENT`` are not: they are RULER's own, kept to
compare with numbers that others report.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from sparse_tasks.evaluators.metrics import (
    exact_match,
    ordered_fraction,
    set_iou,
    set_match,
    squad_em,
    string_match_all,
    string_match_part,
    token_f1,
    unordered_fraction,
)

__all__ = ["LENIENT", "METRICS", "STRICT", "Metric"]


class Metric(Protocol):
    """How right an answer is."""

    def __call__(self, prediction: str | None, answers: Sequence[str]) -> float:
        """A value in [0, 1]: 1 for the gold answer, 0 for none.

        Args:
            prediction: The extracted answer text (see ``answers.extract``), or all that the model wrote where
                the metric is one of ``LENIENT``; None where there is none.
            answers: The gold entries, at least one, none of them blank.
        """
        ...


METRICS: Final[dict[str, Metric]] = {
    "exact_match": exact_match.exact_match,
    "ordered_fraction": ordered_fraction.ordered_fraction,
    "set_iou": set_iou.set_iou,
    "set_match": set_match.set_match,
    "squad_em": squad_em.squad_em,
    "string_match_all": string_match_all.string_match_all,
    "string_match_part": string_match_part.string_match_part,
    "token_f1": token_f1.token_f1,
    "unordered_fraction": unordered_fraction.unordered_fraction,
}

LENIENT: Final = frozenset({"string_match_all", "string_match_part"})
"""The metrics that search the whole output instead of the extracted answer."""

STRICT: Final[dict[str, Metric]] = {name: metric for name, metric in METRICS.items() if name not in LENIENT}
"""All others."""
