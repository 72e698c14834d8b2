"""A ladder of aggregation: prices of all things of a material, and their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.ladder.task import MaterialTask
from sparse_tasks.generators.story.language import Language
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class LadderAggregation(MaterialTask):
    """Asks what was paid in all for the ``events`` things of a material that were bought."""

    name: ClassVar[str] = "ladder_aggregation"
    summary: ClassVar[str] = "the total cost of all things of a material, in levels"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "exact_match"
    whole: ClassVar[tuple[str, str]] = ("spent", "number")
    parts: ClassVar[tuple[str, str]] = ("ladder_aggregation_parts", "crowns_of_things")
    parts_metric: ClassVar[str] = "set_iou"

    def part(self, chapter: int, thing: str, crowns: int) -> str:
        return f"{thing}: {crowns}"

    def follows(self, facts: list[tuple[int, str, int]], tongue: Language) -> list[str]:
        return [str(sum(crowns for _, _, crowns in facts))]


TASKS.register(LadderAggregation.name, LadderAggregation)
