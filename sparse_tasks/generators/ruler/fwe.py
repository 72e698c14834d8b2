"""Frequent words extraction: the most frequent words of a coded text (low dispersion, high scope)."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count, islice, takewhile, zip_longest
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.ruler.words import most_frequent
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Completion, Draft, Mark, Offer, Passage, Task, parameter

# No vowels, so that no code is a word, decent or not.
_ALPHABET = "bcdfghjklmnpqrstvwxz"
_DOTS = "..."
_LINE = 20
_SHORT_LINE = 4
_SPECIMENS = 128
_INTRO = "Below is a coded text. Its words are groups of letters; the dots between them mean nothing.\n\n"
_NOTE = "Note how often each word occurs.\n\n"
_END = "The coded text ends here."
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class RulerFwe(Task):
    """Asks for the ``words`` most frequent words of a text of made-up ones, whose frequencies follow Zipf's law.

    The word of rank ``k`` occurs ``n / (zeta(alpha) * k ** alpha)`` times, rounded down, for some whole ``n``; words of
    which that is less than one do not occur (RULER, Hsieh et al. 2024, section 3). Rank 1 are dots, which do not count,
    so the answer is ranks 2 and following. Its unit is the line of twenty words.
    """

    version = 2

    alpha: float = parameter(2.0, "exponent of the frequencies", 1.1, 4.0)
    words: int = parameter(3, "number of words asked for", 1, 10)
    letters: int = parameter(6, "letters per word", 5, 12)

    name = "ruler_fwe"
    summary = "the most frequent words of a coded text"
    dispersion = "low"
    scope = "high"
    metric = "set_iou"
    steerable = False
    ruler_metric = "string_match_all"
    placeholders: ClassVar[Mapping[str, str]] = {"words": "number of words asked for, spelt out: three"}

    def smallest(self) -> int:
        return math.ceil(_Law(self.alpha).total(_smallest(self.alpha, self.words)) / _LINE)

    def specimens(self, stream: Stream, size: int) -> list[str]:
        # Lines of the text itself, which hold each word with its frequency.
        text = self._text(stream, size).words
        return [_line(stream.sample(text, _LINE)) for _ in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        text = self._text(stream.fork("text"), size)
        body = [Passage(_line(text.words[i : i + _LINE])) for i in range(0, len(text.words), _LINE)]
        codes = text.codes
        gold = sorted(codes[1 : self.words + 1])
        ask, form = self._ask(), "the word." if self.words == 1 else "the words, separated by commas."
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("a coded text", ask, form),
            question=prompts.question(_END, ask, form),
            answer=", ".join(gold),
            answers=gold,
            offers=text.offers(stream.fork("more"), body),
            marks=lambda: [mark for passage in body for mark in _marks(passage, set(gold))],
            completion=self.complete({}),
            fields={"words": _NUMBERS[self.words], "format": prompts.answer_format(form)},
        )

    def complete(self, fields: Mapping[str, str]) -> Completion:
        several = f"{_NUMBERS[self.words]} most frequent words are"
        opening = f"By the text, the {'most frequent word is' if self.words == 1 else several}"
        return prompts.completion("a coded text", _INTRO + _NOTE, _END, self._ask(), opening)

    def oracle(self, prompt: str) -> str:
        end = prompt.rfind(f"\n{_END}\n")
        begin = prompt.rfind(_INTRO, 0, max(end, 0))
        question = re.search(rf"Which (?:({'|'.join(_NUMBERS)}) words occur|word occurs) most often", prompt[end:])
        if min(begin, end) < 0 or question is None:
            raise DataError("the question cannot be read")
        text = prompt[begin + len(_INTRO) : end].removeprefix(_NOTE).split()
        if strange := [word for word in text if word != _DOTS and not word.isalpha()]:
            raise DataError(f"{strange[0]!r} is not a coded word")
        n = 1 if question[1] is None else _NUMBERS.index(question[1])
        return most_frequent((word for word in text if word != _DOTS), n)

    def _text(self, stream: Stream, lines: int) -> _Text:
        law = _Law(self.alpha)
        # The fewest that give this many lines.
        least = _smallest(self.alpha, self.words)
        n = bisect_left(range(lines * _LINE * 64), lines * _LINE, lo=least, key=law.total)
        return _Text(law, n, stream, self.letters)

    def _ask(self) -> str:
        which = "Which word occurs" if self.words == 1 else f"Which {_NUMBERS[self.words]} words occur"
        return f"{which} most often in the coded text? Leave the dots out of account."


class _Law:
    """Zipf's law: how often each word occurs in a text of a nominal number of words."""

    def __init__(self, alpha: float) -> None:
        self._alpha, self._total = alpha, _zeta(alpha)

    def counts(self, n: int) -> list[int]:
        """Frequency by rank, down to the last word that occurs; each is rounded down, so that they sum up to less."""
        ranks = count(1)
        return list(takewhile(bool, (int(n * math.pow(rank, -self._alpha) / self._total) for rank in ranks)))

    def total(self, n: int) -> int:
        """Words of a text."""
        return sum(self.counts(n))


