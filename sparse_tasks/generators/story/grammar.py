"""The English story's phrasing and word lists."""

from __future__ import annotations

from sparse_tasks.generators.prose.grammar import Rule
from sparse_tasks.generators.story.language import language


def events() -> dict[str, Rule]:
    """Sentences that carry facts, by kind of event (``Purchase``)."""
    return language().events


def scenes() -> dict[str, Rule]:
    """Sentences without facts, by element (``Weather``)."""
    return language().scenes


def lexicon(name: str) -> list[list[str]]:
    """Entries of a word list, each split into its columns."""
    return language().lexicon(name)
