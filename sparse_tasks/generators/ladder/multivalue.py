"""A ladder of several values: all things of a material, and the first of them in the alphabet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.ladder.task import MaterialTask
from sparse_tasks.generators.story.language import Language
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class LadderMultivalue(MaterialTask):
    """Asks which of the ``events`` things of a material that were bought comes first in the alphabet."""

    name: ClassVar[str] = "ladder_multivalue"
    summary: ClassVar[str] = "the first in the alphabet of all things of a material, in levels"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "exact_match"
    whole: ClassVar[tuple[str, str]] = ("ladder_multivalue", "one_thing")
    parts: ClassVar[tuple[str, str]] = ("ladder_multivalue_parts", "things")
    parts_metric: ClassVar[str] = "set_iou"

    def part(self, chapter: int, thing: str, crowns: int) -> str:
        return thing

    def follows(self, facts: list[tuple[int, str, int]], tongue: Language) -> list[str]:
        return [min((thing for _, thing, _ in facts), key=tongue.sorted_as)]


TASKS.register(LadderMultivalue.name, LadderMultivalue)
