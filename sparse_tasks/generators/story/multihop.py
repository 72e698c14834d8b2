"""Story multi-hop: the thing acquired before another (high dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.overlap import LITERAL, NONE, overlap
from sparse_tasks.generators.prose.roman import from_roman, roman
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

    With ``hops=1`` this is the paper's task (The Sparse Frontier, section on tasks). With ``overlap=none`` the thing to
    count from is that of a chapter, in words of which no evidence has one.
    """

    hops: int = parameter(1, "how many acquisitions to count back", 1, 16)
    overlap: str = overlap(NONE)

    name: ClassVar[str] = "story_multihop"
    summary: ClassVar[str] = "the thing acquired just before a given one, or several acquisitions before"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_overlap(self.overlap, "apart_multihop")

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
        tongue, hero, last = chronicle.tongue, chronicle.hero.first, first + self.hops
        if self.overlap == LITERAL:
            ask = tongue.sentence("multihop", hero=hero, thing=given, count=self.hops)
        else:
            ask = tongue.sentence("apart_multihop", section=roman(last + 1), count=self.hops)
        return Question(
            ask=ask,
            form=tongue.sentence("one_thing"),
            answer=gold,
            answers=[gold],
            marks=lambda: [
                *([] if self.overlap == LITERAL else [narrator.heading_mark(last)]),
                *(narrator.told[event].mark(thing.name) for event, thing in chain),
            ],
            drawn=self.measured([(ask, [narrator.heading(last), *(narrator.sentence(event) for event, _ in chain)])]),
        )

    def answer(self, story: Story) -> str:
        things = [fact.thing for _, fact in story.facts(*_ACQUIRING)]
        if question := story.tongue.heard("multihop", story.question):
            given = question["thing"]
            if things.count(given) != 1:
                raise DataError(f"{given!r} is acquired {things.count(given)} times")
            last = things.index(given)
        elif question := self._apart(story):
            last = from_roman(question["section"]) - 1
            if any(len(page.of(*_ACQUIRING)) != 1 for page in story.pages):
                raise DataError("not every chapter has one acquisition, as the question says")
        else:
            raise DataError("the question names no thing to count back from")
        hops = int(question.get("count", 1))
        if last < hops:
            raise DataError(f"nothing is acquired {hops} steps before the thing asked about")
        return things[last - hops]

    def _apart(self, story: Story) -> dict[str, str] | None:
        return story.tongue.heard("apart_multihop", story.question) if "apart_multihop" in story.tongue.say else None


TASKS.register(StoryMultihop.name, StoryMultihop)
