"""Documents and the questions about them, whatever format they came in."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sparse_tasks.core.errors import BadFileError
from sparse_tasks.generators.corpora import Corpus

__all__ = ["END", "Collection", "Collector", "Question", "clean", "heading", "letters"]

END = "The documents end here."
"""Stands between documents and question."""

_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f]")
# What a prompt is read by; a document with such a line could not be told from several.
_RESERVED = re.compile(rf"^(?:Document \d+|{re.escape(END)})$", re.M)


def heading(number: int) -> str:
    """The line above a document."""
    return f"Document {number}\n"


def letters(n: int) -> str:
    """The letters of so many choices."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:n]


def clean(text: str) -> str:
    """A text without white space at its ends and at those of its lines, and without two empty lines in a row."""
    lines = [line.strip() for line in _BREAK.split(_CONTROL.sub("", text))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one document or several.

    Attributes:
        text: On one line.
        gold: Indices of the documents that it is about.
        answers: References, the most frequent first; or the letters of the right choices, in order.
        choices: The texts to choose from; none where the answer is open.
        near: Indices of the documents that came with it, those in ``gold`` perhaps among them.
    """

    text: str
    gold: tuple[int, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    near: Sequence[int] = ()

    @property
    def answer(self) -> str:
        """As a perfect model writes it."""
        return ", ".join(self.answers) if self.choices else self.answers[0]


@dataclass(frozen=True)
class Collection:
    """All of a corpus.

    Attributes:
        documents: Different from each other.
        questions: No two with the same text about the same documents.
        left_out: How many questions were left out, by reason.
    """

    documents: tuple[str, ...]
    questions: tuple[Question, ...]
    left_out: Counter[str]

    @cached_property
    def sha256(self) -> str:
        """Hash of the documents."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(document.encode() + b"\0")
        return digest.hexdigest()

    @cached_property
    def by_text(self) -> dict[str, list[Question]]:
        """The questions, by their text."""
        found: dict[str, list[Question]] = {}
        for question in self.questions:
            found.setdefault(question.text, []).append(question)
        return found


class Collector:
    """Gathers a ``Collection`` from what a reader finds.

    Args:
        corpus: What it is read from.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._documents: dict[str, int | None] = {}
        self._n = 0
        self._questions: dict[tuple[str, tuple[int, ...]], Question] = {}
        self._left_out: Counter[str] = Counter()

    def document(self, text: str, title: str = "") -> int | None:
        """The index of a document, which may have been there before; None if it cannot be used."""
        name, body = clean(title), clean(text)
        whole = f"{name}\n{body}" if name else body
        if whole not in self._documents:
            usable = bool(body) and not _RESERVED.search(whole)
            self._documents[whole] = self._n if usable else None
            self._n += usable
        return self._documents[whole]

    def question(
        self,
        text: str,
        gold: Iterable[int | None],
        answers: Iterable[str],
        choices: Iterable[str] = (),
        near: Sequence[int] = (),
        within: Callable[[str], bool] | None = None,
    ) -> None:
        """One more question, unless it is left out.

        Args:
            text: The question.
            gold: The documents that it is about; None where one could not be used.
            answers: References, or letters.
            choices: Texts to choose from.
            near: Documents that came with it.
            within: Tells whether an open answer stands where it should; one that does not is no reference.
        """
        documents = tuple(index for index in gold if index is not None)
        asked, options = " ".join(text.split()), tuple(" ".join(choice.split()) for choice in choices)
        given = [" ".join(answer.split()) for answer in answers]
        # Metrics compare words: an answer of signs alone could not be given.
        given = [answer for answer in given if any(map(str.isalnum, answer))]
        if not asked or END in asked:
            self.leave_out("without words")
        elif len(documents) < len(list(gold)):
            self.leave_out("whose document is empty or holds a line like a heading of this package")
        elif not all(options):
            self.leave_out("with an empty choice")
        elif not given:
            self.leave_out("without an answer")
        elif within is not None and not (given := [answer for answer in given if within(answer)]):
            self.leave_out("whose answer is not in their document")
        elif (asked.casefold(), documents) in self._questions:
            self.leave_out("that stand there twice")
        else:
            ranked = given if options else [answer for answer, _ in Counter(given).most_common()]
            key = asked.casefold(), documents
            self._questions[key] = Question(asked, documents, tuple(ranked), options, near)

    def leave_out(self, reason: str) -> None:
        """Count a question that is not asked."""
        self._left_out[reason] += 1

    def done(self) -> Collection:
        """All of it.

        Raises:
            BadFileError: There is no question.
        """
        if not self._questions:
            why = f": {_counted(self._left_out)}" if self._left_out else ""
            raise BadFileError(f"{self._corpus.origin} holds no question that {self._corpus.name} can ask{why}")
        documents = tuple(text for text, index in self._documents.items() if index is not None)
        return Collection(documents, tuple(self._questions.values()), self._left_out)


def left_out(corpus: Corpus, collection: Collection) -> list[str]:
    """What a user should know of a corpus that was read."""
    if not collection.left_out:
        return []
    return [f"{corpus.name} ({corpus.origin}): left out {_counted(collection.left_out)}"]


def _counted(reasons: Counter[str]) -> str:
    return "; ".join(f"{n:,} question{'s' * (n != 1)} {why}" for why, n in reasons.items())
