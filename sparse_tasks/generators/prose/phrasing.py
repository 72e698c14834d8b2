"""Ways to say something, read back out of a text."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache, cached_property
from operator import add

from sparse_tasks.generators.prose.grammar import Rule

# Between sentences: no part of any.
_EDGE = "\n\n"
_SLOT = re.compile(r"\{(\w+)\}")


class Slots:
    """Regular expressions by slot.

    Args:
        slots: Those that are a text by themselves stand for it.
    """

    def __init__(self, slots: Mapping[str, str]) -> None:
        self._slots = slots
        self.read = cache(self._read)

    def _read(self, piece: str) -> tuple[str, tuple[str, ...]]:
        """The regular expression of a piece, and the texts that it is sure to hold, in order."""
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
    """An alternative of a grammar's symbol as a pattern, of which only as much is compiled as sentences need.

    Args:
        kind: What its sentences tell of.
        alternative: Its pieces.
        slots: What the slots in them may be.
        blank: What stands between words.

    Attributes:
        key: A text that every sentence holds, to look for before a sentence is matched.
        word: A word, between blanks, that every sentence holds, or two letters where there are no blanks; "" where none
            is sure.
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
        """The match of a whole sentence, behind the blank that precedes it; its groups are named."""
        end = 0
        for text in self._texts:
            start = sentence.find(text, end)
            if start < 0:
                return None
            end = start + len(text)
        if self._seen:
            return self._pattern.fullmatch(sentence)
        # The pattern for all sentences is long, and pays from the second one on.
        self._seen = True
        written = self._written(self._alternative, sentence)
        return None if written is None else re.fullmatch(written, sentence)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self._written(self._alternative) or "")

    def _written(self, alternative: tuple[str | Rule, ...], sentence: str | None = None) -> str | None:
        """The regular expression; with ``sentence`` without all that cannot match it, None where nothing is left."""
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
    """Phrasings, of which a sentence is matched with those alone whose words it holds.

    Args:
        phrasings: All of them, of the same language.
        blank: What stands between words.
    """

    def __init__(self, phrasings: Iterable[Phrasing], blank: str = " ") -> None:
        self._blank = blank
        self._by_word: dict[str, list[tuple[int, str, Phrasing]]] = {"": []}
        for number, phrasing in enumerate(phrasings):
            self._by_word.setdefault(phrasing.word, []).append((number, phrasing.key, phrasing))
        self._always = self._by_word.pop("")
        self._looked_for = frozenset((*self._by_word, _EDGE))

    def of(self, kinds: Container[str]) -> Phrasings:
        """Those that tell of some kinds, in the same order."""
        entries = sorted(entry for entries in (*self._by_word.values(), self._always) for entry in entries)
        return Phrasings((phrasing for _, _, phrasing in entries if phrasing.kind in kinds), self._blank)

    def matches(self, sentence: str) -> list[tuple[Phrasing, re.Match[str]]]:
        """The phrasings that a whole sentence may be of, in order."""
        return self.matches_of_each([sentence]).get(0, [])

    def matches_of_each(self, sentences: Sequence[str]) -> dict[int, list[tuple[Phrasing, re.Match[str]]]]:
        """The same of several sentences, without newlines, by number; those of no phrasing are left out."""
        blank, by_word = self._blank, self._by_word
        # Every piece of a phrasing brings the blank that precedes it, the first one too.
        spaced = [f"{blank}{sentence}" for sentence in sentences]
        text = f"{blank}{_EDGE}".join(spaced)
        # All words at once: for most sentences that is all that is done.
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
    """All two letters that stand side by side."""
    return list(map(add, text, text[1:]))
