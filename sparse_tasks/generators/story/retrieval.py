"""Story retrieval: facts of named chapters (low dispersion, low scope)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.overlap import LITERAL, NONE, overlap
from sparse_tasks.generators.prose.roman import from_roman, roman
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Page, Story
from sparse_tasks.generators.story.task import Question, StoryTask
from sparse_tasks.generators.story.world import Chapter, Chronicle, Event, Plan
from sparse_tasks.generators.task import TASKS, parameter

# Kinds of facts; the questions are sentences with the same names.
FACTS = ("place", "person", "thing")
_NUMBERED = re.compile(r"\d+\. ")


@dataclass(frozen=True)
class StoryRetrieval(StoryTask):
    """Asks for the place, the person or the thing of named chapters; every chapter has exactly one of each.

    With ``overlap=none`` a question shares no content word with what answers it, and has chapters in Roman letters.
    """

    questions: int = parameter(16, "number of questions on one story", 1, 64)
    overlap: str = overlap(NONE)

    name: ClassVar[str] = "story_retrieval"
    summary: ClassVar[str] = "facts of named chapters: place, person or thing"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "ordered_fraction"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_overlap(self.overlap, "apart_place")

    def smallest(self) -> int:
        return -(-self.questions // len(FACTS))

    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        acquisitions = ["GiftReceived" if stream.below(5) == 0 else "Purchase" for _ in range(chapters)]
        return Plan([*acquisitions], self.locale, self.distractors, gifts=False, language=self.language)

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        chosen = self._chosen(stream, len(chronicle.chapters), depth)
        gold: list[tuple[str, Event]] = []
        for i, kind in chosen:
            gold.append(fact_of(chronicle.chapters[i], kind))
        hero, tongue = chronicle.hero.first, chronicle.tongue
        if self.overlap == LITERAL:
            said = [tongue.sentence(kind, hero=hero, n=i + 1) for i, kind in chosen]
        else:
            said = [tongue.sentence(f"apart_{kind}", section=roman(i + 1)) for i, kind in chosen]
        asks = [f"{k}. {ask}" for k, ask in enumerate(said, 1)]
        return Question(
            ask="\n".join(asks),
            form=tongue.sentence("lines", count=len(chosen)),
            answer="\n".join(f"{k}. {text}" for k, (text, _) in enumerate(gold, 1)),
            answers=[text for text, _ in gold],
            marks=lambda: [narrator.told[event].mark(text) for text, event in gold],
            drawn=self.measured(
                (ask, [narrator.heading(i), narrator.sentence(event)])
                for ask, (i, _), (_, event) in zip(said, chosen, gold, strict=True)
            ),
        )

    def _chosen(self, stream: Stream, chapters: int, depth: Depth) -> list[tuple[int, str]]:
        """Chapters and the facts to ask for: different chapters while there are enough, then further facts."""
        slots = depth.slots(stream, chapters, min(self.questions, chapters))
        chosen: list[tuple[int, str]] = []
        kinds = {i: stream.sample(list(FACTS), len(FACTS)) for i in slots}
        for i in range(self.questions):
            slot = slots[i % len(slots)]
            chosen.append((slot, kinds[slot][i // len(slots)]))
        stream.shuffle(chosen)
        return chosen

    def answer(self, story: Story) -> str:
        found = [
            fact for line in story.question.splitlines() if _NUMBERED.match(line) for fact in facts_in(story, line)
        ]
        if not found:
            raise DataError("the question asks for nothing")
        return "\n".join(f"{k}. {text}" for k, text in enumerate(found, 1))


def fact_of(chapter: Chapter, kind: str) -> tuple[str, Event]:
    """A fact of a chapter, by its kind (of ``FACTS``), and the event that tells it."""
    if kind == "place":
        return chapter.place, chapter.arrival
    if kind == "person":
        return chapter.person.name, chapter.meeting
    event = next(event for event in chapter.events if event.kind in ("Purchase", "GiftReceived"))
    if event.thing is None:
        raise ValueError("an acquisition without a thing")
    return event.thing.name, event


def facts_in(story: Story, line: str) -> list[str]:
    """The fact that a line asks for, as the story tells it; none where it asks for none."""
    pages = {page.number: page for page in story.pages}
    asked = ((kind, story.tongue.heard(kind, line)) for kind in FACTS)
    apart = ((kind, story.tongue.heard(f"apart_{kind}", line)) for kind in FACTS if "apart_place" in story.tongue.say)
    return [
        *(_read(pages[int(heard["n"])], kind) for kind, heard in asked if heard),
        *(_read(pages[from_roman(heard["section"])], kind) for kind, heard in apart if heard),
    ]


def _read(page: Page, kind: str) -> str:
    if kind == "place":
        return page.only("Arrival").name
    if kind == "person":
        return page.only("Meeting").name
    things = [fact.thing for fact in page.of("Purchase", "GiftReceived")]
    if len(things) != 1:
        raise DataError(f"chapter {page.number} tells {len(things)} acquisitions, not one")
    return things[0]


TASKS.register(StoryRetrieval.name, StoryRetrieval)
