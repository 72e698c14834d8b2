"""Copying: one of several pieces with the same heading, given back whole (low dispersion, high scope)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prose.grammar import Rule, read_grammars
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.words import Things
from sparse_tasks.generators.task import TASKS, Draft, Mark, Offer, Passage, Task, parameter

_SPECIMENS = 64
_EXPLANATION = 512  # tokens for what is written ahead of the answer
_LINE = 32  # tokens of a line, with any common tokenizer: an upper bound of their mean
_INTRO = "Below is a collection of songs, letters, dreams and speeches. Several pieces may have the same heading.\n\n"
_END = "The collection ends here."
_HEADINGS = {
    "Song": "Song of the {thing}",
    "Letter": "Letter about the {thing}",
    "Dream": "Dream of the {thing}",
    "Speech": "Speech on the {thing}",
}
_ASK = (
    'The collection holds exactly {alike} pieces with the heading "{heading}". Copy number {n} of them, counted from '
    "the beginning of the collection, whole and word for word."
)
_FORM = "the lines of this piece in their order, each on a line of its own, without the heading."


@dataclass(frozen=True)
class CopyNth(Task):
    """Asks for a copy of the n-th of ``alike`` pieces with the same heading, among pieces of the same sort.

    All pieces are of one distribution, and other headings come about as often, so that nothing sets the needle apart
    but its heading and its place among its likes. Its unit is the piece.
    """

    alike: int = parameter(4, "number of pieces with the heading that is asked for", 2, 64)
    lines: int = parameter(16, "number of lines of the piece to copy, and of others on average", 4, 2_000)

    name: ClassVar[str] = "copy_nth"
    summary: ClassVar[str] = "a copy of a long piece, the n-th of several with the same heading"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "sequence_fraction"
    steerable: ClassVar[bool] = True

    def budget(self) -> int:
        return _EXPLANATION + _LINE * self.lines

    def smallest(self) -> int:
        return self.alike + 1

    def specimens(self, stream: Stream, size: int) -> list[str]:
        shelf = _Shelf(stream, self, size)
        return [shelf.other().text for _ in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        shelf = _Shelf(stream.fork("shelf"), self, size)
        place = stream.fork("place")
        gold = depth.slot(place, size)
        alike = {gold: shelf.piece(shelf.asked, self.lines)}
        for i in place.sample(range(size - 1), self.alike - 1):
            alike[i + (i >= gold)] = shelf.piece(shelf.asked, shelf.length())
        pieces = [alike[i] if i in alike else shelf.other() for i in range(size)]
        before = [alike[i] for i in sorted(alike) if i < gold]
        heading, lines = _heading(shelf.asked), alike[gold].lines
        ask = _ASK.format(alike=self.alike, heading=heading, n=len(before) + 1)
        others = [piece for i, piece in enumerate(pieces) if i not in alike]
        filler = stream.fork("filler")
        return Draft(
            intro=_INTRO,
            body=[passage for piece in pieces for passage in (piece.head, piece.tail)],
            preview=prompts.preview("a collection of texts", ask, _FORM),
            question=prompts.question(_END, ask, _FORM),
            answer="\n".join(lines),
            answers=lines,
            offers=[
                lambda: _offer(filler.choice(pieces).tail, shelf.other().text),
                lambda: _longer(filler.choice(others), shelf.line),
                lambda: _longer(filler.choice(others), lambda _: _grammars()["Short"].expand(filler)),
            ],
            marks=lambda: [
                *(Mark(piece.head, 0, piece.head, len(heading), heading) for piece in before),
                Mark(alike[gold].head, 0, alike[gold].tail, len(lines[-1]), heading),
            ],
            drawn={"pieces": size, "n": len(before) + 1},
        )

    def oracle(self, prompt: str) -> str:
        first, last = prompt.rfind(_INTRO), prompt.rfind(f"\n{_END}\n")
        question = re.search(r'exactly (\d+) pieces with the heading "(.+)"\. Copy number (\d+) of them', prompt[last:])
        if first < 0 or last < first or question is None:
            raise DataError("the prompt holds no whole collection with a question: an end of it is missing")
        pieces = re.findall(r"^(.+)\n\n((?:.+\n)+)", prompt[first + len(_INTRO) : last + 1], re.M)
        found: list[str] = [text.rstrip("\n") for heading, text in pieces if heading == question[2]]
        if len(found) != int(question[1]):
            raise DataError(f"{len(found)} pieces have the heading asked for, which is not what the question says")
        return found[int(question[3]) - 1]


_Heading = tuple[str, str]
"""Kind of a piece, and what it is about."""


def _heading(heading: _Heading) -> str:
    kind, thing = heading
    return _HEADINGS[kind].format(thing=thing)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece; filler that makes it longer stands behind ``head``, all its lines but the last."""

    heading: _Heading
    lines: list[str]
    head: Passage
    tail: Passage

    @property
    def text(self) -> str:
        return self.head.text + self.tail.text


class _Shelf:
    """The pieces of a sample, with headings that come about as often as the one asked for.

    Attributes:
        asked: The heading asked for.
    """

    def __init__(self, stream: Stream, task: CopyNth, size: int) -> None:
        self._stream, self._mean = stream, task.lines
        things = Things(stream.fork("things"))
        names = [things.thing().name for _ in range(1 + size // (task.alike * len(_HEADINGS)))]
        self._others = [(kind, name) for name in names for kind in _HEADINGS]
        self.asked = self._others.pop(stream.below(len(self._others)))
        self._used: set[str] = set()

    def length(self) -> int:
        """Number of lines of a piece that is not asked for."""
        return self._stream.between(self._mean * 3 // 4, self._mean * 5 // 4)

    def other(self) -> _Piece:
        """A piece with another heading."""
        return self.piece(self._stream.choice(self._others), self.length())

    def piece(self, heading: _Heading, n: int) -> _Piece:
        """A piece of so many lines."""
        lines = [self.line(heading) for _ in range(n)]
        head = "".join(f"{line}\n" for line in lines[:-1])
        return _Piece(heading, lines, Passage(f"{_heading(heading)}\n\n{head}"), Passage(f"{lines[-1]}\n\n"))

    def line(self, heading: _Heading) -> str:
        """A line that no other piece has."""
        kind, thing = heading
        while True:
            line = _grammars()[kind].expand(self._stream).format(thing=thing)
            line = line[0].upper() + line[1:]
            if line not in self._used:
                self._used.add(line)
                return line


def _longer(piece: _Piece, line: Callable[[_Heading], str]) -> Offer:
    return _offer(piece.head, f"{line(piece.heading)}\n")


def _offer(passage: Passage, text: str) -> Offer:
    return Offer([text], [], lambda: passage.followers.append(text))


@cache
def _grammars() -> dict[str, Rule]:
    return read_grammars(files(__package__) / "grammar")


TASKS.register(CopyNth.name, CopyNth)
