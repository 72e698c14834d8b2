"""Questions, and answers that repeat them, as in "The secret number of obedient-horde is 46".

An answer repeats a question if it has all its words in their order, with nothing in between except words from the lists
here, which deny nothing.
"""

from __future__ import annotations

import re
from typing import Final

Clause = tuple[str, ...]
"""The words of what a question asks for, without those that only hold them together."""

_WORD: Final = re.compile(r"\S+")
_SENTENCE_END: Final = re.compile(r"(?<=[.?!])\s+|\n+")
_VERBS: Final = frozenset({"is", "are", "was", "were"})
_JOINTS: Final = "a an the what which who whom whose that this these those do does did of in for on all exactly"
_HOLDING: Final = _VERBS | frozenset(_JOINTS.split(" "))
_NUMERALS: Final = "two three four five six seven eight nine ten"
_COUNTS: Final = frozenset(_NUMERALS.split(" ")) | frozenset(map(str, range(1, 100)))
_OPENERS: Final = "so total full name names person people place places thing things"
_OPENING: Final = _COUNTS | frozenset(_OPENERS.split(" "))
# Verbs of questions, in the form of statements.
_TOLD: Final = {
    "met": "meet",
    "paid": "pay",
    "bought": "buys",
    "worked": "work",
    "married": "marry",
    "settled": "settle",
    "founded": "found",
    "made": "make",
    "received": "receive",
    "lies": "lie",
    "stands": "stand",
}


# Words of German and Spanish questions; an English one has few of them, in names.
_POINTING: Final = frozenset(
    {"der", "die", "das", "und", "wie", "viele", "den", "el", "la", "los", "las", "de", "qué", "en"}
)
_MOST_IN_NAMES: Final = 2


def points_group(question: str) -> bool:
    """Whether a question is in a language in which points group digits (1.234), and a comma begins a fraction."""
    return len(_POINTING.intersection(question.casefold().replace("¿", "").split())) > _MOST_IN_NAMES


def clauses(question: str) -> tuple[Clause, ...]:
    """What a question asks for, complete and up to its first comma; nothing if it asks for several things."""
    sentences = [sentence for sentence in _SENTENCE_END.split(question) if sentence]
    asking = [number for number, sentence in enumerate(sentences) if sentence.endswith("?")]
    if len(asking) != 1:
        return ()
    sentence = sentences[asking[0]]
    if len(_clause(sentence)) == 1 and asking[0]:
        # "10 words are more frequent in the list than all others. Which are they?"
        sentence = sentences[asking[0] - 1]
    return tuple(clause for clause in map(_clause, (sentence, sentence.split(",")[0])) if len(clause) > 1)


def said_of(clause: Clause, answer: str) -> str | None:
    """The rest of an answer that begins with a clause, as in "The ... is 46"; None if it does not."""
    said = 0
    for word in _WORD.finditer(answer):
        plain = _plain(word[0])
        ended = said == len(clause)
        if ended and plain in _VERBS:
            return answer[word.end() :].lstrip()
        if not ended and plain == clause[said]:
            said += 1
            if said == len(clause) and word[0].rstrip("*_").endswith(":"):
                return answer[word.end() :].lstrip()
        elif ended or not (plain in _HOLDING or (not said and plain in _OPENING)):
            return None
    return None


def _clause(sentence: str) -> Clause:
    words = [_plain(word) for word in sentence.replace("How many", "number").split()]
    words = [word for word in words if word not in _HOLDING]
    return tuple(words[1:] if words and words[0] in _COUNTS else words)


def _plain(word: str) -> str:
    plain = word.casefold().strip('*_`.,;:?!"()')
    return _TOLD.get(plain, plain)
