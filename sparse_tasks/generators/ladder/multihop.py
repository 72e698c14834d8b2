"""A ladder of hops: things acquired one after the other, and the one so many before another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.ladder.task import Found, LadderTask, Read
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import Language
from sparse_tasks.generators.story.reader import Story
from sparse_tasks.generators.story.world import Chronicle, Plan
from sparse_tasks.generators.task import TASKS, parameter

_ACQUIRING = ("Purchase", "GiftReceived")


@dataclass(frozen=True)
class LadderMultihop(LadderTask):
    """Asks for the thing acquired ``hops`` acquisitions before a named one."""

    hops: int = parameter(2, "how many acquisitions to count back", 1, 16)

    name: ClassVar[str] = "ladder_multihop"
    summary: ClassVar[str] = "the thing acquired some acquisitions before a given one, in levels"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"
    whole: ClassVar[tuple[str, str]] = ("multihop", "one_thing")
    parts: ClassVar[tuple[str, str]] = ("ladder_multihop_parts", "things_in_order")
    parts_metric: ClassVar[str] = "ordered_fraction"

    def smallest(self) -> int:
        return max(super().smallest(), self.hops + 1)

    def facts(self, stream: Stream, plan: Plan, chronicle: Chronicle) -> Found:
        acquired = chronicle.happened(*_ACQUIRING)
        first = stream.below(len(acquired) - self.hops)
        return acquired[first : first + self.hops + 1]

    def names(self, plan: Plan, found: Found) -> dict[str, object]:
        (first, _), (last, event) = found[0], found[-1]
        thing = event.thing.name if event.thing else ""
        return {"thing": thing, "count": self.hops, "first": first.number, "n": last.number}

    def told(self, story: Story, heard: dict[str, str]) -> Read:
        acquired = list(story.facts(*_ACQUIRING))
        if "thing" not in heard:
            return [(page, fact) for page, fact in acquired if int(heard["first"]) <= page.number <= int(heard["n"])]
        at = [i for i, (_, fact) in enumerate(acquired) if fact.thing == heard["thing"]]
        hops = int(heard["count"])
        if len(at) != 1 or at[0] < hops:
            raise DataError(f"{heard['thing']!r} is acquired {len(at)} times, or too early")
        return acquired[at[0] - hops : at[0] + 1]

    def part(self, chapter: int, thing: str, crowns: int) -> str:
        return thing

    def follows(self, facts: list[tuple[int, str, int]], tongue: Language) -> list[str]:
        return [facts[0][1]]


TASKS.register(LadderMultihop.name, LadderMultihop)
