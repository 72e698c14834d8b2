"""Story filtering: the chapters in which something did not happen (low dispersion, high scope)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Story
from sparse_tasks.generators.story.task import Question, StoryTask
from sparse_tasks.generators.story.world import Chronicle, Plan
from sparse_tasks.generators.task import TASKS, parameter

# Maximum of the first chapter's number, since small numbers could be guessed.
_FIRST = 100


@dataclass(frozen=True)
class StoryFiltering(StoryTask):
    """Asks for the chapters without a purchase, whose number is told; gifts, sales and refused prices mislead."""

    chapters: int = parameter(3, "number of chapters without a purchase", 1, 32)

    name: ClassVar[str] = "story_filtering"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "the chapters in which nothing is bought"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "set_iou"

    def smallest(self) -> int:
        return self.chapters + 1

    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        acquisitions: list[str | None] = ["Purchase"] * chapters
        for i in depth.slots(stream, chapters, self.chapters):
            acquisitions[i] = None
        first = stream.between(1, _FIRST)
        return Plan(acquisitions, self.locale, self.distractors, gifts=True, first=first, language=self.language)

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        without = [i for i, acquisition in enumerate(plan.acquisitions) if acquisition != "Purchase"]
        gold = [plan.first + i for i in without]
        tongue = chronicle.tongue
        return Question(
            ask=tongue.sentence("filtering", count=len(gold), hero=chronicle.hero.first),
            form=tongue.sentence("chapters", count=len(gold)),
            answer=", ".join(map(str, gold)),
            answers=[str(number) for number in gold],
            marks=lambda: [narrator.chapter_mark(i) for i in without],
        )

    def answer(self, story: Story) -> str:
        asked = story.tongue.heard("filtering", story.question)
        gold = [page.number for page in story.pages if not page.of("Purchase")]
        if asked is None or int(asked["count"]) != len(gold):
            raise DataError(f"{len(gold)} chapters are without a purchase, which is not what the question says")
        return ", ".join(map(str, gold))


TASKS.register(StoryFiltering.name, StoryFiltering)
