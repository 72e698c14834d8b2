"""One number in a haystack of noise (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.ruler.needles import Needles, haystack
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class RulerNiahSingle1(Needles):
    """Asks for the number of one key, which is somewhere in a haystack of filler sentences."""

    haystack: str = haystack("noise")

    name = "ruler_niah_single_1"
    summary = "the number that belongs to a key, hidden in noise"


TASKS.register(RulerNiahSingle1.name, RulerNiahSingle1)
