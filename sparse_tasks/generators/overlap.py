"""Lexical overlap of a question and its evidence, from all words to none.

Evidence that shares words with the question can be found by matching them; without shared content words, only by their
meaning (Modarressi et al. 2025, NoLiMa).
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
_CHARACTER: Final = r"[a-z]+|\d+|[^\W\d_]"  # in other scripts each letter is a word
_LEAST: Final = 3  # minimum letters of a stem


@dataclass(frozen=True)
class Words:
    """A language's definition of words, for comparing texts.

    Attributes:
        function: Words that carry no meaning of their own.
        endings: Endings in which forms of a word differ.
        blank: Whether words are separated by blanks; if not, each character is a word.
    """

    function: frozenset[str]
    endings: tuple[str, ...]
    blank: bool


def overlap(*choices: str) -> Any:
    """The parameter for how many words a question shares with its evidence; the first choice is ``literal``."""
    levels = (LITERAL, *choices)
    return parameter(LITERAL, "content words that question and evidence share", choices=lambda: levels, later=True)


def shared(question: str, evidence: Iterable[str], words: Words) -> float:
    """The share of a question's content words that its evidence contains in any form, in [0, 1]."""
    of_question, of_evidence = content(question, words), content(" ".join(evidence), words)
    return round(len(of_question & of_evidence) / max(1, len(of_question)), 4)


def content(text: str, words: Words) -> frozenset[str]:
    """Stems of a text's content words, without accents."""
    found = re.findall(_WORD if words.blank else _CHARACTER, re.sub(r"['’]s\b", "", text.casefold()))
    return frozenset(_plain(_stem(word, words.endings)) for word in found if word not in words.function)


def refuse(name: str, level: str, what: str) -> UsageError:
    """The error for a task that does not support this overlap."""
    return UsageError(f"{name}.overlap", level, f"{what}; take {LITERAL}")


def _stem(word: str, endings: Iterable[str]) -> str:
    """A word without its longest ending; errs on the side of counting words as shared."""
    fitting = [ending for ending in endings if word.endswith(ending) and len(word) - len(ending) >= _LEAST]
    return word.removesuffix(max(fitting, key=len, default=""))


def _plain(word: str) -> str:
    """A text without accents, in which forms of a word may differ."""
    return unicodedata.normalize("NFC", re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFD", word)))
