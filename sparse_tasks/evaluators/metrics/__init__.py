"""The metrics, by the name that a sample's ``metric`` column holds.

A metric is one function in one file here, and one line in ``METRICS``; the contract tests pick it up from
there. All of them are strict: an answer earns nothing by saying more than it was asked, and the order of
entries matters only where the task asked for an order.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from sparse_tasks.evaluators.metrics import exact_match, ordered_fraction, set_iou, unordered_fraction

__all__ = ["METRICS", "Metric"]


class Metric(Protocol):
    """How right an answer is."""

    def __call__(self, prediction: str | None, answers: Sequence[str]) -> float:
        """A value in [0, 1]: 1 for the gold answer, 0 for none.

        Args:
            prediction: The extracted answer text (see ``answers.extract``); None where there is none.
            answers: The gold entries, at least one, none of them blank.
        """
        ...


METRICS: Final[dict[str, Metric]] = {
    "exact_match": exact_match.exact_match,
    "ordered_fraction": ordered_fraction.ordered_fraction,
    "set_iou": set_iou.set_iou,
    "unordered_fraction": unordered_fraction.unordered_fraction,
}
