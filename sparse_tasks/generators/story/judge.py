"""Story judging: how many sales were a gain, a loss or neither, as only earlier chapters tell (both axes high)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import ENGLISH, languages
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Story
from sparse_tasks.generators.story.task import Question, StoryTask
from sparse_tasks.generators.story.words import materials
from sparse_tasks.generators.story.world import Chronicle, Demand, Event, Plan
from sparse_tasks.generators.task import TASKS, parameter

_MARGINS: Final = {"more": 1, "less": -1, "equal": 0}
_CLASSES: Final = (*_MARGINS, "gift")
_MISLEADING: Final = ("Seen", "Asked", "Hearsay")


@dataclass(frozen=True)
class StoryJudge(StoryTask):
    """Asks how ``sales`` sales are distributed over four classes, none of which the text names.

    A thing is sold for more or less than it cost, for as much, or it came as a gift: each sale has to be found, held
    against the acquisition of the same thing, mostly chapters before, and counted. Half as many things of the material
    are acquired and kept, and others only told of. All distributions are equally likely.
    """

    sales: int = parameter(8, "number of things that are sold, each of which has to be judged", 4, 64)
    language: str = parameter(ENGLISH, "language of story, question and answer", choices=lambda: languages("judge"))

    name: ClassVar[str] = "story_judge"
    summary: ClassVar[str] = "how many sales made a gain, a loss or neither, or were of gifts"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "set_match"
    steerable: ClassVar[bool] = False
    in_groups: ClassVar[tuple[str, ...]] = ()  # the group of stories is the default suite, and stays what it is

    def smallest(self) -> int:
        return self.sales + 1

    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        weighted = ("Purchase",) * 7 + ("GiftReceived", None, None)
        acquisitions = [stream.choice(weighted) for _ in range(chapters)]
        plan = Plan(acquisitions, self.locale, self.distractors, gifts=True, language=self.language)
        plan.reserved = stream.choice(materials(self.language))
        acquired = stream.sample(range(chapters), min(self.sales + self.sales // 2, chapters))
        plan.reserved_acquisitions = set(acquired)
        classes = self._classes(stream)
        for i, judged in zip(acquired, classes, strict=False):
            acquisitions[i] = "GiftReceived" if judged == "gift" else "Purchase"
            if judged in _MARGINS:
                plan.margins[i] = _MARGINS[judged]
            plan.demands.setdefault(stream.between(i, chapters - 1), []).append(Demand("Sale", regarding=i))
        for i in acquired[self.sales :]:
            acquisitions[i] = stream.choice(("Purchase", "GiftReceived"))
            plan.demands.setdefault(stream.between(i, chapters - 1), []).append(Demand("Refused", regarding=i))
        for _ in range(self.sales):
            plan.demands.setdefault(stream.below(chapters), []).append(Demand(stream.choice(_MISLEADING)))
        return plan

    def _classes(self, stream: Stream) -> list[str]:
        """A class for each sale: every distribution is as likely as the others."""
        places = self.sales + len(_CLASSES) - 1
        cuts = [-1, *sorted(stream.sample(range(places), len(_CLASSES) - 1)), places]
        counts = [after - before - 1 for before, after in pairwise(cuts)]
        return [judged for judged, count in zip(_CLASSES, counts, strict=True) for _ in range(count)]

    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        tongue = chronicle.tongue
        bought: dict[str, Event] = {}
        judged: list[tuple[str, Event, Event]] = []
        for _, event in chronicle.happened("Purchase", "GiftReceived", "Sale"):
            if event.thing is None or event.thing.material != plan.reserved:
                continue
            if event.kind == "Sale":
                before = bought[event.thing.name]
                judged.append((_judge(before.amount, event.amount, before.kind), before, event))
            else:
                bought[event.thing.name] = event
        counts = Counter(name for name, _, _ in judged)
        answers = [tongue.sentence(f"judged_{name}", count=counts[name]) for name in _CLASSES]
        return Question(
            ask=tongue.sentence("judge", hero=chronicle.hero.first, count=len(judged), material=plan.reserved),
            form=tongue.sentence("judged"),
            answer="\n".join(answers),
            answers=answers,
            marks=lambda: [
                narrator.told[event].mark(event.thing.name)
                for _, *events in judged
                for event in events
                if event.thing is not None
            ],
        )

    def answer(self, story: Story) -> str:
        heard = story.tongue.heard("judge", story.question)
        if heard is None:
            raise DataError("the question cannot be read")
        paid: dict[str, int | None] = {}
        counts: Counter[str] = Counter()
        for page, fact in story.facts("Purchase", "GiftReceived", "Sale"):
            if not story.tongue.is_of(heard["material"], fact.thing):
                continue
            if fact.kind != "Sale":
                paid[fact.thing] = fact.amount if fact.kind == "Purchase" else None
            elif fact.thing not in paid:
                raise DataError(f"chapter {page.number}: {fact.thing} is sold and was not acquired")
            elif (cost := paid[fact.thing]) is None:
                counts["gift"] += 1
            else:
                counts["more" if fact.amount > cost else "less" if fact.amount < cost else "equal"] += 1
        if counts.total() != int(heard["count"]):
            raise DataError(f"{counts.total()} things are sold, which is not what the question says")
        return "\n".join(story.tongue.sentence(f"judged_{name}", count=counts[name]) for name in _CLASSES)


def _judge(cost: int, price: int, how: str) -> str:
    """The class of a sale."""
    if how == "GiftReceived":
        return "gift"
    return "more" if price > cost else "less" if price < cost else "equal"


TASKS.register(StoryJudge.name, StoryJudge)
