"""A walk: all places from which, or to which, one-way roads lead, with their distances (both axes high)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

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
_INTRO = "Below are notes on roads between places. Each road leads one way only.\n\n"
_END = "The notes end here."
_ROADS = Grammars("roads")
_ASKS = {
    "layers": "Which places can be reached from {place}, and over how many roads at least? ",
    "ancestors": "From which places can {place} be reached, and over how many roads at least? ",
}
_COUNT = "There are {steps} of them, {place} itself not counted."
_FORM = (
    "a line for each place, with its name, a colon and the smallest number of roads; places at fewer roads come first, "
    'and those at equally many in alphabetical order: "NAME: ROADS".'
)

Road = tuple[str, str]
"""Where a road begins and where it ends."""


@dataclass(frozen=True)
class ReasonWalk(ReasonTask):
    """Asks for the breadth-first layers of a graph from one place, or for all ancestors of one, told as sentences.

    ``steps`` places lie in layers of ``width`` on average, with half as many roads more that shorten nothing. Other
    roads, some of which touch these places from the side that does not count, fill the text. Its unit is the road.
    """

    kind: str = parameter(
        "mixed",
        "where the roads are followed: from a place (layers), back to one (ancestors)",
        choices=lambda: ("mixed", *_ASKS),
    )
    width: int = parameter(3, "mean number of places at the same distance", 1, 64)

    name: ClassVar[str] = "reason_walk"
    summary: ClassVar[str] = "all places that can be reached from one, or from which it can be reached, by distance"

    def smallest(self) -> int:
        return self.steps + self.steps // 2 + 1

    def specimens(self, stream: Stream, size: int) -> list[str]:
        places = Places(stream.fork("places"))
        return [_sentence(stream, (places.place(), places.place())) for _ in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        kind = stream.fork("kind").choice(list(_ASKS)) if self.kind == "mixed" else self.kind
        graph = _Graph(stream.fork("graph"), self.steps, self.width)
        while len(graph.roads) < size:
            graph.add_outside()

        def tell(draws: Stream, road: Road) -> str:
            return _sentence(draws, road if kind == "layers" else road[::-1])

        prose = stream.fork("prose")
        passages = {road: Passage(tell(prose, road)) for road in graph.roads}
        body = list(passages.values())
        stream.fork("order").shuffle(body)
        place = graph.layers[0][0]
        ask = (_ASKS[kind] + _COUNT).format(place=place, steps=self.steps)
        lines = _lines(graph.layers)
        filler = stream.fork("filler")
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("notes on roads", ask, _FORM),
            question=prompts.question(_END, ask, _FORM),
            answer="\n".join(lines),
            answers=lines,
            offers=[
                lambda: offer_line(filler, body, lambda draws: tell(draws, graph.add_outside())),
                lambda: offer_line(filler, body),
            ],
            marks=lambda: [
                Mark(passages[road], 0, passages[road], len(passages[road].text) - 1, road[1])
                for road in graph.shortest
            ],
            drawn={"roads": size, "kind": kind, "layers": len(graph.layers) - 1},
        )

    def oracle(self, prompt: str) -> str:
        roads = [(slots["start"], slots["end"]) for _, slots in _ROADS.read(prompt, _INTRO, _END)]
        if len(set(roads)) < len(roads):
            raise DataError("a road is told of twice")
        question = asked(
            r"places can (?:be reached from (.+?)|(.+?) be reached), and over .+\? There are (\d+) of them",
            prompt,
            _END,
        )
        backwards = question[1] is None
        lines = _lines(_layers(question[2] or question[1], (road[::-1] if backwards else road for road in roads)))
        if len(lines) != int(question[3]):
            raise DataError(f"{len(lines)} places can be reached, which is not what the question says")
        return "\n".join(lines)


def _sentence(stream: Stream, road: Road) -> str:
    return _ROADS.sentence(stream, "Road", start=road[0], end=road[1])


def _lines(layers: list[list[str]]) -> list[str]:
    return [f"{place}: {distance}" for distance, layer in enumerate(layers[1:], start=1) for place in sorted(layer)]


def _layers(place: str, roads: Iterable[Road]) -> list[list[str]]:
    """Places by their distance from one, found by breadth-first search."""
    leads: dict[str, list[str]] = {}
    for start, end in roads:
        leads.setdefault(start, []).append(end)
    layers, seen = [[place]], {place}
    while layers[-1]:
        reached = dict.fromkeys(end for start in layers[-1] for end in leads.get(start, ()) if end not in seen)
        seen.update(reached)
        layers.append(list(reached))
    return layers[:-1]


class _Graph:
    """A graph of which one part is reached from a place, and no road leads from that part to the rest.

    Attributes:
        layers: The places reached, by distance.
        roads: All roads so far.
        shortest: Those of them by which each place is reached first.
    """

    def __init__(self, stream: Stream, steps: int, width: int) -> None:
        self._stream = stream
        self._places = Places(stream.fork("places"))
        self._outside = [self._places.place()]
        self.layers = [[self._places.place()]]
        self.shortest: list[Road] = []
        while len(self.shortest) < steps:
            n = min(stream.between(1, 2 * width - 1), steps - len(self.shortest))
            layer = [self._places.place() for _ in range(n)]
            self.shortest += [(stream.choice(self.layers[-1]), place) for place in layer]
            self.layers.append(layer)
        self.roads = dict.fromkeys(self.shortest)
        self._inside = [place for layer in self.layers for place in layer]
        for _ in range(steps // 2):
            self._add_detour()

    def _add_detour(self) -> None:
        """A road within the part, back or to the next layer at most, which shortens nothing; where there is room."""
        i = self._stream.below(len(self.layers))
        end = self._stream.choice(self.layers[self._stream.below(min(i + 2, len(self.layers)))])
        if (start := self._stream.choice(self.layers[i])) != end:
            self.roads[start, end] = None

    def add_outside(self) -> Road:
        """A new road that begins outside of the part, and ends in it or outside."""
        while True:
            start = self._outsider()
            end = self._stream.choice(self._inside) if self._stream.below(4) == 0 else self._outsider()
            if start != end and (start, end) not in self.roads:
                self.roads[start, end] = None
                return start, end

    def _outsider(self) -> str:
        """A place outside; every third is a new one, so that roads do not run out."""
        if self._stream.below(3) == 0:
            self._outside.append(self._places.place())
            return self._outside[-1]
        return self._stream.choice(self._outside)


TASKS.register(ReasonWalk.name, ReasonWalk)
