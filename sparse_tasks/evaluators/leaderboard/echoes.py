"""Echoes of gold: outputs that contain the answer to another sample, which their own prompt does not contain.

A model that has read only its prompt can repeat the prompt, know the world, and invent; it cannot know the answer to
another prompt. Whether it hit another sample's gold by chance depends on how much that gold says, so each entry of gold
is priced in bits, by the entries that look like it:

- a code (six digits or more, letters and digits mixed, capitals or consonants alone) by its characters;
- a name of several words by how many such names could be put together from the words in each place of the data set's
  golds, and by how often two samples have the same one. One word, or a number of less than six digits, has no bits.

The bits of another sample's entries in an output are added up, minus a correction for the number of candidates. At
``_ENOUGH``, at most one of 256 outputs that invent their answers from the words of the golds is taken for an echo. The
sample's own golds, also in part, and anything in its prompt are never echoes.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

_ENOUGH: Final = 8.0  # bits
_SHARED_BY: Final = 3  # samples; golds of more of them are common
_LONGEST: Final = 12  # words of a gold that are compared
_VOCABULARY: Final = 300  # maximum words priced for a place in a name
_CODE_DIGITS: Final = 6
_MIXED: Final = 16  # characters of a code of letters and digits
_LETTERS: Final = 20  # minimum alphabet of codes without digits
_MOST: Final = 5  # golds listed per output
_SCANNED: Final = 100_000  # characters at the beginning of an output, and as many at its end

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def too_many(echoing: int, samples: int) -> bool:
    """Whether more outputs of a run echo than chance and knowledge of the world explain.

    Two plus one in a hundred are tolerated: fewer than four of 1,000 invented outputs echo by chance, and a model may
    know names of the real world. A file of other samples' answers has far more.

    Args:
        echoing: Number of the run's outputs with an echo.
        samples: Number of its outputs.
    """
    return echoing > max(2, samples // 100)


class Question(Protocol):
    """The parts of a sample that are needed here."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answers(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class _Gold:
    """An entry of gold.

    Attributes:
        text: As in the data set.
        bits: Information in it.
        kind: Shape that it shares with similar entries.
        samples: Numbers of the samples that have it.
    """

    text: str
    bits: float
    kind: str
    samples: tuple[int, ...]


