"""Echoes of gold: what a model wrote that answers another sample, and that its own prompt does not tell.

A model that has read its prompt and nothing else can repeat the prompt, know the world, and invent. It cannot know the
number or the three things that some other prompt of the data set asks for. Whether an output that holds another
sample's gold got there by chance is a matter of how much that gold says: a UUID cannot be guessed, a first name can.
So each entry of gold is priced in bits, by the entries that look like it:

- a code (six digits or more, letters and digits mixed, capitals or consonants alone) by its characters;
- a name of several words by how many words the data set's golds have in each place, so how many such names could be put
  together, and by how often two samples have the same one. One word, or a number of less than six digits, says nothing.

What an output holds of one other sample is summed up; taken off is that it could have met any of the samples with such
golds, by any of the entries that it was to write. What is left has to be ``_ENOUGH`` bits: of 256 outputs that invent
their answers from the words of the golds, one at most is taken for an echo by chance.

What is right is never an echo: the sample's own golds, also in part, and whatever stands in its prompt.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Echoes", "too_many"]

_ENOUGH: Final = 8.0  # bits
_SHARED_BY: Final = 3  # samples; golds of more of them are common
_LONGEST: Final = 12  # words of a gold that are looked at
_VOCABULARY: Final = 300  # words that a place in a name is priced for, at most: what comes to mind, not what there is
_CODE_DIGITS: Final = 6
_MIXED: Final = 16  # characters of a code of letters and digits
_LETTERS: Final = 20  # letters that codes without digits are made of, at least
_TOLD: Final = 5  # golds that are named of one output
_SCANNED: Final = 100_000  # characters at the beginning of an output, and as many at its end

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def too_many(echoing: int, samples: int) -> bool:
    """Whether so many outputs of a run echo that chance and knowledge of the world do not explain it.

    By the bound above, fewer than four of 1,000 outputs that invent all they say echo by chance, and a model that reads
    invents little; where golds are names of the real world, it may know one that belongs elsewhere. So two are let
    pass, and of many samples one in a hundred. A file of other samples' answers has far more: nearly all of them where
    golds are codes or many.

    Args:
        echoing: Outputs of the run that hold an echo.
        samples: Outputs of the run.
    """
    return echoing > max(2, samples // 100)


@dataclass(frozen=True, slots=True)
class _Gold:
    """An entry of gold.

    Attributes:
        text: As the data set has it.
        bits: What it says.
        kind: Entries that look like it.
        samples: Those that have it, by number.
    """

    text: str
    bits: float
    kind: str
    samples: tuple[int, ...]


class Echoes:
    """The golds of a data set, to look for in outputs. Prompts are not kept: it takes some 500 bytes an entry.

    Args:
        rows: Of the data set: ``id`` and ``answers`` are looked at.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._number: dict[str, int] = {}
        texts: dict[str, str] = {}
        owners: defaultdict[str, dict[int, None]] = defaultdict(dict)
        for row in rows:
            number = self._number.setdefault(row["id"], len(self._number))
            for answer in row["answers"]:
                for key, text in _entries(answer):
                    texts.setdefault(key, text)
                    owners[key][number] = None
        bits = _priced(owners)
        self._golds = {
            key: _Gold(text, bits[key], _kind(key), tuple(owners[key]))
            for key, text in texts.items()
            if bits[key] > 0 and len(owners[key]) <= _SHARED_BY
        }
        # How many samples have golds of a kind: what an output could have met.
        having: defaultdict[str, set[int]] = defaultdict(set)
        for gold in self._golds.values():
            having[gold.kind].update(gold.samples)
        self._having = {kind: len(numbers) for kind, numbers in having.items()}
        sizes: defaultdict[str, set[int]] = defaultdict(set)
        for key in self._golds:
            first, *others = key.split(" ")
            sizes[first].add(1 + len(others))
        self._sizes = {first: tuple(sorted(lengths)) for first, lengths in sizes.items()}  # by the first word

    def look(self, row: Mapping[str, Any], text: str) -> list[str]:
        """Golds of other samples that an output holds, and that its prompt does not tell.

        Args:
            row: The sample: ``id``, ``prompt`` and ``answers`` are looked at.
            text: What the model wrote.

        Returns:
            Up to five, as the data set has them; none where what there is says too little.
        """
        found = self._found(text)
        if not found:
            return []
        number = self._number.get(row["id"], -1)
        own = [_spaced(answer) for answer in row["answers"]]
        by_sample: defaultdict[int, list[str]] = defaultdict(list)
        for key in found:
            gold = self._golds[key]
            if number not in gold.samples and not any(f" {key} " in answer for answer in own):
                for sample in gold.samples:
                    by_sample[sample].append(key)
        tries = math.log2(1 + len(own))
        told: dict[str, None] = {}
        prompt: str | None = None
        for keys in by_sample.values():
            if self._evidence(keys, tries) < _ENOUGH:
                continue  # what the prompt tells of it can only take away
            prompt = _spaced(row["prompt"]) if prompt is None else prompt
            unknown = [key for key in keys if f" {key} " not in prompt]
            if self._evidence(unknown, tries) >= _ENOUGH:
                told.update(dict.fromkeys(self._golds[key].text for key in unknown))
            if len(told) >= _TOLD:
                break
        return list(told)[:_TOLD]

    def _evidence(self, keys: Sequence[str], tries: float) -> float:
        """Bits that golds of one sample say together, less what chance had to choose from."""
        if not keys:
            return 0.0
        golds = [self._golds[key] for key in keys]
        said = sum(max(0.0, gold.bits - tries) for gold in golds)
        return said - math.log2(max(self._having[gold.kind] for gold in golds))

    def _found(self, text: str) -> list[str]:
        """The golds that stand in a text, in any order."""
        parts = [text] if len(text) <= 2 * _SCANNED else [text[:_SCANNED], text[-_SCANNED:]]
        found: dict[str, None] = {}
        for part in parts:
            words = _words(part)
            for start, word in enumerate(words):
                for size in self._sizes.get(word, ()):
                    key = " ".join(words[start : start + size])
                    if key in self._golds:
                        found[key] = None
        return list(found)


