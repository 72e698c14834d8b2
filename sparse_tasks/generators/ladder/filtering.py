"""A ladder of filtering: the gifts of a story, and the chapters in which nothing is bought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.ladder.task import Found, LadderTask, Read
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import Language
from sparse_tasks.generators.story.reader import Story
from sparse_tasks.generators.story.world import Chronicle, Plan
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class LadderFiltering(LadderTask):
    """Asks for the ``gifts`` chapters without a purchase, in each of which a gift is received."""

    name: ClassVar[str] = "ladder_filtering"
    summary: ClassVar[str] = "the chapters in which nothing is bought, in levels"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "set_iou"
    whole: ClassVar[tuple[str, str]] = ("ladder_filtering", "chapters")
    parts: ClassVar[tuple[str, str]] = ("ladder_filtering_parts", "things_of_chapters")
    parts_metric: ClassVar[str] = "ordered_fraction"

    def facts(self, stream: Stream, plan: Plan, chronicle: Chronicle) -> Found:
        return chronicle.happened("GiftReceived")

    def names(self, plan: Plan, found: Found) -> dict[str, object]:
        return {"count": len(found)}

    def told(self, story: Story, heard: dict[str, str]) -> Read:
        gifts = list(story.facts("GiftReceived"))
        if len(gifts) != int(heard["count"]):
            raise DataError(f"{len(gifts)} gifts are received, which is not what the question says")
        return gifts

    def part(self, chapter: int, thing: str, crowns: int) -> str:
        return f"{chapter}: {thing}"

    def follows(self, facts: list[tuple[int, str, int]], tongue: Language) -> list[str]:
        return [str(chapter) for chapter, _, _ in facts]

    def joined(self, answers: list[str]) -> str:
        return ", ".join(answers)


TASKS.register(LadderFiltering.name, LadderFiltering)
