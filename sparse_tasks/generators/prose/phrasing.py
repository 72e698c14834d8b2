"""Phrasings of events, parsed back out of a text."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache, cached_property
from operator import add

from sparse_tasks.generators.prose.grammar import Rule

# Separates sentences; occurs in none.
_EDGE = "\n\n"
_SLOT = re.compile(r"\{(\w+)\}")


class Slots:
    """Regular expressions by slot.

    Args:
        slots: Slots whose expression is a literal text are replaced by it.
    """

    def __init__(self, slots: Mapping[str, str]) -> None:
        self._slots = slots
        self.read = cache(self._read)

    def _read(self, piece: str) -> tuple[str, tuple[str, ...]]:
        """The regular expression of a piece, and the literal texts in it, in order."""
        written, texts = "", [""]
        for i, part in enumerate(_SLOT.split(piece)):
            filled = self._slots[part] if i % 2 else re.escape(part)
            written += filled
            if i % 2 == 0 or re.escape(filled) == filled:
                texts[-1] += filled if i % 2 else part
            else:
                texts.append("")
        return written, tuple(text for text in texts if text)


class Phrasing:
    """An alternative of a grammar's symbol as a pattern, compiled only as far as sentences need.

    Args:
        kind: The kind of event it tells.
        alternative: Its pieces.
        slots: Expressions of the slots.
        blank: Separator of words.

    Attributes:
        key: A text in every sentence, to search for before matching.
        word: A word between blanks in every sentence, or two letters in languages without blanks; "" if there is none.
    """

    def __init__(self, kind: str, alternative: tuple[str | Rule, ...], slots: Slots, blank: str = " ") -> None:
        self.kind = kind
        self._alternative = alternative
        self._slots = slots
        self._texts = [text for piece in alternative if isinstance(piece, str) for text in slots.read(piece)[1]]
        self.key = max(self._texts, key=len, default="")
        words = [word for text in self._texts for word in text.split(" ")[1:-1]] if blank else _pairs(self.key)[:1]
        self.word = max(words, key=len, default="")
        self._seen = False

    def match(self, sentence: str) -> re.Match[str] | None:
        """The match of a whole sentence, after its leading blank, with named groups."""
        end = 0
        for text in self._texts:
            start = sentence.find(text, end)
            if start < 0:
                return None
            end = start + len(text)
        if self._seen:
            return self._pattern.fullmatch(sentence)
        # The pattern for all sentences is long, and pays off from the second sentence on.
        self._seen = True
        written = self._written(self._alternative, sentence)
        return None if written is None else re.fullmatch(written, sentence)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self._written(self._alternative) or "")

    def _written(self, alternative: tuple[str | Rule, ...], sentence: str | None = None) -> str | None:
        """The regular expression; given a ``sentence``, only with alternatives that may match it, None if none does."""
        written = ""
        for piece in alternative:
            if isinstance(piece, Rule):
                choices = [self._written(choice, sentence) for choice in piece.alternatives]
                left = [choice for choice in choices if choice is not None]
                if not left:
                    return None
                written += f"(?:{'|'.join(left)})"
            else:
                pattern, texts = self._slots.read(piece)
                if sentence is not None and not all(text in sentence for text in texts):
                    return None
                written += pattern
        return written


class Phrasings:
    """A set of phrasings; a sentence is matched only with those whose words it contains.

    Args:
        phrasings: All of them, of the same language.
        blank: Separator of words.
    """

    def __init__(self, phrasings: Iterable[Phrasing], blank: str = " ") -> None:
        self._blank = blank
        self._by_word: dict[str, list[tuple[int, str, Phrasing]]] = {"": []}
        for number, phrasing in enumerate(phrasings):
            self._by_word.setdefault(phrasing.word, []).append((number, phrasing.key, phrasing))
        self._always = self._by_word.pop("")
        self._looked_for = frozenset((*self._by_word, _EDGE))

    def of(self, kinds: Container[str]) -> Phrasings:
        """The phrasings of some kinds, in the same order."""
        entries = sorted(entry for entries in (*self._by_word.values(), self._always) for entry in entries)
        return Phrasings((phrasing for _, _, phrasing in entries if phrasing.kind in kinds), self._blank)

    def matches(self, sentence: str) -> list[tuple[Phrasing, re.Match[str]]]:
        """The phrasings that match a whole sentence, in order."""
        return self.matches_of_each([sentence]).get(0, [])

    def matches_of_each(self, sentences: Sequence[str]) -> dict[int, list[tuple[Phrasing, re.Match[str]]]]:
        """``matches`` of several sentences without newlines, by index; sentences without a match are left out."""
        blank, by_word = self._blank, self._by_word
        # Every piece of a phrasing has its leading blank, including the first.
        spaced = [f"{blank}{sentence}" for sentence in sentences]
        text = f"{blank}{_EDGE}".join(spaced)
        # One search for all words, which settles most sentences.
        words = text.split(" ") if blank else _pairs(text)
        candidates = {number: set(self._always) for number in range(len(spaced))} if self._always else {}
        number = 0
        for word in filter(self._looked_for.__contains__, words):
            if word == _EDGE:
                number += 1
            else:
                for entry in by_word[word]:
                    if entry[1] in spaced[number]:
                        candidates.setdefault(number, set()).add(entry)
        found = {}
        for number, entries in candidates.items():
            sentence = spaced[number]
            if matches := [(entry[2], match) for entry in sorted(entries) if (match := entry[2].match(sentence))]:
                found[number] = matches
        return found


def _pairs(text: str) -> list[str]:
    """All pairs of adjacent letters."""
    return list(map(add, text, text[1:]))
