"""One needle among needles with UUIDs (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.overlap import overlap
from sparse_tasks.generators.ruler.needles import Needles, haystack, key_kind, value_kind
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class RulerNiahMultikey3(Needles):
    """Asks for the UUID of one key in a haystack of other keys with theirs; the keys are UUIDs, too."""

    haystack: str = haystack("needles")
    key_kind: str = key_kind("uuids")
    value_kind: str = value_kind("uuids")
    overlap: str = overlap()  # what is literal in all needles but one would tell that one apart

    name = "ruler_niah_multikey_3"
    summary = "the UUID that belongs to one UUID among many"


TASKS.register(RulerNiahMultikey3.name, RulerNiahMultikey3)
