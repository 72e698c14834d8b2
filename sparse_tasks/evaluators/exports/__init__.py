"""Results in the formats of others, by name, written from a run's files and from nothing else."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from sparse_tasks.evaluators.exports import eval_results, every_eval_ever, lm_eval
from sparse_tasks.evaluators.records import Prediction, PublicSettings, Result, ScoredSample

__all__ = ["EXPORTS", "Export"]


class Export(Protocol):
    """Writes a scored run in one format."""

    def __call__(
        self,
        run: PublicSettings,
        result: Result,
        scores: Sequence[ScoredSample],
        predictions: Iterable[Prediction],
    ) -> dict[str, bytes]:
        """The files, by path relative to the folder they are meant for; the same bytes for the same run.

        Args:
            run: Settings of the run.
            result: Its result.
            scores: Its scores.
            predictions: Its predictions.
        """
        ...


EXPORTS: Final[dict[str, Export]] = {
    "eval_results": eval_results.files,
    "every_eval_ever": every_eval_ever.files,
    "lm_eval": lm_eval.files,
}
