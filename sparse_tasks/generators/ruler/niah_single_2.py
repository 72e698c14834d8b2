"""One number in a haystack of essays (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.ruler.needles import Needles
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class RulerNiahSingle2(Needles):
    """Asks for the number of one key, which stands somewhere in a haystack of essays."""

    name = "ruler_niah_single_2"
    summary = "the number that belongs to a key, hidden in essays"


TASKS.register(RulerNiahSingle2.name, RulerNiahSingle2)
