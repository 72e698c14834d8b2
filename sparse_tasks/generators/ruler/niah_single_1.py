"""One number in a haystack of noise (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.ruler import needles
from sparse_tasks.generators.ruler.needles import Needles
from sparse_tasks.generators.task import TASKS

__all__ = ["RulerNiahSingle1"]


@dataclass(frozen=True)
class RulerNiahSingle1(Needles):
    """Asks for the number of one key, which stands somewhere in a haystack of filler sentences."""

    haystack: str = needles.haystack("noise")

    name: ClassVar[str] = "ruler_niah_single_1"
    summary: ClassVar[str] = "the number that belongs to a key, hidden in noise"


TASKS.register(RulerNiahSingle1.name, RulerNiahSingle1)
