"""Words that a question and its evidence share, from all of them to none.

Where evidence is asked for in its own words, it can be found by matching them; where no content word is shared, only by
what they mean (Modarressi et al. 2025, NoLiMa).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.task import parameter

LITERAL: Final = "literal"
"""Evidence is asked for in its own words."""
NONE: Final = "none"
"""No content word is shared."""

_WORD: Final = r"[^\W_]+"
_CHARACTER: Final = r"[a-z]+|\d+|[^\W\d_]"  # a word or a number in other letters is one
_LEAST: Final = 3  # letters of a stem


@dataclass(frozen=True)
class Words:
    """What a language's words are, where texts are compared by them.

    Attributes:
        function: Words that carry no meaning of their own.
        endings: In which forms of a word differ.
        blank: Whether blanks stand between words; if not, each character is one.
    """

    function: frozenset[str]
    endings: tuple[str, ...]
    blank: bool


def overlap(*choices: str) -> Any:
    """The parameter: how much a question shares with its evidence, from ``literal`` on."""
    levels = (LITERAL, *choices)
    return parameter(LITERAL, "content words that question and evidence share", choices=lambda: levels, later=True)


def shared(question: str, evidence: Iterable[str], words: Words) -> float:
    """The share of a question's content words that its evidence holds in any form, in [0, 1]."""
    asked, told = content(question, words), content(" ".join(evidence), words)
    return round(len(asked & told) / max(1, len(asked)), 4)


def content(text: str, words: Words) -> frozenset[str]:
    """Stems of the words of a text that carry its meaning, without accents."""
    told = re.findall(_WORD if words.blank else _CHARACTER, re.sub(r"['’]s\b", "", text.casefold()))
    return frozenset(_plain(_stem(word, words.endings)) for word in told if word not in words.function)


def refuse(name: str, level: str, what: str) -> UsageError:
    """The error where a task cannot be asked with this overlap."""
    return UsageError(f"{name}.overlap", level, f"{what}; take {LITERAL}")


def _stem(word: str, endings: Iterable[str]) -> str:
    """A word without its longest ending, roughly: what is shared is rather counted too often."""
    fitting = [ending for ending in endings if word.endswith(ending) and len(word) - len(ending) >= _LEAST]
    return word.removesuffix(max(fitting, key=len, default=""))


def _plain(word: str) -> str:
    """Letters without accents, which forms of a word may differ in."""
    return unicodedata.normalize("NFC", re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFD", word)))
