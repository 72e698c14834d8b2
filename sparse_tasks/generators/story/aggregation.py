"""Story aggregation: totals, extremes and final states (high dispersion, high scope)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Story
from sparse_tasks.generators.story.sides import company
from sparse_tasks.generators.story.task import Question, StoryTask
from sparse_tasks.generators.story.words import materials
from sparse_tasks.generators.story.world import Chronicle, Demand, Event, Plan
from sparse_tasks.generators.task import TASKS, parameter


class _Kind(ABC):
    """A kind of question: requirements on the story, the question, and the oracle."""

    @abstractmethod
    def plan(self, stream: Stream, plan: Plan, events: int) -> None:
        """Add to the plan what the question needs."""

    @abstractmethod
    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator) -> Question:
        """The question and its answer, from what happened."""

    @abstractmethod
    def answer(self, story: Story, heard: Mapping[str, str]) -> str:
        """The answer, from the story as told and the question."""


@dataclass(frozen=True)
class _Spent(_Kind):
    """A sum over scattered purchases, or over the costly ones among them."""

    costly: bool = False

    def plan(self, stream: Stream, plan: Plan, events: int) -> None:
        _reserve(stream, plan)
        plan.reserved_acquisitions = set(stream.sample(range(len(plan.acquisitions)), events))
        for i in plan.reserved_acquisitions:
            plan.acquisitions[i] = "Purchase"
        _mislead(stream, plan, events, ("Seen", "Asked", "Hearsay", "GiftReceived"))

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator) -> Question:
        bought = _bought(chronicle, plan.reserved)
        tongue, hero = chronicle.tongue, chronicle.hero.first
        bound, ask = 0, tongue.sentence("spent", hero=hero, material=plan.reserved)
        if self.costly:
            prices = sorted({event.amount for event in bought})
            # A bound between two prices, or below all, so that at least one purchase counts.
            bound = stream.choice([prices[0] - 1, *prices[:-1]])
            ask = tongue.sentence("costly", hero=hero, material=plan.reserved, price=tongue.price(bound))
        total = str(sum(event.amount for event in bought if event.amount > bound))
        return Question(
            ask=ask,
            form=tongue.sentence("number"),
            answer=total,
            answers=[total],
            marks=lambda: [narrator.told[event].mark(str(event.amount)) for event in bought],
        )

    def answer(self, story: Story, heard: Mapping[str, str]) -> str:
        tongue, made, bound = story.tongue, heard["material"], 0
        if self.costly:
            above = tongue.heard("price", heard["price"])
            if above is None:
                raise DataError(f"{heard['price']!r} is no price")
            bound = int(above["count"])
        paid = [fact.amount for _, fact in story.facts("Purchase") if tongue.is_of(made, fact.thing)]
        return str(sum(amount for amount in paid if amount > bound))


class _Dearest(_Kind):
    """An extreme over all purchases."""

    def plan(self, stream: Stream, plan: Plan, events: int) -> None:
        plan.dearest = stream.below(len(plan.acquisitions))
        plan.acquisitions[plan.dearest] = "Purchase"

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator) -> Question:
        dearest = max(_bought(chronicle), key=lambda event: event.amount)
        gold = _name(dearest)
        return Question(
            ask=chronicle.tongue.sentence("dearest", hero=chronicle.hero.first),
            form=chronicle.tongue.sentence("one_thing"),
            answer=gold,
            answers=[gold],
            marks=lambda: [narrator.told[dearest].mark(gold)],
        )

    def answer(self, story: Story, heard: Mapping[str, str]) -> str:
        bought = sorted((fact.amount, fact.thing) for _, fact in story.facts("Purchase"))
        if len(bought) > 1 and bought[-1][0] == bought[-2][0]:
            raise DataError("two things cost the most")
        return bought[-1][1]


class _Kept(_Kind):
    """A state at the end: what was acquired and neither sold nor given away."""

    def plan(self, stream: Stream, plan: Plan, events: int) -> None:
        _reserve(stream, plan)
        chapters = len(plan.acquisitions)
        acquired = stream.sample(range(chapters), events)
        for i in acquired:
            plan.acquisitions[i] = "GiftReceived" if stream.below(3) == 0 else "Purchase"
        plan.reserved_acquisitions = set(acquired)
        gone = stream.between(min(1, events - 1), events - 1)
        for k, i in enumerate(acquired):
            later = stream.between(i, chapters - 1)
            kind = stream.choice(("Sale", "GiftGiven")) if k < gone else "Refused"
            plan.demands.setdefault(later, []).append(Demand(kind, regarding=i))
        _mislead(stream, plan, events, ("Seen", "Asked", "Hearsay"))

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator) -> Question:
        acquired = chronicle.happened("Purchase", "GiftReceived")
        moved = [
            event
            for _, event in chronicle.happened("Purchase", "GiftReceived", "Sale", "GiftGiven")
            if event.thing and event.thing.material == plan.reserved
        ]
        gold = [
            thing.name
            for _, event in acquired
            if (thing := event.thing) and thing.material == plan.reserved and thing in chronicle.owned
        ]
        return Question(
            ask=chronicle.tongue.sentence("kept", hero=chronicle.hero.first, material=plan.reserved),
            form=chronicle.tongue.sentence("things"),
            answer="\n".join(gold),
            answers=gold,
            marks=lambda: [narrator.told[event].mark(_name(event)) for event in moved],
            metric="set_iou",
        )

    def answer(self, story: Story, heard: Mapping[str, str]) -> str:
        owned: dict[str, None] = {}
        for _, fact in story.facts("Purchase", "GiftReceived", "Sale", "GiftGiven"):
            if fact.kind in ("Purchase", "GiftReceived"):
                owned[fact.thing] = None
            else:
                owned.pop(fact.thing)
        return "\n".join(thing for thing in owned if story.tongue.is_of(heard["material"], thing))


class _Met(_Kind):
    """An extreme of counts: the person met most often."""

    def plan(self, stream: Stream, plan: Plan, events: int) -> None:
        plan.company = company(stream, len(plan.acquisitions), events)

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator) -> Question:
        number = Counter(plan.company).most_common(1)[0][0]
        chapters = [c for c, other in zip(chronicle.chapters, plan.company or [], strict=True) if other == number]
        gold = chapters[0].person.name
        return Question(
            ask=chronicle.tongue.sentence("met", hero=chronicle.hero.first),
            form=chronicle.tongue.sentence("full_name"),
            answer=gold,
            answers=[gold],
            marks=lambda: [narrator.told[chapter.meeting].mark(gold) for chapter in chapters],
        )

    def answer(self, story: Story, heard: Mapping[str, str]) -> str:
        often = Counter(fact.name for _, fact in story.facts("Meeting")).most_common(2)
        if len(often) > 1 and often[0][1] == often[1][1]:
            raise DataError("two people are met most often")
        return often[0][0]


class _Purse(_Kind):
    """A state at the end: the money that is left."""

    def plan(self, stream: Stream, plan: Plan, events: int) -> None:
        """Money moves in any story."""

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator) -> Question:
        moved = [event for _, event in chronicle.happened("Purchase", "Sale", "Wage")]
        return Question(
            ask=chronicle.tongue.sentence("purse", hero=chronicle.hero.first),
            form=chronicle.tongue.sentence("number"),
            answer=str(chronicle.purse),
            answers=[str(chronicle.purse)],
            marks=lambda: [narrator.told[event].mark(str(event.amount)) for event in moved],
        )

    def answer(self, story: Story, heard: Mapping[str, str]) -> str:
        earned = sum(fact.amount for _, fact in story.facts("Sale", "Wage"))
        spent = sum(fact.amount for _, fact in story.facts("Purchase"))
        return str(story.setting_out.amount + earned - spent)


_KINDS: dict[str, _Kind] = {
    "spent": _Spent(),
    "costly": _Spent(costly=True),
    "dearest": _Dearest(),
    "kept": _Kept(),
    "met": _Met(),
    "purse": _Purse(),
}
# The purse needs every sum of the story, so it is only asked by name: no model adds up a thousand of them.
_MIXED = ("spent", "costly", "dearest", "kept", "met")


@dataclass(frozen=True)
class StoryAggregation(StoryTask):
    """Asks for what only scattered events together tell; fills the paper's empty quadrant (both axes high).

    ``events`` says how many events count: things of one material that are acquired (``spent``, ``costly``, ``kept``),
    or meetings with the person met most often (``met``). So the arithmetic is the same at every length.
    """

    kind: str = parameter("mixed", "what is asked", choices=lambda: ("mixed", *_KINDS))
    events: int = parameter(6, "number of events that count", 2, 64)

    name: ClassVar[str] = "story_aggregation"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "sums, extremes and final states over scattered events"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "exact_match"
    steerable: ClassVar[bool] = False

    def smallest(self) -> int:
        return self.events + 1

    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        weighted = ("Purchase",) * 7 + ("GiftReceived", None, None)
        acquisitions = [stream.choice(weighted) for _ in range(chapters)]
        plan = Plan(acquisitions, self.locale, self.distractors, gifts=True, language=self.language)
        plan.topic = stream.choice(_MIXED) if self.kind == "mixed" else self.kind
        _KINDS[plan.topic].plan(stream, plan, self.events)
        return plan

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        question = _KINDS[plan.topic].ask(stream, plan, chronicle, narrator)
        question.drawn["kind"] = plan.topic
        return question

    def answer(self, story: Story) -> str:
        for name, kind in _KINDS.items():
            # A question's sentence has the name of its kind.
            if (heard := story.tongue.heard(name, story.question)) is not None:
                return kind.answer(story, heard)
        raise DataError("the question is of no known kind")


def _reserve(stream: Stream, plan: Plan) -> None:
    plan.reserved = stream.choice(materials(plan.language))


def _mislead(stream: Stream, plan: Plan, events: int, kinds: tuple[str, ...]) -> None:
    """The same number of events that name the material but do not count."""
    for _ in range(events):
        plan.demands.setdefault(stream.below(len(plan.acquisitions)), []).append(Demand(stream.choice(kinds)))


def _bought(chronicle: Chronicle, material: str | None = None) -> list[Event]:
    return [
        event
        for _, event in chronicle.happened("Purchase")
        if material is None or (event.thing is not None and event.thing.material == material)
    ]


def _name(event: Event) -> str:
    if event.thing is None:
        raise ValueError(f"{event.kind} without a thing")
    return event.thing.name


TASKS.register(StoryAggregation.name, StoryAggregation)
