"""Exports of a run's files to the formats of other projects."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from sparse_tasks.core.registry import Registry, import_modules
from sparse_tasks.evaluators.records import Prediction, PublicSettings, Result, ScoredSample


class Export(Protocol):
    """Writer of a scored run in another project's format."""

    def __call__(
        self,
        run: PublicSettings,
        result: Result,
        scores: Sequence[ScoredSample],
        predictions: Iterable[Prediction],
    ) -> dict[str, bytes]:
        """The files, by path relative to the output folder; the same bytes for the same run.

        Args:
            run: Settings of the run.
            result: Its result.
            scores: Its scores.
            predictions: Its predictions, one for each score.
        """
        ...


EXPORTS: Registry[Export] = Registry(
    "to", lambda: import_modules("sparse_tasks.evaluators.exports"), "sparse_tasks.exports"
)
"""Exports by the name that ``--to`` takes. Each module registers its format on its last line."""
