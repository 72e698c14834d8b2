"""One UUID in a haystack of essays (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.ruler.needles import Needles, value_kind
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class RulerNiahSingle3(Needles):
    """Asks for the UUID of one key, which stands somewhere in a haystack of essays."""

    value_kind: str = value_kind("uuids")

    name = "ruler_niah_single_3"
    summary = "the UUID that belongs to a key, hidden in essays"


TASKS.register(RulerNiahSingle3.name, RulerNiahSingle3)
