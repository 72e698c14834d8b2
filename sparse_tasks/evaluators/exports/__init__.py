"""Results in the formats of others, by name: what is written comes from a run's files and from nothing else."""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from sparse_tasks.evaluators.exports import eval_results, every_eval_ever, lm_eval

__all__ = ["EXPORTS", "Export"]


class Export(Protocol):
    """Writes a scored run in one format."""

    def __call__(
        self,
        run: dict[str, Any],
        result: dict[str, Any],
        scores: list[dict[str, Any]],
        predictions: Iterable[dict[str, Any]],
    ) -> dict[str, bytes]:
        """The files, by path relative to the folder they are meant for; the same bytes for the same run.

        Args:
            run: What ``run.json`` holds.
            result: What ``result.json`` holds.
            scores: The rows of ``scores.parquet``.
            predictions: The lines of ``predictions.jsonl``.
        """
        ...


EXPORTS: Final[dict[str, Export]] = {
    "eval_results": eval_results.files,
    "every_eval_ever": every_eval_ever.files,
    "lm_eval": lm_eval.files,
}
