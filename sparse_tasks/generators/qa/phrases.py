"""Phrasing of the articles: grammars kept as data, a file for each kind of sentence.

The slot ``{x}`` is the subject of the article.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from sparse_tasks.generators.prose.grammar import Rule, read_grammars, read_lexicon


@cache
def facts() -> dict[str, Rule]:
    """Sentences that carry facts, by kind (``Birth``)."""
    return read_grammars(files(__package__) / "grammar" / "facts")


@cache
def colour() -> dict[str, Rule]:
    """Sentences without facts, by the subject of the article (``Person``)."""
    return read_grammars(files(__package__) / "grammar" / "colour")


@cache
def capitals() -> frozenset[str]:
    """Words of the phrasing that begin with a capital."""
    return frozenset(word for rule in (facts() | colour()).values() for word in _capitals(rule, set()))


def _capitals(rule: Rule, seen: set[int]) -> Iterator[str]:
    for alternative in rule.alternatives:
        for piece in alternative:
            if isinstance(piece, str):
                yield from re.findall(r"\b[A-Z]\w*", piece)
            elif id(piece) not in seen:
                seen.add(id(piece))
                yield from _capitals(piece, seen)


@cache
def lexicon(name: str) -> list[list[str]]:
    """Entries of a word list, each split into its columns."""
    return read_lexicon(files(__package__) / "lexicon" / name)
