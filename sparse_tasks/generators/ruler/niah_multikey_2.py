"""One needle among needles with numbers (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.overlap import overlap
from sparse_tasks.generators.ruler.needles import Needles, haystack
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class RulerNiahMultikey2(Needles):
    """Asks for the number of one key in a haystack of other keys with their numbers."""

    haystack: str = haystack("needles")
    overlap: str = overlap()  # what is literal in all needles but one would tell that one apart

    name = "ruler_niah_multikey_2"
    summary = "the number that belongs to one key among many"


TASKS.register(RulerNiahMultikey2.name, RulerNiahMultikey2)
