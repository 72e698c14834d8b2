"""Sorting: all events of a kind in the order of their years, which stand scattered (both axes high)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.reason.sentences import Grammars, asked
from sparse_tasks.generators.reason.task import ReasonTask
from sparse_tasks.generators.ruler.noise import offer_line
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.words import Places
from sparse_tasks.generators.task import TASKS, Draft, Mark, Passage, parameter

_SPECIMENS = 160
_INTRO = "Below is a chronicle of many places, whose entries are in no order.\n\n"
_END = "The chronicle ends here."
_CHRONICLE = Grammars("chronicle")
_FORM = (
    "a line for each of them, the earliest first, with the name of the place, a colon and the year, and no other "
    'words: "NAME: YEAR".'
)
_YEARS: Final = range(1_000, 10_000)
_EVENTS: Final = {
    "Fire": "fires",
    "Flood": "floods",
    "Bridge": "openings of bridges",
    "Bell": "castings of bells",
    "Siege": "sieges",
    "Fair": "first fairs",
}
"""Kinds of events, as questions call them."""


@dataclass(frozen=True)
class ReasonSort(ReasonTask):
    """Asks for all events of one kind, with place and year, in order of time.

    There are ``steps`` of them, among events of other kinds. A share of the latter, ``lures`` in a hundred, happened at
    the same places in other years. Its unit is the event.
    """

    lures: int = parameter(25, "percent of the other events that happened at the places asked for", 0, 100)

    name: ClassVar[str] = "reason_sort"
    summary: ClassVar[str] = "all events of a kind in the order of their scattered years"

    def smallest(self) -> int:
        return self.steps

    def specimens(self, stream: Stream, size: int) -> list[str]:
        places = Places(stream.fork("places"))
        return [_sentence(stream, stream.choice(list(_EVENTS)), places.place()) for _ in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        kind, *others = stream.fork("kinds").sample(list(_EVENTS), len(_EVENTS))
        places, prose = Places(stream.fork("places")), stream.fork("prose")
        years = sorted(stream.fork("years").sample(_YEARS, self.steps))
        gold = [(places.place(), year) for year in years]
        passages = [Passage(_CHRONICLE.sentence(prose, kind, place=place, year=year)) for place, year in gold]

        def other(draws: Stream) -> str:
            place = draws.choice(gold)[0] if draws.below(100) < self.lures else places.place()
            return _sentence(draws, draws.choice(others), place)

        body = passages + [Passage(other(prose)) for _ in range(size - self.steps)]
        stream.fork("order").shuffle(body)
        ask = (
            f"The chronicle tells of exactly {self.steps} {_EVENTS[kind]}. At which places were they, and in which "
            "years, in order of time?"
        )
        lines = [f"{place}: {year}" for place, year in gold]
        filler = stream.fork("filler")
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("a chronicle", ask, _FORM),
            question=prompts.question(_END, ask, _FORM),
            answer="\n".join(lines),
            answers=lines,
            offers=[lambda: offer_line(filler, body, other), lambda: offer_line(filler, body)],
            marks=lambda: [
                Mark(passage, 0, passage, len(passage.text) - 1, str(year))
                for passage, (_, year) in zip(passages, gold, strict=True)
            ],
            drawn={"events": size, "kind": kind},
        )

    def oracle(self, prompt: str) -> str:
        question = asked(r"tells of exactly (\d+) (.+?)\. At which places", prompt, _END)
        found = [
            (int(slots["year"]), slots["place"])
            for kind, slots in _CHRONICLE.read(prompt, _INTRO, _END)
            if _EVENTS[kind] == question[2]
        ]
        if len(found) != int(question[1]):
            raise DataError(f"{len(found)} {question[2]} are told of, which is not what the question says")
        if len({year for year, _ in found}) < len(found):
            raise DataError(f"two {question[2]} are of the same year")
        return "\n".join(f"{place}: {year}" for year, place in sorted(found))


def _sentence(stream: Stream, kind: str, place: str) -> str:
    return _CHRONICLE.sentence(stream, kind, place=place, year=stream.choice(_YEARS))


TASKS.register(ReasonSort.name, ReasonSort)