def _words(text: str) -> list[str]:
    """The words of a text as they are compared: without case, accents' ways of writing, and commas in numbers."""
    return _WORD.findall(_THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold()))


def _spaced(text: str) -> str:
    """A text's words, each between blanks, so that whole words are found in it."""
    return f" {' '.join(_words(text))} "


def _entries(answer: str) -> Iterator[tuple[str, str]]:
    """What an entry of gold is found by: its codes, else all its words, if they say anything; with its text."""
    words = _words(answer)[:_LONGEST]
    codes = [word for word in words if _code_bits(word)]
    if not codes:
        # Case tells capitals that are a code from a word; in an output they are found in any case.
        codes = [word.casefold() for word in _WORD.findall(answer)[:_LONGEST] if _is_letters(word)]
    if codes:
        yield from ((code, answer) for code in codes)
    elif len(words) > 1:
        yield " ".join(words), answer


def _is_letters(word: str) -> bool:
    """Whether letters make a code: five capitals, or six letters without a vowel."""
    if not (word.isascii() and word.isalpha()):
        return False
    return (len(word) >= 5 and word.isupper()) or (len(word) >= 6 and not set("aeiouy") & set(word))


def _code_bits(word: str) -> float:
    """What a code with digits says; 0 where it is none."""
    digits = sum(character.isdigit() for character in word)
    if digits < _CODE_DIGITS and not (len(word) >= _MIXED and digits >= 4):
        return 0.0
    return digits * math.log2(10) + 0.5 * (len(word) - digits)


def _kind(key: str) -> str:
    """What an entry looks like: the shape of a code, or how many words."""
    if " " in key:
        return f"{key.count(' ') + 1} words"
    digits = sum(character.isdigit() for character in key)
    return f"{len(key)} letters" if digits == 0 else f"{digits} digits" if digits == len(key) else f"{len(key)} mixed"


def _priced(owners: Mapping[str, Collection[int]]) -> dict[str, float]:
    """The bits of each entry; owners are the samples that have it.

    A name says no more than all names of as many words: by how many could be put together of the words in each place,
    and, since not all of them go together, by how often two samples have drawn the same.
    """
    names: defaultdict[int, list[str]] = defaultdict(list)
    bits: dict[str, float] = {}
    for key in owners:
        if " " in key:
            names[key.count(" ") + 1].append(key)
        else:
            bits[key] = _code_bits(key) or len(key) * math.log2(_LETTERS)
    for of_size in names.values():
        vocabularies = [len(set(words)) for words in zip(*(key.split(" ") for key in of_size), strict=True)]
        said = sum(math.log2(min(size, _VOCABULARY)) for size in vocabularies)
        times = [len(owners[key]) for key in of_size]
        if same := sum(n * (n - 1) // 2 for n in times):
            said = min(said, math.log2(sum(times) ** 2 / 2 / same))  # as with birthdays
        bits |= dict.fromkeys(of_size, max(0.0, said))
    return bits
