"""Several needles with one key in a haystack of essays (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.ruler.needles import Needles
from sparse_tasks.generators.task import TASKS, parameter


@dataclass(frozen=True)
class RulerNiahMultivalue(Needles):
    """Asks for the four numbers of one key, which stand apart from one another in a haystack of essays."""

    values: int = parameter(4, "number of values per key", 1, 16)

    name = "ruler_niah_multivalue"
    summary = "all numbers that belong to one key, hidden in essays"
    metric = "unordered_fraction"


TASKS.register(RulerNiahMultivalue.name, RulerNiahMultivalue)
