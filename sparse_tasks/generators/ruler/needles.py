"""Needles in a haystack: base of RULER's eight retrieval tasks, each of which is a choice of its parameters."""

from __future__ import annotations

import bisect
import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.corpora import UNENCODABLE
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.overlap import LITERAL, NONE, overlap, refuse, shared
from sparse_tasks.generators.prose.grammar import read_lexicon
from sparse_tasks.generators.qa.sentences import gap, join
from sparse_tasks.generators.ruler.essays import Prose, encodable, prose
from sparse_tasks.generators.ruler.noise import noise, offer_line
from sparse_tasks.generators.ruler.words import described
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import language
from sparse_tasks.generators.task import Completion, Draft, Mark, Offer, Passage, Task, parameter

if TYPE_CHECKING:
    from sparse_tasks.core.tokenizers import PromptTokenizer

_HAYSTACKS = ("noise", "essay", "needles")
_KINDS = ("words", "numbers", "uuids")
_MEANINGS = {"words": "expression", "numbers": "figure", "uuids": "identifier"}  # the same in words of no needle
_NOUNS = {"words": "word", "numbers": "number", "uuids": "UUID"}
_END = "The text ends here."
_SPECIMENS = 128
_LEFT_OUT = 6  # of this many paragraphs of an essay one is left out at first; the fitter restores as many as fit


def haystack(default: str) -> Any:
    """Parameter for the text around the needles."""
    return parameter(default, "what the needles are hidden in", choices=lambda: _HAYSTACKS)


def key_kind(default: str) -> Any:
    """Parameter for the kind of keys."""
    return parameter(default, "kind of keys", choices=lambda: _KINDS)


def value_kind(default: str) -> Any:
    """Parameter for the kind of values."""
    return parameter(default, "kind of values", choices=lambda: _KINDS)


