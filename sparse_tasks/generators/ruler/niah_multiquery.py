"""Several needles asked for at once in a haystack of essays (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.ruler.needles import Needles
from sparse_tasks.generators.task import TASKS, parameter


@dataclass(frozen=True)
class RulerNiahMultiquery(Needles):
    """Asks for the numbers of four keys, which stand in a haystack of essays."""

    queries: int = parameter(4, "number of keys asked for", 1, 16)

    name = "ruler_niah_multiquery"
    summary = "the numbers that belong to several keys, hidden in essays"
    metric = "unordered_fraction"


TASKS.register(RulerNiahMultiquery.name, RulerNiahMultiquery)
