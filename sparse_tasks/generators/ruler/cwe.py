"""Common words extraction: the words that stand often in a list (low dispersion, high scope)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.ruler.words import listed, set_aside
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Completion, Draft, Mark, Offer, Passage, Task, parameter

__all__ = ["RulerCwe"]

_INTRO = "Below is a numbered list of words. Most words occur in it more than once.\n\n"
_END = "The list ends here."
_SPECIMENS = 512
# Fewer rare words than this would make the common ones too plain to see.
_FEWEST = 10


@dataclass(frozen=True)
class RulerCwe(Task):
    """Asks for the ``words`` words that stand ``common`` times in a numbered list; all others stand ``rare`` times.

    RULER's task (Hsieh et al. 2024, section 3) with the parameters of The Sparse Frontier. The vocabulary are the
    nouns, adjectives and verbs of ``wonderwords`` (some 8,500). When all are used, words are joined in pairs
    (``lantern-river``) of which neither is an answer, so the list never ends and the answer stays unique. Its unit is
    the rare word.
    """

    words: int = parameter(10, "number of common words", 1, 100)
    common: int = parameter(30, "how often each common word stands in the list", 4, 1000)
    rare: int = parameter(3, "how often each other word stands in the list", 1, 999)

    name: ClassVar[str] = "ruler_cwe"
    summary: ClassVar[str] = "the words that stand most often in a numbered list"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "set_iou"
    steerable: ClassVar[bool] = False
    ruler_metric: ClassVar[str | None] = "string_match_all"
    placeholders: ClassVar[Mapping[str, str]] = {
        "words": "how many words are asked for",
        "example_list": "a short list, as an example, without the newline at its end",
        "example_answer": "its common words, separated by commas",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rare >= self.common:
            raise UsageError("ruler_cwe.rare", self.rare, f"is not below ruler_cwe.common ({self.common})")

    def smallest(self) -> int:
        return _FEWEST

    def units(self, size: int) -> int:
        return self.words * self.common + self.rare * size

    def specimens(self, stream: Stream, size: int) -> list[str]:
        # Numbers are spread evenly over the list, since their length is most of what a line costs.
        lines = self.units(size)
        single = min(1.0, len(_vocabulary()) / size)
        return [
            _line(int((k + stream.uniform()) * lines / _SPECIMENS), word)
            for k, word in enumerate(
                stream.choice(_vocabulary()) if stream.uniform() < single else _joined(stream, frozenset())
                for _ in range(_SPECIMENS)
            )
        ]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        words = _words(stream.fork("words"), self.words)
        common = [next(words) for _ in range(self.words)]
        rare = [next(words) for _ in range(size)]
        items = common * self.common + rare * self.rare
        stream.fork("order").shuffle(items)
        body = [Passage(_line(i, word)) for i, word in enumerate(items)]
        listing = _Listing(items, body, self.rare, words, stream.fork("offers"), set(common))
        fields = {"words": str(self.words)} | self._example(stream.fork("example"))
        ask = _ask(self.words)
        form = "the words, separated by commas." if self.words > 1 else "the word."
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("a list of words", ask, form),
            question=prompts.question(_END, ask, form),
            answer=", ".join(sorted(common)),
            answers=sorted(common),
            offers=[listing.longer, listing.dearer],
            marks=lambda: listing.marks(set(common)),
            completion=self.complete(fields),
            fields=fields | {"format": prompts.answer_format(form)},
        )

    def complete(self, fields: Mapping[str, str]) -> Completion:
        example = ""
        if "example_list" in fields:
            n = self._examples()
            example = (
                f"Here is an example first.\n\n{_INTRO}{fields['example_list']}\n{_END}\n\n{_ask(n)}\n\n"
                f"{_opening(n)} {fields['example_answer']}.\n\nNow comes the list that you will be asked about.\n\n"
            )
        return prompts.completion("a list of words", example + _INTRO, _END, _ask(self.words), _opening(self.words))

    def oracle(self, prompt: str) -> str:
        at = prompt.rfind(f"\n{_END}\n")
        asked = re.search(r"^(\d+|One) words? (?:is|are) more frequent", prompt[at:], re.M)
        if at < 0 or asked is None:
            raise DataError("the question cannot be read")
        n = 1 if asked[1] == "One" else int(asked[1])
        begin = max(prompt.rfind(_INTRO, 0, at), 0)  # behind the example, where there is one
        lines = re.findall(r"^(\d+)\. (\S+)$", prompt[begin:at], re.M)
        if [int(number) for number, _ in lines] != list(range(1, len(lines) + 1)):
            raise DataError("the list is not numbered one by one")
        counted = Counter(word for _, word in lines).most_common()
        if len(counted) > n and counted[n - 1][1] == counted[n][1]:
            raise DataError(f"{n} most frequent words cannot be told from the next")
        return ", ".join(sorted(word for word, _ in counted[:n]))

    def _examples(self) -> int:
        """The common words of the example."""
        return min(self.words, 10)

    def _example(self, stream: Stream) -> dict[str, str]:
        """A short list of words that no other list holds."""
        words = stream.sample(set_aside(), self._examples() + _FEWEST)
        common = words[: self._examples()]
        items = common * 3 + words[self._examples() :]
        stream.shuffle(items)
        lines = "".join(_line(i, word) for i, word in enumerate(items)).rstrip("\n")
        return {"example_list": lines, "example_answer": ", ".join(sorted(common))}


class _Listing:
    """The numbered list while it is fitted: it grows by a rare word, or trades one for another that costs more."""

    def __init__(
        self,
        items: list[str],
        body: list[Passage],
        rare: int,
        words: Iterator[str],
        stream: Stream,
        common: set[str],
    ) -> None:
        self._items, self._body, self._rare, self._words, self._stream = items, body, rare, words, stream
        self._common = common
        self._places: dict[str, list[int]] = {}
        self._rare_words: list[str] = []

    def longer(self) -> Offer:
        """One more rare word; each of its places is drawn as if the list had been shuffled with it."""
        word = next(self._words)
        changed: dict[int, str] = {}
        end = len(self._items)
        for i in range(end, end + self._rare):
            j = self._stream.below(i + 1)
            if j < i:
                changed[i] = changed[j] if j in changed else self._items[j]
            changed[j] = word
        # Rare words move when the list grows.
        return self._offer(changed, lambda: self._places.clear())

    def dearer(self) -> Offer:
        """Another word in all places of a rare one."""
        if not self._places:
            places: defaultdict[str, list[int]] = defaultdict(list)
            for i, item in enumerate(self._items):
                if item not in self._common:
                    places[item].append(i)
            self._places = dict(places)
            self._rare_words = list(self._places)
        k = self._stream.below(len(self._rare_words))
        old, new = self._rare_words[k], next(self._words)

        def renamed() -> None:
            self._rare_words[k] = new
            self._places[new] = self._places.pop(old)

        return self._offer(dict.fromkeys(self._places[old], new), renamed)

    def marks(self, common: set[str]) -> list[Mark]:
        """Every place of a common word."""
        return [
            Mark(passage, len(passage.text) - len(item) - 1, passage, len(passage.text) - 1, item)
            for item, passage in zip(self._items, self._body, strict=True)
            if item in common
        ]

    def _offer(self, changed: dict[int, str], then: Callable[[], None] | None = None) -> Offer:
        old = [self._body[i].text for i in changed if i < len(self._body)]

        def accept() -> None:
            for i in sorted(changed):
                if i < len(self._items):
                    self._items[i] = changed[i]
                    self._body[i].text = _line(i, changed[i])
                else:
                    self._items.append(changed[i])
                    self._body.append(Passage(_line(i, changed[i])))
            if then is not None:
                then()

        return Offer([_line(i, word) for i, word in changed.items()], old, accept)


def _ask(words: int) -> str:
    many = f"{words} words are" if words > 1 else "One word is"
    return f"{many} more frequent in the list than all others. Which {'are they' if words > 1 else 'is it'}?"


def _opening(words: int) -> str:
    return (
        f"By the list, the {words} most frequent words are" if words > 1 else "By the list, the most frequent word is"
    )


def _line(i: int, word: str) -> str:
    return f"{i + 1}. {word}\n"


@cache
def _vocabulary() -> list[str]:
    words = listed("nounlist.txt") | listed("adjectivelist.txt") | listed("verblist.txt")
    return sorted(word for word in words - listed("profanitylist.txt") if re.fullmatch(r"[a-z]{3,}", word))


def _words(stream: Stream, answers: int) -> Iterator[str]:
    """All words in random order, then pairs of them without the first ``answers``; never the same twice."""
    words = list(_vocabulary())
    stream.shuffle(words)
    yield from words
    used: set[str] = set()
    common = frozenset(words[:answers])
    while True:
        pair = _joined(stream, common)
        if pair not in used:
            used.add(pair)
            yield pair


def _joined(stream: Stream, without: frozenset[str]) -> str:
    """Two words as one, neither of them an answer; two decent words may make an indecent one."""
    profane = listed("profanitylist.txt")
    while True:
        first, second = stream.choice(_vocabulary()), stream.choice(_vocabulary())
        if first in without or second in without:
            continue
        if profane.isdisjoint((f"{first} {second}", f"{first}{second}", f"{first}-{second}")):
            return f"{first}-{second}"


TASKS.register(RulerCwe.name, RulerCwe)
