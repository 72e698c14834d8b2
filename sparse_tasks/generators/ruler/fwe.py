"""Frequent words extraction: the most frequent words of a coded text (low dispersion, high scope)."""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, takewhile
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.ruler.words import most_frequent
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Completion, Draft, Mark, Offer, Passage, Task, parameter

# No vowels, so that no code is a word of any language, nor an indecent one.
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

    The word of rank ``k`` occurs about ``n / (zeta(alpha) * k ** alpha)`` times in a text of ``n``. Rank 1 are dots,
    which do not count, so the answer are ranks 2 and following (RULER, Hsieh et al. 2024, section 3). Its unit is the
    line of twenty words.
    """

    alpha: float = parameter(2.0, "exponent of the frequencies", 1.1, 4.0)
    words: int = parameter(3, "number of words asked for", 1, 10)
    letters: int = parameter(6, "letters of a word", 5, 12)

    name = "ruler_fwe"
    summary = "the most frequent words of a coded text"
    dispersion = "low"
    scope = "high"
    metric = "set_iou"
    steerable = False
    ruler_metric = "string_match_all"
    placeholders: ClassVar[Mapping[str, str]] = {"words": "number of words asked for, spelt out: three"}

    def smallest(self) -> int:
        return _smallest(self.alpha, self.words)

    def specimens(self, stream: Stream, size: int) -> list[str]:
        # Lines of the text itself, which hold each word with its frequency.
        text = _text(stream, self, size)[0]
        return [_line(stream.sample(text, _LINE)) for _ in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        text, codes = _text(stream.fork("text"), self, size)
        body = [Passage(_line(text[i : i + _LINE])) for i in range(0, len(text), _LINE)]
        gold = sorted(codes[1 : self.words + 1])
        ask, form = self._ask(), "the word." if self.words == 1 else "the words, separated by commas."
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("a coded text", ask, form),
            question=prompts.question(_END, ask, form),
            answer=", ".join(gold),
            answers=gold,
            offers=_Growth(self.alpha, stream.fork("more"), body, Counter(text), codes, set(gold)).offers(),
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

    def _ask(self) -> str:
        which = "Which word occurs" if self.words == 1 else f"Which {_NUMBERS[self.words]} words occur"
        return f"{which} most often in the coded text? Leave the dots out of account."


class _Growth:
    """Ways to make the text longer that keep its law and its answer."""

    def __init__(
        self, alpha: float, stream: Stream, body: list[Passage], counts: Counter[str], codes: list[str], gold: set[str]
    ) -> None:
        self._stream, self._body, self._counts, self._codes, self._gold = stream, body, counts, codes, gold
        self._shares = list(accumulate(math.pow(k, -alpha) for k in range(1, len(codes) + 1)))

    def offers(self) -> list[Callable[[], Offer | None]]:
        return [lambda: self._more(_LINE), lambda: self._more(_SHORT_LINE), self._dots]

    def _more(self, n: int) -> Offer:
        """A line of words drawn by the law; where they would blur the answer, of dots."""
        drawn = [
            self._codes[min(bisect(self._shares, self._stream.uniform() * self._shares[-1]), len(self._codes) - 1)]
            for _ in range(n)
        ]
        added = Counter(drawn)
        least = min(self._counts[word] + added[word] for word in self._gold)
        # No word that was not drawn was as frequent before.
        rivals = added.keys() - self._gold - {_DOTS}
        if any(self._counts[word] + added[word] >= least for word in rivals):
            drawn, added = [_DOTS] * n, Counter({_DOTS: n})
        text, passage = _line(drawn), self._stream.choice(self._body)

        def accept() -> None:
            self._counts.update(added)
            # A passage, not a follower, so that words in it are evidence, too.
            self._body.insert(self._body.index(passage) + 1, Passage(text))

        return Offer([text], [], accept)

    def _dots(self) -> Offer:
        passage = self._stream.choice(self._body)
        longer = f"{passage.text[:-1]} {_DOTS}\n"

        def accept() -> None:
            passage.text = longer

        return Offer([longer], [passage.text], accept)


def _text(stream: Stream, task: RulerFwe, lines: int) -> tuple[list[str], list[str]]:
    """Words of a text of so many lines in random order, and the distinct ones by rank, dots first."""
    n = lines * _LINE
    counts = _counts(n, task.alpha)
    # The law's tail, in which no word would have a whole place: words that occur once.
    counts = [*counts, *[1] * (n - sum(counts))]
    codes = [_DOTS, *_codes(stream.fork("codes"), task.letters, len(counts) - 1)]
    text = [code for code, count in zip(codes, counts, strict=True) for _ in range(count)]
    stream.fork("order").shuffle(text)
    return text, codes


@lru_cache(maxsize=64)
def _smallest(alpha: float, words: int) -> int:
    """Fewest lines in which the last rank asked for occurs twice, and more often than the next."""
    last, following = (math.pow(words + 1, -alpha), math.pow(words + 2, -alpha))
    return math.ceil(_zeta(alpha) * max(1 / (last - following), 2 / last) / _LINE) + 1


def _counts(n: int, alpha: float) -> list[int]:
    """Frequency of each rank in a text of ``n`` words, as long as it is not zero."""
    total = _zeta(alpha)
    counts = (int(n / (total * math.pow(rank, alpha))) for rank in range(1, n + 1))
    return list(takewhile(bool, counts))


@lru_cache(maxsize=64)
def _zeta(alpha: float) -> float:
    """The sum of ``k ** -alpha`` over all k from 1: a thousand terms, and the rest by Euler and Maclaurin."""
    n = 1000
    terms = math.fsum(math.pow(k, -alpha) for k in range(1, n))
    return terms + math.pow(n, 1 - alpha) / (alpha - 1) + math.pow(n, -alpha) / 2


def _codes(stream: Stream, letters: int, n: int) -> Iterator[str]:
    used: set[str] = set()
    while len(used) < n:
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
