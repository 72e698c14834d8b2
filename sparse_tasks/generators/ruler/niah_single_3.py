"""One UUID in a haystack of essays (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.ruler import needles
from sparse_tasks.generators.ruler.needles import Needles
from sparse_tasks.generators.task import TASKS

__all__ = ["RulerNiahSingle3"]


@dataclass(frozen=True)
class RulerNiahSingle3(Needles):
    """Asks for the UUID of one key, which stands somewhere in a haystack of essays."""

    value_kind: str = needles.value_kind("uuids")

    name: ClassVar[str] = "ruler_niah_single_3"
    summary: ClassVar[str] = "the UUID that belongs to a key, hidden in essays"


TASKS.register(RulerNiahSingle3.name, RulerNiahSingle3)
