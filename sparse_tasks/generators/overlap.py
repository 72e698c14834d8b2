"""Words that a question and its evidence share, from all of them to none.

Where evidence is asked for in its own words, it can be found by matching them; where no content word is shared, only by
what they mean (Modarressi et al. 2025, NoLiMa).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.task import parameter

LITERAL: Final = "literal"
"""Evidence is asked for in its own words."""
NONE: Final = "none"
"""No content word is shared."""

_FUNCTION: Final = """
a about above after all also am an and any are as at be because been before behind below between both but by can
could did do does each either else ever every for from had has have he her here hers him his how i if in into is it
its just like may me might more most must my near neither no nobody nor not nothing of off on once one only onto or
other our out over own per same shall she should so some such than that the their them then there these they this
those through to too under until up upon us was we were what when where which while who whom whose why will with
within without would yet you your
"""
_FUNCTION_WORDS: Final = frozenset(_FUNCTION.split())
_ENDINGS: Final = ("ings", "ing", "ies", "es", "ed", "s", "e", "y")


def overlap(*choices: str) -> Any:
    """The parameter: how much a question shares with its evidence, from ``literal`` on."""
    levels = (LITERAL, *choices)
    return parameter(LITERAL, "content words that question and evidence share", choices=lambda: levels, later=True)


def shared(question: str, evidence: Iterable[str]) -> float:
    """The share of a question's content words that its evidence holds in any form, in [0, 1]."""
    asked, told = content(question), content(" ".join(evidence))
    return round(len(asked & told) / max(1, len(asked)), 4)


def content(text: str) -> frozenset[str]:
    """Stems of the words of an English text that carry its meaning."""
    words = re.findall(r"[^\W_]+", re.sub(r"['’]s\b", "", text.lower()))
    return frozenset(_stem(word) for word in words if word not in _FUNCTION_WORDS)


def refuse(name: str, level: str, what: str) -> UsageError:
    """The error where a task cannot be asked with this overlap."""
    return UsageError(f"{name}.overlap", level, f"{what}; take {LITERAL}")


def _stem(word: str) -> str:
    """A word without its ending, roughly: what is shared is rather counted too often."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word