@dataclass(frozen=True)
class Needles(Task):
    """Asks for all values of ``queries`` keys, among needles of ``distractors`` other keys.

    In a haystack of noise a needle is a line between filler sentences, in an essay a sentence between two others, and
    in a haystack of needles everything else is a needle, too. Its unit is the line or paragraph of the haystack.

    With an ``overlap`` other than ``literal`` keys are capitals, which the question names by their countries: all else
    it says in the needle's words (``partial``) or in others (``none``).
    """

    haystack: str = haystack("essay")
    key_kind: str = key_kind("words")
    value_kind: str = value_kind("numbers")
    queries: int = parameter(1, "number of keys asked for", 1, 16)
    values: int = parameter(1, "number of values per key", 1, 16)
    distractors: int = parameter(
        0, "number of keys that are not asked for, in addition to those of the haystack", 0, 64
    )
    essays: str = parameter("", "SHA-256 of the user's text for essays; empty for generated ones")
    overlap: str = overlap("partial", NONE)
    _text: list[list[str]] | None = field(default=None, init=False, repr=False, compare=False)

    dispersion = "low"
    scope = "low"
    metric = "exact_match"
    steerable = True
    ruler_metric = "string_match_all"
    texts: ClassVar[Mapping[str, str]] = {"essays": "essays"}
    placeholders: ClassVar[Mapping[str, str]] = {
        "keys": "the keys asked for, as in: a, b and c",
        "kind": "kind of the values: word, number or UUID, in the plural where there are several",
    }
    needed = ("keys",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap != LITERAL:
            if self.haystack == "needles" or self.key_kind != "words":
                raise refuse(self.name, self.overlap, "needs keys that are words, in noise or essays")
            if (keys := self.queries + self.distractors) > len(capitals()):
                raise refuse(self.name, self.overlap, f"has {len(capitals())} keys, not {keys}")
        if self.haystack != "essay":
            # An unused text is not part of the key.
            object.__setattr__(self, "essays", "")
        if self.essays:
            # Texts of users were divided otherwise, and control tokens in them encoded as such; what is made stays.
            object.__setattr__(self, "version", 2)

    def at(self, tokenizer: PromptTokenizer, seed: int, index: int) -> Task:
        if not self.essays:
            return self
        bound = copy.copy(self)
        object.__setattr__(bound, "_text", encodable(self.essays, tokenizer)[0])
        return bound

    def notices(self, tokenizer: PromptTokenizer) -> list[str]:
        left_out = encodable(self.essays, tokenizer)[1] if self.essays else 0
        if not left_out:
            return []
        return [f"essays: left out {left_out:,} sentence{'s' * (left_out != 1)}, {UNENCODABLE}"]

    def smallest(self) -> int:
        # Each paragraph has a place for at least one needle.
        return self._needles() if self.haystack == "essay" else 0

    def specimens(self, stream: Stream, size: int) -> list[str]:
        if self.haystack == "noise":
            return [noise(stream) for _ in range(_SPECIMENS)]
        if self.haystack == "needles":
            codes = _Codes(stream, self)
            return [codes.line(codes.key(), codes.value()) for _ in range(_SPECIMENS)]
        text = prose(stream, self._prose())
        # From the whole text, since its beginning may be atypical.
        step = max((text.period or 0) // _SPECIMENS, 1)
        return [_paragraph(text.paragraph(step * i)) for i in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        codes = _Codes(stream.fork("codes"), self)
        keys = [codes.key() for _ in range(self.queries)]
        gold = [(key, codes.value()) for key in keys for _ in range(self.values)]
        others = [codes.key() for _ in range(self.distractors)]
        pairs = gold + [(key, codes.value()) for key in others for _ in range(self.values)]
        stack = _stack(self, stream.fork("haystack"), size, codes)
        place = stream.fork("place")
        places = depth.slots(place, stack.places + len(pairs), len(gold))
        place.shuffle(places)
        taken = set(places)
        while len(places) < len(pairs):
            other = place.below(stack.places + len(pairs))
            if other not in taken:
                taken.add(other)
                places.append(other)
        needles = {at: codes.line(*pair) for at, pair in zip(places, pairs, strict=True)}
        body, starts = stack.body(needles)
        more = stream.fork("more")
        answers = [
            value
            for key in keys
            for _, (owner, value) in sorted(zip(places, gold, strict=False), key=lambda placed: placed[0])
            if owner == key
        ]
        named = _listed([self._named(key) for key in keys])
        ask, form = self._ask(named), self._form()
        drawn: dict[str, Any] = dict(stack.drawn)
        if self.overlap != LITERAL:
            evidence = [needles[at] for at, _ in zip(places, gold, strict=False)]
            drawn["overlap"] = shared(ask, evidence, language().words)
        return Draft(
            intro=f"Below is a text. {self._announcement()}\n\n",
            body=body,
            preview=prompts.preview("a text", ask, form),
            question=prompts.question(_END, ask, form),
            answer=", ".join(answers),
            answers=answers,
            offers=stack.offers(body, more),
            marks=lambda: [
                Mark(passage, start, passage, start + len(needles[at].strip()), pair[0])
                for at, pair in zip(places, gold, strict=False)
                for passage, start in [starts[at]]
            ],
            completion=self.complete({"keys": named}),
            metric=None if len(answers) == 1 else "unordered_fraction",
            drawn=drawn,
            fields={"keys": named, "kind": self._noun(), "format": prompts.answer_format(form)},
        )

    def complete(self, fields: Mapping[str, str]) -> Completion:
        return prompts.completion(
            "a text",
            f"Below is a text. {self._announcement()} Read it with care: a question about it follows.\n\n",
            _END,
            self._ask(fields["keys"]),
            "By the text, the answer is"
            if self.overlap == NONE
            else f"By the text, the secret {self._noun()} of {fields['keys']} {'are' if self._several() else 'is'}",
        )

    def oracle(self, prompt: str) -> str:
        text = prompt[prompt.rindex(f"\n{_END}\n") :] if f"\n{_END}\n" in prompt else ""
        question = re.search(
            r"What (?:is|are|are all) the secret (?P<noun>word|number|UUID)s? of (?P<keys>[A-Za-z0-9, -]+)\?"
            r"|Which (?:are all the )?(?P<meaning>[a-z]+?)s? (?:must nobody|that nobody must) learn about "
            r"(?P<named>[A-Za-z, ]+)\?",
            text,
        )
        if question is None:
            raise DataError("the question names no key")
        kinds = {meaning: _NOUNS[kind] for kind, meaning in _MEANINGS.items()}
        noun = question["noun"] or kinds.get(question["meaning"], "")
        cities = {f"the capital of {country}": city for city, country in capitals()}
        named = re.split(", | and ", question["keys"] or question["named"])
        by_key: dict[str, list[str]] = {cities.get(key, key): [] for key in named}
        for kind, key, value in re.findall(r"\b(?:The|A) secret (\w+) of ([A-Za-z0-9-]+) is ([a-z0-9-]+)\.", prompt):
            if key in by_key:
                if kind != noun:
                    raise DataError(f"key {key} has a secret {kind}, and the question asks for its secret {noun}")
                by_key[key].append(value)
        if missing := [key for key, values in by_key.items() if not values]:
            raise DataError(f"key {missing[0]} has no value")
        if len(numbers := {len(values) for values in by_key.values()}) > 1:
            raise DataError(f"some keys have {min(numbers)} values, others {max(numbers)}")
        answers = [value for values in by_key.values() for value in values]
        if len(set(answers)) < len(answers):
            raise DataError("a value occurs twice")
        if " are all " not in question[0] and numbers != {1}:
            raise DataError("the question asks for one value, and there are several")
        return ", ".join(answers)

    def _prose(self) -> list[list[str]] | None:
        if self.essays and self._text is None:
            raise RuntimeError(f"{self.name} makes samples of essays only after at()")
        return self._text

    def _needles(self) -> int:
        return self.values * (self.queries + self.distractors)

    def _several(self) -> bool:
        return self.queries * self.values > 1

    def _noun(self) -> str:
        return _NOUNS[self.value_kind] + "s" * self._several()

    def _announcement(self) -> str:
        noun = _NOUNS[self.value_kind]
        if self.haystack == "needles":
            return f"It says of each of many keys what its secret {noun} is."
        if self._needles() == 1:
            return f"Somewhere in it a secret {noun} is mentioned."
        return f"Here and there in it secret {noun}s are mentioned."

    def _named(self, key: str) -> str:
        """The name of a key in the question."""
        return key if self.overlap == LITERAL else f"the capital of {dict(capitals())[key]}"

    def _ask(self, keys: str) -> str:
        if self.overlap == NONE:
            meaning = _MEANINGS[self.value_kind] + "s" * self._several()
            if self.values > 1:
                return f"Which are all the {meaning} that nobody must learn about {keys}?"
            return f"Which {meaning} must nobody learn about {keys}?"
        verb = "is" if self.queries * self.values == 1 else "are" if self.values == 1 else "are all"
        return f"What {verb} the secret {self._noun()} of {keys}?"

    def _form(self) -> str:
        noun = _MEANINGS[self.value_kind] + "s" * self._several() if self.overlap == NONE else self._noun()
        if self.queries * self.values == 1:
            return f"the {noun}."
        return f"the {noun}, separated by commas{', in any order' if self.values > 1 else ''}."


class _Codes:
    def __init__(self, stream: Stream, task: Needles) -> None:
        self._stream = stream
        self._used: set[str] = set()
        self.key: Callable[[], str] = partial(self._fresh, task.key_kind)
        self.value = partial(self._fresh, task.value_kind)
        if task.overlap != LITERAL:
            cities = iter(stream.fork("capitals").sample(capitals(), len(capitals())))
            self.key = lambda: next(cities)[0]
        self._needle = f"{'The' if task.values == 1 else 'A'} secret {_NOUNS[task.value_kind]}"

    def line(self, key: str, value: str) -> str:
        return f"{self._needle} of {key} is {value}.\n"

    def _fresh(self, kind: str) -> str:
        while True:
            code = _CODES[kind](self._stream)
            if code not in self._used:
                self._used.add(code)
                return code


@cache
def capitals() -> list[tuple[str, str]]:
    """Capitals of one word, each with its country."""
    return [(city, country) for city, country in read_lexicon(files(__package__) / "capitals.tsv")]


def _uuid(stream: Stream) -> str:
    """A UUID of version 4: random but for the digits that say so."""
    digits = stream.letters("0123456789abcdef", 30)
    variant = "89ab"[stream.below(4)]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-{variant}{digits[15:18]}-{digits[18:]}"


_CODES: Mapping[str, Callable[[Stream], str]] = {
    "words": described,
    "numbers": lambda stream: str(stream.between(1_000_000, 9_999_999)),
    "uuids": _uuid,
}

_Starts = dict[int, tuple[Passage, int]]  # passage and first character of each needle, by place


class _Lines:
    """A haystack of lines, noise or other needles."""

    def __init__(self, stream: Stream, size: int, line: Callable[[Stream], str], others: bool) -> None:
        self.places = size
        self.drawn: dict[str, bool] = {}
        self._stream, self._line, self._others = stream, line, others

    def body(self, needles: Mapping[int, str]) -> tuple[list[Passage], _Starts]:
        n = self.places + len(needles)
        body = [Passage(needles[i] if i in needles else self._line(self._stream)) for i in range(n)]
        return body, {i: (body[i], 0) for i in needles}

    def offers(self, body: list[Passage], stream: Stream) -> Sequence[Callable[[], Offer | None]]:
        """Another needle, where the haystack has them, then a line of noise."""
        makers = [self._line, noise] if self._others else [noise]
        return [partial(offer_line, stream, body, line) for line in makers]


class _Paragraphs:
    """A haystack of essays: paragraphs in order, some of them left out until the fitter asks for them.

    They are left out evenly, so that needles keep their depth whatever is restored.
    """

    def __init__(self, stream: Stream, size: int, text: Prose) -> None:
        self._text = text
        n = size + size // _LEFT_OUT + 4
        # The first is always present: others follow it.
        self._absent = stream.sample(range(1, n), n - size)
        self._present = sorted(set(range(n)).difference(self._absent))
        self._sentences = [text.paragraph(i) for i in self._present]
        self.places = sum(map(len, self._sentences))
        # Whether the file was too short, so that its text repeats.
        self.drawn = {} if text.period is None else {"repeated": n > text.period}

    def body(self, needles: Mapping[int, str]) -> tuple[list[Passage], _Starts]:
        body: list[Passage] = []
        starts: _Starts = {}
        at = 0
        for sentences in self._sentences:
            passage, text = Passage(""), ""
            rest = iter(sentences)
            while True:
                piece = needles[at].strip() if at in needles else next(rest, "")
                if not piece:
                    break
                text += gap(text, piece)
                if at in needles:
                    starts[at] = (passage, len(text))
                text += piece
                at += 1
            passage.text = f"{text}\n\n"
            body.append(passage)
        return body, starts

    def offers(self, body: list[Passage], stream: Stream) -> Sequence[Callable[[], Offer | None]]:
        """A paragraph that was left out, the first sentence of one, or a line of noise."""
        # Restored paragraphs after each of the initial ones.
        followers: dict[int, list[int]] = {}

        def put_back(i: int, text: str) -> None:
            k = bisect.bisect(self._present, i) - 1
            at = bisect.bisect(followers.setdefault(k, []), i)
            followers[k].insert(at, i)
            body[k].followers.insert(at, text)
            self._absent.remove(i)

        def offer_sentences(n: int | None) -> Offer | None:
            if not self._absent:
                return None
            i = stream.choice(self._absent)
            text = _paragraph(self._text.paragraph(i)[:n])
            return Offer([text], [], lambda: put_back(i, text))

        line = partial(offer_line, stream, body, lambda stream: noise(stream) + "\n")
        return [lambda: offer_sentences(None), lambda: offer_sentences(1), line]


def _stack(task: Needles, stream: Stream, size: int, codes: _Codes) -> _Lines | _Paragraphs:
    if task.haystack == "essay":
        return _Paragraphs(stream.fork("order"), size, prose(stream.fork("text"), task._prose()))
    if task.haystack == "noise":
        return _Lines(stream, size, noise, others=False)
    return _Lines(stream, size, lambda _: codes.line(codes.key(), codes.value()), others=True)


def _paragraph(sentences: Sequence[str]) -> str:
    return join(sentences) + "\n\n"


def _listed(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
