"""Phrasing: probabilistic grammars kept as data, one file per element of a text.

Files are context-free grammars in ``nltk``'s format, one production per line: ``Sky -> "the sky was" Colour``. The
first symbol of a file names its element, and the alternatives of a symbol are equally likely. Texts may contain slots
(``{hero}``, ``{price}``) that a narrator fills. Pieces are joined by a blank, except before punctuation, and by nothing
in languages without blanks between words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable

from sparse_tasks.generators.seeds import Stream

_CLOSING = tuple(",.;:!?’”")
_PRODUCTION = re.compile(r"(\w+) ->((?: (?:\w+|\"[^\"]+\"))+)")
_PIECE = re.compile(r"\"([^\"]+)\"|(\w+)")


@dataclass(slots=True, eq=False)
class Rule:
    """A symbol with its alternatives: sequences of texts, each with its leading blank, and other rules."""

    alternatives: list[tuple[str | Rule, ...]] = field(default_factory=list)

    def expand(self, stream: Stream) -> str:
        """A random sentence with unfilled slots."""
        return "".join(self.pieces(stream)).lstrip()

    def pieces(self, stream: Stream) -> list[str]:
        """The pieces of a random sentence, each with its leading blank."""
        pieces: list[str] = []
        self._collect(stream, pieces)
        return pieces

    def texts(self) -> set[str]:
        """All pieces of its sentences."""
        found, rules = set[str](), [self]
        for rule in rules:  # grows within the loop
            pieces = {piece for alternative in rule.alternatives for piece in alternative}
            found |= {piece for piece in pieces if isinstance(piece, str)}
            rules += [piece for piece in pieces if isinstance(piece, Rule) and piece not in rules]
        return found

    def _collect(self, stream: Stream, pieces: list[str]) -> None:
        for piece in stream.choice(self.alternatives):
            if isinstance(piece, str):
                pieces.append(piece)
            else:
                piece._collect(stream, pieces)


def read_lexicon(file: Traversable) -> list[list[str]]:
    """Entries of a word list, one per line, split into columns."""
    text = file.read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


def read_grammars(folder: Traversable, blank: str = " ") -> dict[str, Rule]:
    """Grammars of a folder, by their first symbols; ``blank`` separates words."""
    return dict(
        sorted(
            parse_grammar(path.read_text(encoding="utf-8"), blank)
            for path in folder.iterdir()
            if path.name.endswith(".cfg")
        )
    )


def parse_grammar(text: str, blank: str = " ") -> tuple[str, Rule]:
    """The first symbol of a grammar and its rule.

    Raises:
        ValueError: A line is not a production, or a symbol has none.
    """
    first, rules = "", dict[str, Rule]()
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        production = _PRODUCTION.fullmatch(line)
        if production is None:
            raise ValueError(f"not a production: {line}")
        first = first or production[1]
        pieces: list[str | Rule] = []
        for words, symbol in _PIECE.findall(production[2]):
            if symbol:
                pieces.append(rules.setdefault(symbol, Rule()))
            else:
                pieces.append(words if words.startswith(_CLOSING) else f"{blank}{words}")
        rules.setdefault(production[1], Rule()).alternatives.append(tuple(pieces))
    if undefined := [symbol for symbol, rule in rules.items() if not rule.alternatives]:
        raise ValueError(f"symbols without productions: {', '.join(undefined)}")
    return first, rules[first]
