"""SQuAD: an open question on one paragraph of Wikipedia, which the question names (low dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, clean, comparable, left_out
from sparse_tasks.generators.qa.formats import Field, read_records, unknown
from sparse_tasks.generators.qa.packing import OpenTask
from sparse_tasks.generators.task import TASKS

_FORMS = (
    "SQuAD is read from JSON or JSON Lines, also packed with gzip, of data or of articles (title, paragraphs), or of "
    "questions (title, context, question, answers), or from Parquet with these four columns"
)
_COLUMNS = ("title", "context", "question", "answers")


@dataclass(frozen=True)
class _Paragraph:
    text: str
    questions: Sequence[Field]


def read_squad(corpus: Corpus) -> Collection:
    """Reader of SQuAD 1.1 and 2.0: the published JSON, and the Hub's rows, in every form that ``_FORMS`` has."""
    collector = Collector(corpus)
    for path in corpus.paths:
        for title, paragraphs in _articles(path):
            indexed = [(collector.document(one.text, title), one) for one in paragraphs]
            near = tuple(dict.fromkeys(index for index, _ in indexed if isinstance(index, int)))
            for index, paragraph in indexed:
                within = partial(_within, comparable(clean(paragraph.text)))
                for question in paragraph.questions:
                    text, answers = question.get("question").text(), _answers(question)
                    if answers is None:
                        collector.leave_out("that cannot be answered")
                    else:
                        collector.question(text, [index], answers, near=near, within=within)
    return collector.done()


def _within(paragraph: str, answer: str) -> bool:
    return comparable(answer) in paragraph


def _articles(path: Path) -> Iterator[tuple[str, list[_Paragraph]]]:
    """Articles with their titles; in rows, consecutive ones with the same title."""
    records = read_records(path, _FORMS, _COLUMNS)
    for is_row, group in groupby(records, lambda record: record.find("question") is not None):
        if not is_row:
            for record in group:
                if (listed := record.find("data")) is not None:
                    yield from map(_article, listed.items())
                elif record.find("paragraphs") is not None:
                    yield _article(record)
                else:
                    raise unknown(record)
            continue
        for title, rows in groupby(group, lambda row: row.get("title").text()):
            paragraphs: dict[str, list[Field]] = {}  # its questions may not be adjacent
            for row in rows:
                paragraphs.setdefault(row.get("context").text(), []).append(row)
            yield title.replace("_", " "), [_Paragraph(text, asked) for text, asked in paragraphs.items()]


def _article(article: Field) -> tuple[str, list[_Paragraph]]:
    paragraphs = [
        _Paragraph(paragraph.get("context").text(), paragraph.get("qas").items())
        for paragraph in article.get("paragraphs").items()
    ]
    return article.get("title").text().replace("_", " "), paragraphs


def _answers(question: Field) -> list[str] | None:
    """References of a question, from the published JSON or the Hub's rows; None if it cannot be answered."""
    if (impossible := question.find("is_impossible")) is not None and impossible.truth():
        return None
    answers = question.get("answers")
    if isinstance(answers.value, list):
        return [answer.get("text").text() for answer in answers.items()]
    return [answer.text() for answer in answers.get("text").items()] or None  # the only mark in SQuAD 2.0's rows


@dataclass(frozen=True)
class SquadTask(OpenTask):
    """Base of the tasks with SQuAD's questions."""

    texts: ClassVar[Mapping[str, str]] = {"corpus": "qa_squad"}
    reader = staticmethod(read_squad)

    def form(self, question: Question) -> str:
        return f"a few words taken from the document{'' if self.named else 's'}, and nothing else."


@dataclass(frozen=True)
class QaSquad(SquadTask):
    """Asks an open question of SQuAD (Rajpurkar et al. 2018) about one numbered paragraph among others."""

    name = "qa_squad"
    summary = "an open question on one numbered document among others (SQuAD)"


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
        notices=lambda corpus: left_out(corpus, read_squad),
    ),
)
TASKS.register(QaSquad.name, QaSquad)