class Echoes:
    """The golds of a data set, to search for in outputs; prompts are not kept, only some 500 bytes per entry.

    Args:
        golds: Id and answers of each sample.
    """

    def __init__(self, golds: Iterable[tuple[str, Sequence[str]]]) -> None:
        self._number: dict[str, int] = {}
        texts: dict[str, str] = {}
        owners: defaultdict[str, dict[int, None]] = defaultdict(dict)
        for identifier, answers in golds:
            number = self._number.setdefault(identifier, len(self._number))
            for answer in answers:
                for key, text in _entries(answer):
                    texts.setdefault(key, text)
                    owners[key][number] = None
        bits = _priced(owners)
        self._golds = {
            key: _Gold(text, bits[key], _kind(key), tuple(owners[key]))
            for key, text in texts.items()
            if bits[key] > 0 and len(owners[key]) <= _SHARED_BY
        }
        # Number of samples with golds of a kind: what an output could have met.
        having: defaultdict[str, set[int]] = defaultdict(set)
        for gold in self._golds.values():
            having[gold.kind].update(gold.samples)
        self._having = {kind: len(numbers) for kind, numbers in having.items()}
        sizes: defaultdict[str, set[int]] = defaultdict(set)
        for key in self._golds:
            first, *others = key.split(" ")
            sizes[first].add(1 + len(others))
        self._sizes = {first: tuple(sorted(lengths)) for first, lengths in sizes.items()}  # by the first word

    def look(self, question: Question, text: str) -> list[str]:
        """Golds of other samples that an output contains and its prompt does not.

        Args:
            question: The sample that it answers.
            text: Output of the model.

        Returns:
            Up to five, as in the data set; none if together they have too few bits.
        """
        keys = self._keys(text)
        if not keys:
            return []
        number = self._number.get(question.id, -1)
        answers = [_spaced(answer) for answer in question.answers]
        by_sample: defaultdict[int, list[str]] = defaultdict(list)
        for key in keys:
            gold = self._golds[key]
            if number not in gold.samples and not any(f" {key} " in answer for answer in answers):
                for sample in gold.samples:
                    by_sample[sample].append(key)
        tries = math.log2(1 + len(answers))
        echoes: dict[str, None] = {}
        prompt: str | None = None
        for of_sample in by_sample.values():
            if self._evidence(of_sample, tries) < _ENOUGH:
                continue  # the prompt can only remove evidence
            prompt = _spaced(question.prompt) if prompt is None else prompt
            unknown = [key for key in of_sample if f" {key} " not in prompt]
            if self._evidence(unknown, tries) >= _ENOUGH:
                echoes.update(dict.fromkeys(self._golds[key].text for key in unknown))
            if len(echoes) >= _MOST:
                break
        return list(echoes)[:_MOST]

    def _evidence(self, keys: Sequence[str], tries: float) -> float:
        """Total bits of one sample's golds, corrected for the number of candidates."""
        if not keys:
            return 0.0
        golds = [self._golds[key] for key in keys]
        bits = sum(max(0.0, gold.bits - tries) for gold in golds)
        return bits - math.log2(max(self._having[gold.kind] for gold in golds))

    def _keys(self, text: str) -> list[str]:
        """Keys of the golds in a text."""
        parts = [text] if len(text) <= 2 * _SCANNED else [text[:_SCANNED], text[-_SCANNED:]]
        keys: dict[str, None] = {}
        for part in parts:
            words = _words(part)
            for start, word in enumerate(words):
                for size in self._sizes.get(word, ()):
                    key = " ".join(words[start : start + size])
                    if key in self._golds:
                        keys[key] = None
        return list(keys)


def _words(text: str) -> list[str]:
    """Words of a text, normalised for comparison: case, forms of characters, commas in numbers."""
    return _WORD.findall(_THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold()))


def _spaced(text: str) -> str:
    """Words of a text, each between blanks, so that whole words can be searched for."""
    return f" {' '.join(_words(text))} "


def _entries(answer: str) -> Iterator[tuple[str, str]]:
    """Search keys of a gold entry, with its text: its codes, or else all its words if there are several."""
    words = _words(answer)[:_LONGEST]
    codes = [word for word in words if _code_bits(word)]
    if not codes:
        # Case distinguishes codes in capitals from words; outputs are searched in any case.
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
    """Bits of a code with digits; 0 for other words."""
    digits = sum(character.isdigit() for character in word)
    if digits < _CODE_DIGITS and not (len(word) >= _MIXED and digits >= 4):
        return 0.0
    return digits * math.log2(10) + 0.5 * (len(word) - digits)


def _kind(key: str) -> str:
    """Shape of an entry: length and characters of a code, or number of words."""
    if " " in key:
        return f"{key.count(' ') + 1} words"
    digits = sum(character.isdigit() for character in key)
    return f"{len(key)} letters" if digits == 0 else f"{digits} digits" if digits == len(key) else f"{len(key)} mixed"


def _priced(owners: Mapping[str, Collection[int]]) -> dict[str, float]:
    """Bits of each entry, from the samples that have it; names with the same number of words have the same."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    bits: dict[str, float] = {}
    for key in owners:
        if " " in key:
            names[key.count(" ") + 1].append(key)
        else:
            bits[key] = _code_bits(key) or len(key) * math.log2(_LETTERS)
    for of_size in names.values():
        vocabularies = [len(set(words)) for words in zip(*(key.split(" ") for key in of_size), strict=True)]
        of_name = sum(math.log2(min(size, _VOCABULARY)) for size in vocabularies)
        times = [len(owners[key]) for key in of_size]
        if same := sum(n * (n - 1) // 2 for n in times):
            of_name = min(of_name, math.log2(sum(times) ** 2 / 2 / same))  # as in the birthday problem
        bits |= dict.fromkeys(of_size, max(0.0, of_name))
    return bits
