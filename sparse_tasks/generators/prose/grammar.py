"""Phrasing: probabilistic grammars kept as data, one file per element of a text.

Files are context-free grammars as ``nltk`` reads them; the alternatives of a symbol are equally likely. The first
symbol of a file names its element. Texts may hold slots (``{hero}``, ``{price}``) that the narrator fills. Pieces are
joined by a blank, except before punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable

from nltk.grammar import CFG, Nonterminal

from sparse_tasks.generators.seeds import Stream

__all__ = ["Rule", "pattern", "read_grammars", "read_lexicon"]

_CLOSING = tuple(",.;:!?’”")


@dataclass(slots=True, eq=False)
class Rule:
    """A symbol with its alternatives: sequences of texts, each with the blank that precedes it, and other rules."""

    alternatives: list[tuple[str | Rule, ...]] = field(default_factory=list)

    def expand(self, stream: Stream) -> str:
        """A sentence with its slots still open."""
        return "".join(self.pieces(stream))[1:]

    def pieces(self, stream: Stream) -> list[str]:
        """A sentence in the pieces that the grammar makes it of, each with the blank that precedes it."""
        pieces: list[str] = []
        self._collect(stream, pieces)
        return pieces

    def _collect(self, stream: Stream, pieces: list[str]) -> None:
        for piece in stream.choice(self.alternatives):
            if isinstance(piece, str):
                pieces.append(piece)
            else:
                piece._collect(stream, pieces)


def read_lexicon(file: Traversable) -> list[list[str]]:
    """The entries of a file, one a line, each split into its columns."""
    text = file.read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


def read_grammars(folder: Traversable) -> dict[str, Rule]:
    """The grammars of a folder, by their first symbols."""
    grammars = [
        CFG.fromstring(path.read_text(encoding="utf-8")) for path in folder.iterdir() if path.name.endswith(".cfg")
    ]
    return dict(sorted((str(grammar.start()), _link(grammar)) for grammar in grammars))


def _link(grammar: CFG) -> Rule:
    rules: dict[Nonterminal, Rule] = {}
    for production in grammar.productions():
        pieces = tuple(
            rules.setdefault(piece, Rule()) if isinstance(piece, Nonterminal) else _spaced(piece)
            for piece in production.rhs()
        )
        rules.setdefault(production.lhs(), Rule()).alternatives.append(pieces)
    return rules[grammar.start()]


def _spaced(text: str) -> str:
    return text if text.startswith(_CLOSING) else f" {text}"


def pattern(alternative: tuple[str | Rule, ...], slots: Mapping[str, str]) -> str:
    """A regular expression for one alternative of a rule, with the blank that precedes it.

    Args:
        alternative: Its pieces.
        slots: Regular expressions by slot.
    """
    written = ""
    for piece in alternative:
        if isinstance(piece, Rule):
            written += "(?:" + "|".join(pattern(choice, slots) for choice in piece.alternatives) + ")"
        else:
            for i, part in enumerate(re.split(r"\{(\w+)\}", piece)):
                written += slots[part] if i % 2 else re.escape(part).replace(r"\ ", " ")
    return written
