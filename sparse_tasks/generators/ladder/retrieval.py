"""A ladder of retrieval: what was paid in named chapters, and the sum of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.ladder.task import Found, LadderTask, Read
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import Language, language
from sparse_tasks.generators.story.reader import Story
from sparse_tasks.generators.story.world import Chronicle, Plan
from sparse_tasks.generators.task import TASKS


@dataclass(frozen=True)
class LadderRetrieval(LadderTask):
    """Asks what was paid in ``events`` named chapters together."""

    name: ClassVar[str] = "ladder_retrieval"
    summary: ClassVar[str] = "the sum paid in named chapters, in levels"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"
    whole: ClassVar[tuple[str, str]] = ("ladder_retrieval", "number")
    parts: ClassVar[tuple[str, str]] = ("ladder_retrieval_parts", "crowns_of_chapters")
    parts_metric: ClassVar[str] = "ordered_fraction"

    def facts(self, stream: Stream, plan: Plan, chronicle: Chronicle) -> Found:
        bought = chronicle.happened("Purchase")
        return [bought[i] for i in sorted(stream.sample(range(len(bought)), self.events))]

    def names(self, plan: Plan, found: Found) -> dict[str, object]:
        return {"chapters": language(plan.language).comma.join(str(chapter.number) for chapter, _ in found)}

    def told(self, story: Story, heard: dict[str, str]) -> Read:
        named = set(map(int, heard["chapters"].split(story.tongue.comma)))
        return [(page, fact) for page, fact in story.facts("Purchase") if page.number in named]

    def part(self, chapter: int, thing: str, crowns: int) -> str:
        return f"{chapter}: {crowns}"

    def follows(self, facts: list[tuple[int, str, int]], tongue: Language) -> list[str]:
        return [str(sum(crowns for _, _, crowns in facts))]


TASKS.register(LadderRetrieval.name, LadderRetrieval)
