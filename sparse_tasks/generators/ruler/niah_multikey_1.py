"""One of four needles in a haystack of essays (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.ruler.needles import Needles
from sparse_tasks.generators.task import TASKS, parameter


@dataclass(frozen=True)
class RulerNiahMultikey1(Needles):
    """Asks for the number of one key of four, whose needles stand in a haystack of essays."""

    distractors: int = parameter(3, "number of keys that are not asked for", 0, 64)

    name = "ruler_niah_multikey_1"
    summary = "the number that belongs to one of four keys, hidden in essays"


TASKS.register(RulerNiahMultikey1.name, RulerNiahMultikey1)
