"""Story multi-hop: the thing acquired before another (high dispersion, low scope)."""

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

_ACQUIRING = ("Purchase", "GiftReceived")


@dataclass(frozen=True)
class StoryMultihop(StoryTask):
    """Asks for the thing acquired ``hops`` acquisitions before a named one; one acquisition a chapter.

    With ``hops=1`` this is the paper's task (The Sparse Frontier, section on tasks).
    """

    hops: int = parameter(1, "how many acquisitions to count back", 1, 16)

    name: ClassVar[str] = "story_multihop"
    summary: ClassVar[str] = "the thing acquired just before a given one, or several acquisitions before"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"

    def smallest(self) -> int:
        return self.hops + 1

    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        acquisitions = ["GiftReceived" if stream.below(5) == 0 else "Purchase" for _ in range(chapters)]
        return Plan([*acquisitions], self.locale, self.distractors, gifts=False, language=self.language)

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        acquired = chronicle.happened(*_ACQUIRING)
        first = depth.slot(stream, len(acquired) - self.hops)
        chain = [(event, event.thing) for _, event in acquired[first : first + self.hops + 1] if event.thing]
        gold, given = chain[0][1].name, chain[-1][1].name
        tongue, hero = chronicle.tongue, chronicle.hero.first
        return Question(
            ask=tongue.sentence("multihop", hero=hero, thing=given, count=self.hops),
            form=tongue.sentence("one_thing"),
            answer=gold,
            answers=[gold],
            marks=lambda: [narrator.told[event].mark(thing.name) for event, thing in chain],
        )

    def answer(self, story: Story) -> str:
        question = story.tongue.heard("multihop", story.question)
        if question is None:
            raise DataError("the question names no thing to count back from")
        given, hops = question["thing"], int(question["count"])
        things = [fact.thing for _, fact in story.facts(*_ACQUIRING)]
        if things.count(given) != 1:
            raise DataError(f"{given!r} is acquired {things.count(given)} times")
        at = things.index(given) - hops
        if at < 0:
            raise DataError(f"nothing is acquired {hops} steps before {given!r}")
        return things[at]


TASKS.register(StoryMultihop.name, StoryMultihop)
