"""Exports of a data set to the formats of other projects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.registry import Registry, import_modules
from sparse_tasks.core.sample import Sample
from sparse_tasks.evaluators.dataset import Dataset


class DataExport(Protocol):
    """Writer of a data set in the form that another project reads."""

    def __call__(self, dataset: Dataset, tell: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
        """The files, each by its path relative to the output folder; the same bytes for the same data set.

        Args:
            dataset: The data set.
            tell: Called with what a user should know, such as what is left out.

        Raises:
            UsageError: Nothing of the data set can be written in this form.
        """
        ...


DATA_EXPORTS: Registry[DataExport] = Registry(
    "to", lambda: import_modules("sparse_tasks.evaluators.exports"), "sparse_tasks.data_exports"
)
"""Exports of data sets by the name that ``--to`` takes. Each module registers its form on its last line."""


def configs(dataset: Dataset) -> Iterator[tuple[str, int, list[Sample]]]:
    """Task, length and samples of each configuration, in the data set's order."""
    for length in dataset.manifest.request.lengths:
        for task in dataset.manifest.request.tasks:
            yield task, length, list(dataset.samples(dataset.select([task], [length]), Sample))


def nothing(dataset: Dataset, why: str) -> UsageError:
    """The error for a data set of which nothing can be exported."""
    return UsageError("data", dataset.name, why)


def in_turn(sample: Sample) -> str:
    """The user's message without the opening of the answer, which is in ``answer_prefix``."""
    return sample.prompt.removesuffix(sample.answer_prefix)
