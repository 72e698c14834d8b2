"""Essays for haystacks: made ones, without end, or the text of a file that the user names."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from sparse_tasks.core.errors import BadFileError
from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind, read
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import Rule, read_grammars

__all__ = ["Prose", "prose"]

# Paragraphs of a made essay; the next one has another subject.
_ESSAY = 8
_MIDDLE = ("Claim", "Detail", "Example", "History", "Objection")
# The text of a file is cut into paragraphs and sentences no longer than these.
_SENTENCES, _WORDS, _LONGEST_WORD = 8, 80, 1_000
# A file has to hold this much text, or its few sentences would come again and again.
_FEWEST_CHARACTERS = 5_000
_MOST_BYTES = 2**28
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# Behind a stop with or without a closing quote, but not behind an initial or a title (J., Dr.).
_END_OF_SENTENCE = re.compile(
    r"(?:(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)|(?<=[.!?][\"'”’)]))\s+(?=[\"'“‘(]*[^\W_a-z])"
)


class Prose(ABC):
    """Paragraphs in order, as many as anybody wants."""

    @abstractmethod
    def paragraph(self, i: int) -> list[str]:
        """The sentences of one paragraph."""

    @property
    def paragraphs(self) -> int | None:
        """After how many paragraphs they come again; None: never."""
        return None


def prose(stream: Stream, sha256: str) -> Prose:
    """The prose of one sample: made, or taken from a file from a paragraph on that is drawn.

    Args:
        sha256: The file's; empty for made essays.
    """
    if not sha256:
        return _Made(stream)
    text = read(sha256, read_essays)
    return _Taken(text, stream.below(len(text)))


class _Made(Prose):
    """Essays on one subject after the other; each paragraph is drawn by itself."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._order: list[str] = []

    def paragraph(self, i: int) -> list[str]:
        essay, place = divmod(i, _ESSAY)
        stream = self._stream.fork("paragraph", i)
        middle = stream.sample(_MIDDLE, stream.between(3, 5))
        names = ["Opening", *middle] if place == 0 else [*middle, "Closing"] if stream.below(2) else middle
        subject, grammars = self._subject(essay), _grammars()
        return [_about(subject, grammars[name].expand(stream)) for name in names]

    def _subject(self, essay: int) -> str:
        subjects = _subjects()
        if not self._order:
            self._order = list(subjects)
            self._stream.fork("subjects").shuffle(self._order)
        return self._order[essay % len(subjects)]


class _Taken(Prose):
    """The paragraphs of a file, from one on; after the last comes the first."""

    def __init__(self, text: list[list[str]], start: int) -> None:
        self._text, self._start = text, start

    def paragraph(self, i: int) -> list[str]:
        return self._text[(self._start + i) % len(self._text)]

    @property
    def paragraphs(self) -> int | None:
        return len(self._text)


@cache
def _grammars() -> dict[str, Rule]:
    return read_grammars(files(__package__) / "essays")


@cache
def _subjects() -> list[str]:
    text = (files(__package__) / "essays" / "subjects.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _about(subject: str, sentence: str) -> str:
    return sentence.replace("{s}", subject).replace("{S}", subject[0].upper() + subject[1:])


def read_essays(corpus: Corpus) -> list[list[str]]:
    """The text of a file as paragraphs of sentences; blank lines are where paragraphs end.

    Raises:
        BadFileError: It is no text in UTF-8, or too little of it.
    """
    (path,) = corpus.paths
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise BadFileError(f"essays: {path} has {size:,} bytes; at most {_MOST_BYTES:,} are read")
        content = path.read_bytes()
    except OSError as error:
        raise BadFileError(f"essays: {path} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != corpus.sha256:
        raise BadFileError(f"essays: {path} was changed since this run began; give the command again")
    paragraphs: list[list[str]] = []
    for block in re.split(r"\n\s*\n", _decoded(content, str(path))):
        sentences = list(_sentences(" ".join(block.split())))
        paragraphs += [sentences[i : i + _SENTENCES] for i in range(0, len(sentences), _SENTENCES)]
    characters = sum(len(sentence) for sentences in paragraphs for sentence in sentences)
    if characters < _FEWEST_CHARACTERS:
        raise BadFileError(
            f"essays: {path} holds {characters:,} characters of text; a haystack needs {_FEWEST_CHARACTERS:,} or more"
        )
    return paragraphs


def _decoded(content: bytes, path: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFileError(
            f"essays: {path}, line {line}: byte {content[error.start]:#04x} is no UTF-8; save the file as plain text "
            "in UTF-8"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if odd := _CONTROL.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise BadFileError(f"essays: {path}, line {line}: control character {ord(odd[0]):#04x}; this is no plain text")
    if long := re.search(rf"(?<!\S)\S{{{_LONGEST_WORD}}}", text):
        line = text.count("\n", 0, long.start()) + 1
        raise BadFileError(f"essays: {path}, line {line}: a word of {_LONGEST_WORD:,} characters; this is no prose")
    return text


def _sentences(text: str) -> Iterator[str]:
    """Cut where a sentence ends, and long ones at some blank."""
    for sentence in _END_OF_SENTENCE.split(text):
        words = sentence.split()
        for i in range(0, len(words), _WORDS):
            yield " ".join(words[i : i + _WORDS])


CORPORA.register(
    "essays",
    Kind(
        "essays",
        "text for haystacks of essays",
        "name a text file in UTF-8, such as --essays essays.txt",
        None,
    ),
)
