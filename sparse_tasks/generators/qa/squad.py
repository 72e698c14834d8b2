"""SQuAD: an open question on one paragraph of Wikipedia, which the question names (low dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind, read
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, clean, left_out
from sparse_tasks.generators.qa.formats import Field, is_parquet, read_json, read_parquet
from sparse_tasks.generators.qa.packing import PackedTask
from sparse_tasks.generators.task import TASKS

__all__ = ["QaSquad", "read_squad"]


def read_squad(corpus: Corpus) -> Collection:
    """SQuAD 1.1 and 2.0: the published JSON, and the Hub's Parquet.

    Unanswerable questions are dropped, which is the paper's choice; their paragraphs stay as distractors.
    """
    found = Collector(corpus)
    for path in corpus.paths:
        for title, paragraphs in _articles(path):
            _add(found, title, paragraphs)
    return found.done()


_Asked = tuple[str, list[str]]
"""A question and its references; none where it cannot be answered."""


def _articles(path: Path) -> Iterator[tuple[str, list[tuple[str, list[_Asked]]]]]:
    """Title and paragraphs of each article, a paragraph with what is asked about it."""
    if is_parquet(path):
        yield from _rows(path)
        return
    for article in read_json(path).get("data").items():
        title = article.get("title").text().replace("_", " ")
        yield (
            title,
            [
                (paragraph.get("context").text(), [_question(qa) for qa in paragraph.get("qas").items()])
                for paragraph in article.get("paragraphs").items()
            ],
        )


def _question(qa: Field) -> _Asked:
    text = qa.get("question").text()
    if qa.has("is_impossible") and qa.get("is_impossible").truth():
        return text, []
    return text, [answer.get("text").text() for answer in qa.get("answers").items()]


def _rows(path: Path) -> Iterator[tuple[str, list[tuple[str, list[_Asked]]]]]:
    """The same from a table with a question a row, in which the rows of an article follow each other."""
    title, paragraphs = "", dict[str, list[_Asked]]()
    for row in read_parquet(path, ("title", "context", "question", "answers")):
        if (another := row.get("title").text().replace("_", " ")) != title:
            yield title, list(paragraphs.items())
            title, paragraphs = another, {}
        answers = [answer.text() for answer in row.get("answers").get("text").items()]
        paragraphs.setdefault(row.get("context").text(), []).append((row.get("question").text(), answers))
    yield title, list(paragraphs.items())


def _add(found: Collector, title: str, paragraphs: Iterable[tuple[str, list[_Asked]]]) -> None:
    indexed = [(found.document(context, title), clean(context), asked) for context, asked in paragraphs]
    near = tuple(dict.fromkeys(index for index, _, _ in indexed if index is not None))
    for index, context, asked in indexed:
        for text, answers in asked:
            if answers:
                found.question(text, [index], answers, near=near, within=context.__contains__)


@dataclass(frozen=True)
class SquadTask(PackedTask):
    """What all tasks with SQuAD's questions share."""

    metric: ClassVar[str] = "token_f1"
    references: ClassVar[bool] = True
    texts: ClassVar[Mapping[str, str]] = {"corpus": "qa_squad"}

    def collection(self) -> Collection:
        return read(self.corpus, read_squad)

    def form(self, question: Question) -> str:
        return f"a few words taken from the document{'' if self.named else 's'}, and nothing else."

    def check(self, question: Question, documents: Sequence[str]) -> str | None:
        for answer in question.answers:
            if not any(answer in document for document in documents):
                return f"the answer {answer!r} is not in the document"
        return None


@dataclass(frozen=True)
class QaSquad(SquadTask):
    """Asks an open question of SQuAD (Rajpurkar et al. 2018) about one numbered paragraph among others."""

    name: ClassVar[str] = "qa_squad"
    summary: ClassVar[str] = "an open question on one numbered document among others (SQuAD)"


CORPORA.register(
    "qa_squad",
    Kind(
        name="qa_squad",
        summary="SQuAD 2.0: questions on paragraphs of Wikipedia",
        supply="take --corpus qa_squad=hub, or dev-v2.0.json from https://rajpurkar.github.io/SQuAD-explorer with "
        "--corpus qa_squad=FILE",
        licence="CC BY-SA 4.0",
        hub="rajpurkar/squad_v2@3ffb306f725f7d2ce8394bc1873b24868140c412",
        files=("squad_v2/validation-00000-of-00001.parquet",),
        hashes=("0560174ab095c5ac0a8c8dc8da05f1625453c45a77e4ce9cabc6947ddfdd24cb",),
        notices=lambda corpus: left_out(corpus, read(corpus.sha256, read_squad)),
    ),
)
TASKS.register(QaSquad.name, QaSquad)