class _Text:
    """A text that follows the law, and ways to extend it that preserve the law.

    Attributes:
        words: Its words in random order.
        codes: The distinct words by rank, dots first.
    """

    def __init__(self, law: _Law, n: int, stream: Stream, letters: int) -> None:
        self._law, self._n = law, n
        counts = law.counts(n)
        self._fresh = _codes(stream.fork("codes"), letters)
        self.codes = [_DOTS, *islice(self._fresh, len(counts) - 1)]
        self.words = [code for code, number in zip(self.codes, counts, strict=True) for _ in range(number)]
        stream.fork("order").shuffle(self.words)

    def offers(self, stream: Stream, body: list[Passage]) -> list[Callable[[], Offer | None]]:
        """A line, a short one, or the law's next word at the end of some line."""

        def line(more: int) -> Offer:
            n, words = self._grown(more)
            stream.shuffle(words)
            text, passage = _line(words), stream.choice(body)

            def accept() -> None:
                self._n = n
                # A passage, not a follower, so that words in it are evidence, too.
                body.insert(body.index(passage) + 1, Passage(text))

            return Offer([text], [], accept)

        def word() -> Offer:
            n, words = self._grown(1)
            passage = stream.choice(body)
            longer = f"{passage.text[:-1]} {_line(words)}"

            def accept() -> None:
                self._n, passage.text = n, longer

            return Offer([longer], [passage.text], accept)

        return [partial(line, _LINE), partial(line, _SHORT_LINE), word]

    def _grown(self, more: int) -> tuple[int, list[str]]:
        """A nominal number that is larger by so much, or by as much as gives a word; and the words that it adds."""
        before, n = self._law.counts(self._n), self._n + more
        while (after := self._law.counts(n)) == before:
            n += 1
        self.codes += islice(self._fresh, max(0, len(after) - len(self.codes)))
        added = (new - old for old, new in zip_longest(before, after, fillvalue=0))
        return n, [code for code, number in zip(self.codes, added, strict=False) for _ in range(number)]


@lru_cache(maxsize=64)
def _smallest(alpha: float, words: int) -> int:
    """Minimum nominal number at which the last requested rank occurs twice, and more often than the next."""
    last, following = (math.pow(words + 1, -alpha), math.pow(words + 2, -alpha))
    return math.ceil(_zeta(alpha) * max(1 / (last - following), 2 / last)) + 1


@lru_cache(maxsize=64)
def _zeta(alpha: float) -> float:
    """The sum of ``k ** -alpha`` over all k from 1: a thousand terms, and the rest by Euler and Maclaurin."""
    n = 1000
    terms = math.fsum(math.pow(k, -alpha) for k in range(1, n))
    return terms + math.pow(n, 1 - alpha) / (alpha - 1) + math.pow(n, -alpha) / 2


def _codes(stream: Stream, letters: int) -> Iterator[str]:
    used: set[str] = set()
    while True:
        code = stream.letters(_ALPHABET, letters)
        if code not in used:
            used.add(code)
            yield code


def _marks(passage: Passage, gold: set[str]) -> Iterator[Mark]:
    at = 0
    for word in passage.text[:-1].split(" "):
        if word in gold:
            yield Mark(passage, at, passage, at + len(word), word)
        at += len(word) + 1


def _line(words: list[str]) -> str:
    return " ".join(words) + "\n"


TASKS.register(RulerFwe.name, RulerFwe)
