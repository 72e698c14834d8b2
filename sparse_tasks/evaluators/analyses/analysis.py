"""All analyses of some runs, each computed on first use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import pandas as pd

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.analyses.certified import certified
from sparse_tasks.evaluators.analyses.cost import cost
from sparse_tasks.evaluators.analyses.lengths import length_effects
from sparse_tasks.evaluators.analyses.pareto import iso_cost, pareto
from sparse_tasks.evaluators.analyses.scaling import scaling
from sparse_tasks.evaluators.analyses.table import Runs
from sparse_tasks.evaluators.analyses.tradeoffs import task_tradeoffs
from sparse_tasks.evaluators.analyses.written import written

ANALYSES: Final = ("cost", "written", "pareto", "iso_cost", "certified", "scaling", "lengths", "tradeoffs")
"""Names of the analyses, in the order of output."""


@dataclass(frozen=True)
class Analysis:
    """All analyses of runs: for each name in ``ANALYSES``, a property with its table, or with the ``Scaling``."""

    runs: Runs
    tolerance: float = 0.05  # loss against dense attention allowed by certified sparsity, in (0, 1)
    error: float = 0.05  # error probability of a certificate, in (0, 1)

    def __post_init__(self) -> None:
        for name in ("tolerance", "error"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise UsageError(name, value, "must be between 0 and 1, such as 0.05")

    cost = cached_property(lambda self: cost(self.runs))
    written = cached_property(lambda self: written(self.runs))
    pareto = cached_property(lambda self: pareto(self.runs))
    iso_cost = cached_property(lambda self: iso_cost(self.runs))
    certified = cached_property(lambda self: certified(self.runs, self.tolerance, self.error))
    scaling = cached_property(lambda self: scaling(self.runs))
    lengths = cached_property(lambda self: length_effects(self.runs))
    tradeoffs = cached_property(lambda self: task_tradeoffs(self.runs))

    def tables(self, name: str) -> Iterator[tuple[str, pd.DataFrame]]:
        """The tables of an analysis, each with its file name."""
        if name != "scaling":
            yield name, getattr(self, name)
            return
        yield "scaling", self.scaling.coefficients
        yield "scaling_fits", self.scaling.fits
        yield "scaling_held_out", self.scaling.held_out

    def notes(self, name: str) -> tuple[str, ...]:
        """Notes of an analysis: what it could not do, and why."""
        if name != "cost" and self.runs.able.empty:
            return ("the model can do none of the tasks; there is nothing to conclude",)
        if name == "scaling":
            return self.scaling.notes
        notes: tuple[str, ...] = getattr(self, name).attrs["notes"]
        return notes
