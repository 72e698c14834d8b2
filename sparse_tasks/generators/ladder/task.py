"""Base of the ladders: facts of a story, a question that takes all of them, and its levels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import ENGLISH, Language, languages
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Fact, Page, Story
from sparse_tasks.generators.story.sides import many_sided, smallest_story
from sparse_tasks.generators.story.task import Question, StoryTask
from sparse_tasks.generators.story.world import Chapter, Chronicle, Event, Plan
from sparse_tasks.generators.task import Mark, parameter

ALL: Final = "all"
GIVEN: Final = "given"
RETRIEVE: Final = "retrieve"
COMPUTE: Final = "compute"

Found = list[tuple[Chapter, Event]]
"""Events that matter, in the order of the story, with their chapters."""
Read = list[tuple[Page, Fact]]
"""The same as told."""


@dataclass(frozen=True)
class LadderTask(StoryTask):
    """A question on facts of a story, asked in four levels.

    ``all`` asks for what follows from the facts. ``given`` asks the same with the sentences that tell them repeated in
    the question; ``retrieve`` asks for the facts alone; ``compute`` is ``all`` in a chat in which they have been asked
    for and named. The story is the same for all of them.

    Class attributes:
        whole: The sentence that asks for what follows, and its form.
        parts: The sentence that asks for the facts, and its form.
        parts_metric: Metric of the facts.
    """

    events: int = parameter(4, "things of one material that are bought", 2, 64)
    gifts: int = parameter(3, "chapters in which a gift is received, and nothing bought", 2, 32)
    language: str = parameter(ENGLISH, "language of story, question and answer", choices=lambda: languages("given"))

    steerable: ClassVar[bool] = False
    whole: ClassVar[tuple[str, str]]
    parts: ClassVar[tuple[str, str]]
    parts_metric: ClassVar[str]

    def smallest(self) -> int:
        return smallest_story(self.events, self.gifts)

    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        return many_sided(
            stream, chapters, self.locale, self.distractors, self.language, events=self.events, gifts=self.gifts
        )

    @abstractmethod
    def facts(self, stream: Stream, plan: Plan, chronicle: Chronicle) -> Found:
        """The events that the question is about."""

    @abstractmethod
    def names(self, plan: Plan, found: Found) -> dict[str, object]:
        """What the sentences' placeholders stand for, apart from the traveller."""

    @abstractmethod
    def told(self, story: Story, heard: dict[str, str]) -> Read:
        """The facts as told, by what a question names."""

    @abstractmethod
    def part(self, chapter: int, thing: str, crowns: int) -> str:
        """A fact as an entry of the answer to ``parts``."""

    @abstractmethod
    def follows(self, facts: list[tuple[int, str, int]], tongue: Language) -> list[str]:
        """The answer to ``whole``, from chapter, thing and crowns of each fact."""

    def joined(self, answers: list[str]) -> str:
        """The answer to ``whole`` as text."""
        return "\n".join(answers)

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        found = self.facts(stream, plan, chronicle)
        tongue, names = chronicle.tongue, {"hero": chronicle.hero.first, **self.names(plan, found)}
        facts = [(chapter.number, _thing(event), event.amount) for chapter, event in found]

        def marks() -> list[Mark]:
            return [narrator.told[event].mark(_thing(event)) for _, event in found]

        answers, parts = self.follows(facts, tongue), [self.part(*fact) for fact in facts]
        sentence, form = self.whole
        whole = Question(
            ask=tongue.sentence(sentence, **names),
            form=tongue.sentence(form, count=len(answers)),
            answer=self.joined(answers),
            answers=answers,
            marks=marks,
            level=ALL,
        )
        sentence, form = self.parts
        retrieve = Question(
            ask=tongue.sentence(sentence, **names),
            form=tongue.sentence(form),
            answer="\n".join(parts),
            answers=parts,
            marks=marks,
            metric=self.parts_metric,
            level=RETRIEVE,
        )
        lines = [
            tongue.sentence("told", n=chapter.number, sentence=_words(narrator, event)) for chapter, event in found
        ]
        given = "\n".join([tongue.sentence("given"), "", *lines, "", whole.ask])
        whole.others = [
            replace(whole, ask=given, level=GIVEN),
            retrieve,
            replace(whole, level=COMPUTE, history=1),
        ]
        return whole

    def answer(self, story: Story) -> str:
        for (sentence, _), whole in ((self.parts, False), (self.whole, True)):
            if (heard := story.tongue.heard(sentence, story.question)) is not None:
                facts = [(page.number, fact.thing, fact.amount) for page, fact in self.told(story, heard)]
                if whole:
                    return self.joined(self.follows(facts, story.tongue))
                return "\n".join(self.part(*fact) for fact in facts)
        raise DataError("the question is of no known level")


@dataclass(frozen=True)
class MaterialTask(LadderTask):
    """A ladder on all things of one material that are bought."""

    def facts(self, stream: Stream, plan: Plan, chronicle: Chronicle) -> Found:
        bought = chronicle.happened("Purchase")
        return [(chapter, event) for chapter, event in bought if event.thing and event.thing.material == plan.reserved]

    def names(self, plan: Plan, found: Found) -> dict[str, object]:
        return {"material": plan.reserved}

    def told(self, story: Story, heard: dict[str, str]) -> Read:
        made = heard["material"]
        return [(page, fact) for page, fact in story.facts("Purchase") if story.tongue.is_of(made, fact.thing)]


def _thing(event: Event) -> str:
    if event.thing is None:
        raise ValueError(f"{event.kind} without a thing")
    return event.thing.name


def _words(narrator: Narrator, event: Event) -> str:
    telling = narrator.told[event]
    return telling.passage.text[telling.start : telling.end]
