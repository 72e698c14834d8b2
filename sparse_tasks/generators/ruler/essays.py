"""Essays for haystacks: generated without limit, or from a user's file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sparse_tasks.core.errors import BadFileError
from sparse_tasks.core.tokenizers import NEVER
from sparse_tasks.generators.corpora import CORPORA, UNENCODABLE, Corpus, Kind, read
from sparse_tasks.generators.prose.grammar import Rule, read_grammars
from sparse_tasks.generators.qa.formats import decode, read_bytes
from sparse_tasks.generators.qa.sentences import dense, join, pieces, split_wide
from sparse_tasks.generators.ruler.noise import read_lines
from sparse_tasks.generators.seeds import Stream

if TYPE_CHECKING:
    from sparse_tasks.core.tokenizers import PromptTokenizer

# Paragraphs of a generated essay; the next one has another subject.
_ESSAY = 8
_MIDDLE = ("Claim", "Detail", "Example", "History", "Objection")
# The text of a file is cut into paragraphs and sentences no longer than these; a paragraph, so also a sentence, has at
# most so many characters of words that no blank divides.
_SENTENCES, _WORDS, _DENSE = 8, 80, 120
# Minimum text of a file, or its few sentences would repeat too often.
_FEWEST_CHARACTERS = 5_000
_NEEDED = f"a haystack needs {_FEWEST_CHARACTERS:,} or more"
_MOST_BYTES = 2**28
# Data in letters, which is not language.
_LONGEST_WORD = 1_000
_LONG_WORD = re.compile(rf"(?<![!-~])[!-~]{{{_LONGEST_WORD}}}")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# After a stop with or without a closing quote, but not after an initial or a title (J., Dr.).
_END_OF_SENTENCE = re.compile(
    r"(?:(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)|(?<=[.!?][\"'”’)]))\s+(?=[\"'“‘(]*[^\W_a-z])"
)


def prose(stream: Stream, text: list[list[str]] | None) -> Prose:
    """Prose of one sample: paragraphs of a file from a random one on, or, without them, generated ones."""
    return _Generated(stream) if text is None else _Quoted(text, stream.below(len(text)))


@lru_cache(maxsize=16)
def encodable(sha256: str, tokenizer: PromptTokenizer) -> tuple[list[list[str]], int]:
    """Paragraphs of the file of a hash, and the number of sentences that are left out of them.

    Left out are those that spell a control token which the tokenizer cannot encode as text.

    Raises:
        BadFileError: Too little is left.
    """

    def fits(text: str) -> bool:
        return tokenizer.spells_control(text) is None or tokenizer.cost(f"{text}\n") < NEVER

    paragraphs: list[list[str]] = []
    left_out = 0
    for sentences in read(sha256, read_essays):
        rest = sentences
        if not fits(join(sentences)):
            rest = [sentence for sentence in sentences if fits(sentence)]
            # Pieces of a text without blanks may together spell a token.
            rest = rest if fits(join(rest)) else []
            left_out += len(sentences) - len(rest)
        if rest:
            paragraphs.append(rest)
    if left_out and (characters := _characters(paragraphs)) < _FEWEST_CHARACTERS:
        raise BadFileError(
            f"essays: without the sentences left out {UNENCODABLE}, {characters:,} characters remain; {_NEEDED}"
        )
    return paragraphs, left_out


class _Generated:
    """Essays on consecutive subjects; each paragraph is drawn independently."""

    period = None  # they never repeat

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._subjects = list(read_lines("essays/subjects.txt"))
        stream.fork("subjects").shuffle(self._subjects)

    def paragraph(self, i: int) -> list[str]:
        essay, place = divmod(i, _ESSAY)
        stream = self._stream.fork("paragraph", i)
        middle = stream.sample(_MIDDLE, stream.between(3, 5))
        names = ["Opening", *middle] if place == 0 else [*middle, "Closing"] if stream.below(2) else middle
        subject, grammars = self._subjects[essay % len(self._subjects)], _grammars()
        return [_about(subject, grammars[name].expand(stream)) for name in names]


class _Quoted:
    """Paragraphs of a file from a given one on, wrapping around."""

    def __init__(self, text: list[list[str]], start: int) -> None:
        self._text, self._start = text, start
        self.period = len(text)

    def paragraph(self, i: int) -> list[str]:
        return self._text[(self._start + i) % self.period]


Prose: TypeAlias = _Generated | _Quoted
"""Paragraphs of sentences in order, without end; ``period`` is the number after which they come again."""


@cache
def _grammars() -> dict[str, Rule]:
    return read_grammars(files(__package__) / "essays")


def _about(subject: str, sentence: str) -> str:
    return sentence.replace("{s}", subject).replace("{S}", subject[0].upper() + subject[1:])


def read_essays(corpus: Corpus) -> list[list[str]]:
    """Text of a file as paragraphs of sentences, else a BadFileError; blank lines end paragraphs."""
    (path,) = corpus.paths
    try:
        return _paragraphs(path, corpus.sha256)
    except BadFileError as error:
        raise BadFileError(f"essays: {error}") from error


def _paragraphs(path: Path, sha256: str) -> list[list[str]]:
    content = read_bytes(path, _MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BadFileError(f"{path} was changed since this run began; give the command again")
    text = decode(content, str(path)).replace("\r\n", "\n").replace("\r", "\n")
    problems = {_CONTROL: "a control character", _LONG_WORD: f"a word of {_LONGEST_WORD:,} characters"}
    for pattern, problem in problems.items():
        if match := pattern.search(text):
            line = text.count("\n", 0, match.start()) + 1
            raise BadFileError(f"{path}, line {line}: {problem}; essays have to be plain text")
    paragraphs: list[list[str]] = []
    for block in re.split(r"\n\s*\n", text):
        paragraphs += _grouped(_sentences(join(block.split())))
    if (characters := _characters(paragraphs)) < _FEWEST_CHARACTERS:
        raise BadFileError(f"{path} holds {characters:,} characters of text; {_NEEDED}")
    return paragraphs


def _characters(paragraphs: list[list[str]]) -> int:
    return sum(len(sentence) for sentences in paragraphs for sentence in sentences)


def _sentences(text: str) -> Iterator[str]:
    """Sentences of a text, long ones cut: at some blank, or where no blank divides words at some pause or character."""
    for sentence in _END_OF_SENTENCE.split(text):
        for part in split_wide(sentence):
            words = part.split()
            for i in range(0, len(words), _WORDS):
                yield from pieces(" ".join(words[i : i + _WORDS]), _DENSE)


def _grouped(sentences: Iterable[str]) -> Iterator[list[str]]:
    group, extent = list[str](), 0
    for sentence in sentences:
        # Almost without sentences, two pieces make a paragraph.
        more = _DENSE // 2 if sentence.count(" ") == _WORDS - 1 else dense(sentence)
        if len(group) == _SENTENCES or (group and extent + more > _DENSE):
            yield group
            group, extent = [], 0
        group, extent = [*group, sentence], extent + more
    if group:
        yield group


CORPORA.register(
    "essays",
    Kind("essays", "text for haystacks of essays", "name a text file in UTF-8, such as --essays essays.txt", None),
)
