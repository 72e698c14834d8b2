"""Metrics: functions that score an answer, registered by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparse_tasks.core.registry import Registry, import_modules


@dataclass(frozen=True)
class Metric:
    """A metric; calling it gives a value in [0, 1]: 1 for the gold answer, 0 for no answer.

    Attributes:
        function: Takes the extracted answer (see ``answers.extract``) or None, or the whole output where the metric is
            lenient; and the gold entries, not empty, none of them blank.
        binary: Whether every value is 0 or 1.
        lenient: Whether it searches the whole output instead of the extracted answer. Such metrics are RULER's,
            kept to compare with published numbers; all others give nothing for superfluous text.
        stepwise: Whether it is the share of the answer before the first mistake.
        alternatives: Whether the gold entries are alternatives, of which the best counts; else all are wanted.
    """

    function: Callable[[str | None, Sequence[str]], float]
    binary: bool = False
    lenient: bool = False
    stepwise: bool = False
    alternatives: bool = False

    def __call__(self, prediction: str | None, answers: Sequence[str]) -> float:
        return self.function(prediction, answers)


METRICS: Registry[Metric] = Registry(
    "metric", lambda: import_modules("sparse_tasks.evaluators.metrics"), "sparse_tasks.metrics"
)
"""Metrics by the name in a sample's ``metric`` column. Each module registers its metric on its last line."""
