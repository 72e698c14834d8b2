"""Documents of a corpus and the questions about them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sparse_tasks.core.errors import BadFileError
from sparse_tasks.generators.corpora import Corpus, read

END = "The documents end here."  # line between documents and question

_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f]")
# Control characters, the soft hyphen, the zero-width space, the word joiner, the byte order mark.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f\u00ad\u200b\u2060\ufeff]")
# Lines that structure prompts; a document containing one would look like several.
_RESERVED = re.compile(rf"^(?:Document \d+|{re.escape(END)})$", re.M)


def heading(number: int) -> str:
    """Line above a document."""
    return f"Document {number}\n"


def letters(n: int) -> str:
    """The letters of ``n`` choices."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:n]


def clean(text: str) -> str:
    """``text`` without control characters, white space around lines, and two empty lines in a row."""
    lines = [line.strip() for line in _BREAK.split(_CONTROL.sub("", text))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def comparable(text: str) -> str:
    """``text`` for a comparison: composed, without invisible characters, its words one blank apart.

    Both sides are normalised with it, so that neither spaces nor forms of accents distinguish them.
    """
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def holds(document: str, answer: str) -> bool:
    """Whether a document contains an answer, regardless of spacing and composition."""
    return comparable(answer) in comparable(document)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one document or several."""

    text: str  # on one line
    gold: tuple[int, ...]  # indices of the documents that it is about
    answers: tuple[str, ...]  # references, the most frequent first; or the letters of the right choices, in order
    choices: tuple[str, ...] = ()  # none for an open question
    near: Sequence[int] = ()  # documents that came with it, including those in ``gold`` if the corpus does

    @property
    def answer(self) -> str:
        """Gold answer as a perfect model writes it."""
        return ", ".join(self.answers) if self.choices else self.answers[0]


@dataclass(frozen=True)
class Collection:
    """Documents and questions of a corpus."""

    documents: tuple[str, ...]  # distinct
    questions: tuple[Question, ...]  # distinct by text and documents
    left_out: Counter[str]  # omitted questions, by reason

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(document.encode() + b"\0")
        return digest.hexdigest()

    @cached_property
    def by_text(self) -> dict[str, list[Question]]:
        by_text: dict[str, list[Question]] = {}
        for question in self.questions:
            by_text.setdefault(question.text, []).append(question)
        return by_text


@dataclass(frozen=True, slots=True)
class Unusable:
    """A document without usable questions."""

    why: str  # as in: whose document ...


class Collector:
    """Builder of a ``Collection``."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._documents: dict[str, int | Unusable] = {}
        self._n = 0
        self._questions: dict[tuple[str, tuple[str, ...], tuple[int, ...]], Question] = {}
        self._left_out: Counter[str] = Counter()

    def document(self, text: str, title: str = "") -> int | Unusable:
        """Add a document unless it is known; returns its index, or why it cannot be used."""
        name, body = clean(title), clean(text)
        whole = f"{name}\n{body}" if name else body
        if whole not in self._documents:
            if not body:
                self._documents[whole] = Unusable("is empty")
            elif _RESERVED.search(whole):
                self._documents[whole] = Unusable("holds a line like a heading of this package")
            else:
                self._documents[whole] = self._n
                self._n += 1
        return self._documents[whole]

    def question(
        self,
        text: str,
        gold: Iterable[int | Unusable],
        answers: Iterable[str],
        choices: Iterable[str] = (),
        near: Sequence[int] = (),
        within: Callable[[str], bool] | None = None,
    ) -> None:
        """Add a question, or count it as left out.

        ``gold`` are results of ``document``; ``within`` tells whether an open answer is where it should be: references
        that are not are dropped.
        """
        gold = list(gold)
        documents = tuple(index for index in gold if isinstance(index, int))
        text, choices = " ".join(text.split()), tuple(" ".join(choice.split()) for choice in choices)
        answers = [" ".join(answer.split()) for answer in answers if answer.strip()]
        # Metrics compare words, so an answer of only punctuation could not be given.
        spoken = [answer for answer in answers if any(map(str.isalnum, answer))]
        # The same words may be asked twice with other choices.
        key = text.casefold(), choices, documents
        if not text:
            self.leave_out("without words")
        elif END in text:
            self.leave_out(f"that hold {END!r}, by which prompts are read")
        elif unusable := [one for one in gold if isinstance(one, Unusable)]:
            self.leave_out(f"whose document {unusable[0].why}")
        elif not all(choices):
            self.leave_out("with an empty choice")
        elif not answers:
            self.leave_out("without an answer")
        elif not spoken:
            self.leave_out("whose answer has no letter or digit")
        elif within is not None and not (spoken := [answer for answer in spoken if within(answer)]):
            self.leave_out("whose answer is not in their document")
        elif key in self._questions:
            self.leave_out("that occur twice")
        else:
            ranked = spoken if choices else [answer for answer, _ in Counter(spoken).most_common()]
            self._questions[key] = Question(text, documents, tuple(ranked), choices, near)

    def leave_out(self, reason: str) -> None:
        self._left_out[reason] += 1

    def done(self) -> Collection:
        """The finished collection; a BadFileError if it has no question."""
        if not self._questions:
            why = f": {_counted(self._left_out)}" if self._left_out else ""
            raise BadFileError(f"{self._corpus.origin} holds no question that {self._corpus.name} can ask{why}")
        documents = tuple(text for text, index in self._documents.items() if isinstance(index, int))
        return Collection(documents, tuple(self._questions.values()), self._left_out)


def left_out(corpus: Corpus, reader: Callable[[Corpus], Collection]) -> list[str]:
    """Read a mounted corpus, and report which questions were left out and why."""
    reasons = read(corpus.sha256, reader).left_out
    return [f"{corpus.name} ({corpus.origin}): left out {_counted(reasons)}"] if reasons else []


def _counted(reasons: Counter[str]) -> str:
    return "; ".join(f"{n:,} question{'s' * (n != 1)} {why}" for why, n in reasons.items())
