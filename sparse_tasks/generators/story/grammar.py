"""The story's phrasing and word lists."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sparse_tasks.generators.prose.grammar import Rule, read_grammars, read_lexicon


@cache
def events() -> dict[str, Rule]:
    """Sentences that carry facts, by kind of event (``Purchase``)."""
    return read_grammars(files(__package__) / "grammar" / "events")


@cache
def scenes() -> dict[str, Rule]:
    """Sentences without facts, by element (``Weather``)."""
    return read_grammars(files(__package__) / "grammar" / "scenes")


@cache
def lexicon(name: str) -> list[list[str]]:
    """Entries of a word list, each split into its columns."""
    return read_lexicon(files(__package__) / "lexicon" / name)
