"""A session on a story: questions of different kinds on one context (both axes high)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.aggregation import StoryAggregation
from sparse_tasks.generators.story.filtering import StoryFiltering
from sparse_tasks.generators.story.language import ENGLISH, languages
from sparse_tasks.generators.story.multihop import StoryMultihop
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Story
from sparse_tasks.generators.story.retrieval import FACTS, fact_of, facts_in
from sparse_tasks.generators.story.sides import many_sided, smallest_story
from sparse_tasks.generators.story.task import Question, StoryTask
from sparse_tasks.generators.story.world import Chapter, Chronicle, Plan
from sparse_tasks.generators.task import TASKS, parameter

_OF_ALL: Final = ("without", "spent", "dearest", "met", "before")
"""Kinds of which a story has one question; those of ``FACTS`` have one for each chapter."""
_FORMS: Final = {"place": "place_name", "person": "full_name", "thing": "one_thing"}


@dataclass(frozen=True)
class TurnsStory(StoryTask):
    """Asks ``questions`` questions on one story, in a random order of their kinds.

    They are facts of chapters (place, person, thing), and once each the thing acquired before another, the chapters
    without a purchase, what all things of a material cost, the dearest purchase and the person met most. In a chat
    (``form=chat``) earlier questions and their gold answers precede a later one; otherwise each follows the story alone
    (``parallel``).
    """

    questions: int = parameter(6, "number of questions on one story", 2, 64)
    form: str = parameter("chat", "what stands before a later question", choices=lambda: ("chat", "parallel"))
    kinds: str = parameter("mixed", "what is asked", choices=lambda: ("mixed", "facts"))
    events: int = parameter(4, "things of one material that are bought; meetings with one person", 2, 64)
    gifts: int = parameter(3, "chapters without a purchase", 1, 32)
    language: str = parameter(
        ENGLISH, "language of story, question and answer", choices=lambda: languages("next", "several", "place_name")
    )

    name: ClassVar[str] = "turns_story"
    summary: ClassVar[str] = "several questions of different kinds about one story, asked in turn"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "exact_match"
    steerable: ClassVar[bool] = False

    def smallest(self) -> int:
        return max(smallest_story(self.events, self.gifts), -(-self.questions // len(FACTS)))

    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        return many_sided(
            stream, chapters, self.locale, self.distractors, self.language, events=self.events, gifts=self.gifts
        )

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        chosen, kinds = list[str](), [*FACTS, *_OF_ALL] if self.kinds == "mixed" else [*FACTS]
        while len(chosen) < self.questions:
            chosen += stream.sample(kinds, len(kinds))
            kinds = [*FACTS]
        chosen = chosen[: self.questions]
        others, said = dict[str, Question](), set[str]()
        for kind in _OF_ALL:
            if kind in chosen:
                # The thing before another may be the dearest, and a chat would give that away.
                while kind not in others or (kind == "before" and others[kind].answer in said):
                    others[kind] = self._once(kind, stream, plan, chronicle, narrator, depth)
                said.add(others[kind].answer)
        facts = _Facts(stream, chronicle, narrator, said)
        asked = [others[kind] if kind in _OF_ALL else facts.ask(kind) for kind in chosen]
        if self.form == "chat":
            for number, question in enumerate(asked):
                question.history = number
        first, *later = asked
        first.others = later
        first.drawn = {"kinds": chosen}
        return first

    def _once(
        self, kind: str, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth
    ) -> Question:
        """A kind of question that a story has once."""
        if kind == "before":
            return StoryMultihop().ask(stream, plan, chronicle, narrator, depth)
        if kind == "without":
            question = StoryFiltering().ask(stream, plan, chronicle, narrator, depth)
            question.metric = StoryFiltering.metric
            return question
        plan.topic = kind
        return StoryAggregation().ask(stream, plan, chronicle, narrator, depth)

    def answer(self, story: Story) -> str:
        if facts := facts_in(story, story.question):
            return facts[0]
        for kind in (StoryMultihop, StoryFiltering):
            if story.tongue.heard(kind.name.removeprefix("story_"), story.question) is not None:
                return kind().answer(story)
        return StoryAggregation().answer(story)


class _Facts:
    """Questions on facts of chapters; no chapter repeats before all have been used.

    Args:
        stream: Source of the draws.
        chronicle: What happened.
        narrator: Tells the story.
        said: Answers of other questions, avoided where possible, since a chat reveals them.
    """

    def __init__(self, stream: Stream, chronicle: Chronicle, narrator: Narrator, said: set[str]) -> None:
        self._stream, self._chronicle, self._narrator, self._used = stream, chronicle, narrator, said
        self._left: list[Chapter] = []

    def ask(self, kind: str) -> Question:
        """The next question, of a kind in ``FACTS``."""
        chapters = self._chronicle.chapters
        self._left = self._left or self._stream.sample(chapters, len(chapters))
        chapter = next((one for one in self._left if fact_of(one, kind)[0] not in self._used), self._left[0])
        self._left.remove(chapter)
        gold, event = fact_of(chapter, kind)
        self._used.add(gold)
        tongue = self._chronicle.tongue
        return Question(
            ask=tongue.sentence(kind, hero=self._chronicle.hero.first, n=chapter.number),
            form=tongue.sentence(_FORMS[kind]),
            answer=gold,
            answers=[gold],
            marks=lambda: [self._narrator.told[event].mark(gold)],
        )


TASKS.register(TurnsStory.name, TurnsStory)
