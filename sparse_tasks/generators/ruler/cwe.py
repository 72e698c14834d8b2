"""Common words extraction: the words that occur most often in a list (low dispersion, high scope)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.ruler.words import joined, most_frequent, plain, set_aside
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Completion, Draft, Mark, Offer, Passage, Task, parameter

_INTRO = "Below is a numbered list of words. Most words occur in it more than once.\n\n"
_END = "The list ends here."
_SPECIMENS = 512
_FEWEST = 10  # fewer rare words would make the common ones obvious


@dataclass(frozen=True)
class RulerCwe(Task):
    """Asks for the ``words`` words that occur ``common`` times in a numbered list; all others occur ``rare`` times.

    RULER's task (Hsieh et al. 2024, section 3) with the parameters of The Sparse Frontier. Its unit is the rare word.
    """

    words: int = parameter(10, "number of common words", 1, 100)
    common: int = parameter(30, "how often each common word occurs in the list", 4, 1000)
    rare: int = parameter(3, "how often each other word occurs in the list", 1, 999)

    name = "ruler_cwe"
    summary = "the most frequent words of a numbered list"
    dispersion = "low"
    scope = "high"
    metric = "set_iou"
    steerable = False
    ruler_metric = "string_match_all"
    placeholders: ClassVar[Mapping[str, str]] = {
        "words": "number of words asked for",
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
        lines, single = self.units(size), min(1.0, len(_vocabulary()) / size)
        specimens = []
        for k in range(_SPECIMENS):
            word = stream.choice(_vocabulary()) if stream.uniform() < single else _pair(stream, frozenset())
            # Numbers are spread evenly over the list, since they are most of a line's tokens.
            specimens.append(_line(int((k + stream.uniform()) * lines / _SPECIMENS), word))
        return specimens

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        words = _words(stream.fork("words"), self.words)
        common = [next(words) for _ in range(self.words)]
        rare = [next(words) for _ in range(size)]
        items = common * self.common + rare * self.rare
        stream.fork("order").shuffle(items)
        listing = _Listing(items, self.rare, words, stream.fork("offers"), set(common))
        fields = {"words": str(self.words)} | self._example(stream.fork("example"))
        ask = _ask(self.words)
        form = "the words, separated by commas." if self.words > 1 else "the word."
        return Draft(
            intro=_INTRO,
            body=listing.body,
            preview=prompts.preview("a list of words", ask, form),
            question=prompts.question(_END, ask, form),
            answer=", ".join(sorted(common)),
            answers=sorted(common),
            offers=[listing.longer, listing.dearer],
            marks=listing.marks,
            completion=self.complete(fields),
            fields=fields | {"format": prompts.answer_format(form)},
        )

    def complete(self, fields: Mapping[str, str]) -> Completion:
        example = ""
        if "example_list" in fields:
            n = self._examples()
            answer = f"{_ask(n)}\n\n{_opening(n)} {fields['example_answer']}."
            solved = f"{_INTRO}{fields['example_list']}\n{_END}\n\n{answer}"
            example = f"Here is an example first.\n\n{solved}\n\nNow comes the list that you will be asked about.\n\n"
        return prompts.completion("a list of words", example + _INTRO, _END, _ask(self.words), _opening(self.words))

    def oracle(self, prompt: str) -> str:
        at = prompt.rfind(f"\n{_END}\n")
        question = re.search(r"^(\d+|One) words? (?:is|are) more frequent", prompt[at:], re.M)
        if at < 0 or question is None:
            raise DataError("the question cannot be read")
        begin = max(prompt.rfind(_INTRO, 0, at), 0)  # after the example, if there is one
        lines = re.findall(r"^(\d+)\. (\S+)$", prompt[begin:at], re.M)
        if [int(number) for number, _ in lines] != list(range(1, len(lines) + 1)):
            raise DataError("the list is not numbered one by one")
        return most_frequent((word for _, word in lines), 1 if question[1] == "One" else int(question[1]))

    def _examples(self) -> int:
        """Number of common words in the example."""
        return min(self.words, 10)

    def _example(self, stream: Stream) -> dict[str, str]:
        """A short list of words that occur in no other list."""
        words = stream.sample(set_aside(), self._examples() + _FEWEST)
        common = words[: self._examples()]
        items = common * 3 + words[self._examples() :]
        stream.shuffle(items)
        lines = "".join(_line(i, word) for i, word in enumerate(items)).rstrip("\n")
        return {"example_list": lines, "example_answer": ", ".join(sorted(common))}


class _Listing:
    """The numbered list while it is fitted: it grows by a rare word, or replaces one by another that costs more."""

    def __init__(self, items: list[str], rare: int, words: Iterator[str], stream: Stream, common: set[str]) -> None:
        self._items, self._rare, self._words, self._stream, self._common = items, rare, words, stream, common
        self.body = [Passage(_line(i, word)) for i, word in enumerate(items)]
        # Lines of each rare word, once one has been replaced; they move when the list grows.
        self._places: dict[str, list[int]] = {}
        self._rare_words: list[str] = []

    def longer(self) -> Offer:
        """One more rare word; each of its places is drawn as if the list had been shuffled with it."""
        word, end = next(self._words), len(self._items)
        changed: dict[int, str] = {}
        for i in range(end, end + self._rare):
            j = self._stream.below(i + 1)
            if j < i:
                changed[i] = changed[j] if j in changed else self._items[j]
            changed[j] = word
        return self._offer(changed, self._places.clear)

    def dearer(self) -> Offer:
        """Another word in all places of a rare one."""
        if not self._places:
            for i, item in enumerate(self._items):
                if item not in self._common:
                    self._places.setdefault(item, []).append(i)
            self._rare_words = list(self._places)
        k = self._stream.below(len(self._rare_words))
        old, new = self._rare_words[k], next(self._words)

        def rename() -> None:
            self._rare_words[k] = new
            self._places[new] = self._places.pop(old)

        return self._offer(dict.fromkeys(self._places[old], new), rename)

    def marks(self) -> list[Mark]:
        return [
            Mark(passage, len(passage.text) - len(item) - 1, passage, len(passage.text) - 1, item)
            for item, passage in zip(self._items, self.body, strict=True)
            if item in self._common
        ]

    def _offer(self, changed: dict[int, str], update: Callable[[], None]) -> Offer:
        def accept() -> None:
            for i in sorted(changed):
                if i == len(self._items):
                    self._items.append("")
                    self.body.append(Passage(""))
                self._items[i] = changed[i]
                self.body[i].text = _line(i, changed[i])
            update()

        removed = [self.body[i].text for i in changed if i < len(self.body)]
        return Offer([_line(i, word) for i, word in changed.items()], removed, accept)


def _ask(words: int) -> str:
    many = f"{words} words are" if words > 1 else "One word is"
    return f"{many} more frequent in the list than all others. Which {'are they' if words > 1 else 'is it'}?"


def _opening(words: int) -> str:
    return f"By the list, the {f'{words} most frequent words are' if words > 1 else 'most frequent word is'}"


def _line(i: int, word: str) -> str:
    return f"{i + 1}. {word}\n"


def _vocabulary() -> list[str]:
    return plain("nounlist.txt", "adjectivelist.txt", "verblist.txt")


def _pair(stream: Stream, without: frozenset[str]) -> str:
    return joined(stream, _vocabulary(), _vocabulary(), without)


def _words(stream: Stream, answers: int) -> Iterator[str]:
    """All words in random order, then pairs of them without the first ``answers``; never the same twice."""
    words = list(_vocabulary())
    stream.shuffle(words)
    yield from words
    used: set[str] = set()
    common = frozenset(words[:answers])
    while True:
        pair = _pair(stream, common)
        if pair not in used:
            used.add(pair)
            yield pair


TASKS.register(RulerCwe.name, RulerCwe)
