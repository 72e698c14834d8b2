"""Sentences of the reasoning tasks: grammars kept as data, and texts of a sentence a line read back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from sparse_tasks.core.errors import DataError, quoted
from sparse_tasks.generators.prose.grammar import Rule, read_grammars
from sparse_tasks.generators.prose.phrasing import Phrasing, Phrasings, Slots
from sparse_tasks.generators.ruler.noise import read_lines
from sparse_tasks.generators.seeds import Stream

_PLACE = r"[A-Z][a-z]+(?: [A-Z][a-z]+)+"
_SLOTS = Slots(
    {
        **{name: f"(?P<{name}>{_PLACE})" for name in ("start", "end", "place")},
        **{name: f"(?P<{name}>[0-9]+)" for name in ("year", "box", "number")},
    }
)


@dataclass(frozen=True)
class Grammars:
    """The grammars of a folder below ``grammar``, one for each kind of sentence."""

    folder: str

    def sentence(self, stream: Stream, kind: str, **slots: str | int) -> str:
        """A sentence of a kind, on a line of its own."""
        return _rules(self.folder)[kind].expand(stream).format_map(slots) + "\n"

    def read(self, prompt: str, intro: str, end: str) -> Iterator[tuple[str, dict[str, str]]]:
        """The kinds and slots of the sentences between ``intro`` and ``end``, without filler.

        Raises:
            DataError: One of the two is missing, or a line is no sentence of these grammars, or two.
        """
        first, last = prompt.rfind(intro), prompt.rfind(f"\n{end}\n")
        if first < 0 or last < first:
            raise DataError("the prompt holds no whole text: its beginning or its end is missing")
        noise = frozenset(read_lines("noise.txt"))
        for line in prompt[first + len(intro) : last].splitlines():
            if line in noise:
                continue
            found = _phrasings(self.folder).matches(line)
            if len(found) != 1:
                raise DataError(f"a sentence can be read in {len(found)} ways, not one: {quoted(line)}")
            yield found[0][0].kind, found[0][1].groupdict()


def asked(pattern: str, prompt: str, end: str) -> re.Match[str]:
    """The question behind ``end``, by a pattern.

    Raises:
        DataError: It cannot be read.
    """
    question = re.search(pattern, prompt[prompt.rfind(f"\n{end}\n") :])
    if question is None:
        raise DataError("the question cannot be read")
    return question


@cache
def _rules(folder: str) -> dict[str, Rule]:
    return read_grammars(files(__package__) / "grammar" / folder)


@cache
def _phrasings(folder: str) -> Phrasings:
    return Phrasings(
        Phrasing(kind, alternative, _SLOTS)
        for kind, rule in _rules(folder).items()
        for alternative in rule.alternatives
    )
