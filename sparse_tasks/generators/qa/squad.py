"""SQuAD: an open question on one paragraph of Wikipedia, which the question names (low dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, clean, left_out
from sparse_tasks.generators.qa.formats import Field, is_parquet, read_json, read_parquet
from sparse_tasks.generators.qa.packing import OpenTask
from sparse_tasks.generators.task import TASKS

_Question: TypeAlias = tuple[str, list[str]]  # a question and its references; none where it cannot be answered
_Article: TypeAlias = tuple[str, list[tuple[str, list[_Question]]]]  # title, and paragraphs with questions about them


def read_squad(corpus: Corpus) -> Collection:
    """Reader of SQuAD 1.1 and 2.0: the published JSON, and the Hub's Parquet."""
    collector = Collector(corpus)
    for path in corpus.paths:
        for title, paragraphs in _articles(path):
            indexed = [(collector.document(text, title), clean(text), questions) for text, questions in paragraphs]
            near = tuple(dict.fromkeys(index for index, _, _ in indexed if index is not None))
            for index, context, questions in indexed:
                for question, answers in questions:
                    if answers:
                        collector.question(question, [index], answers, near=near, within=context.__contains__)
    return collector.done()


def _articles(path: Path) -> Iterator[_Article]:
    if is_parquet(path):
        yield from _rows(path)
        return
    for article in read_json(path).get("data").items():
        title = article.get("title").text().replace("_", " ")
        paragraphs = article.get("paragraphs").items()
        yield title, [(p.get("context").text(), [_question(qa) for qa in p.get("qas").items()]) for p in paragraphs]


def _question(qa: Field) -> _Question:
    text = qa.get("question").text()
    if (impossible := qa.find("is_impossible")) is not None and impossible.truth():
        return text, []
    return text, [answer.get("text").text() for answer in qa.get("answers").items()]


def _rows(path: Path) -> Iterator[_Article]:
    """Articles of a table with a question a row, in which the rows of an article follow each other."""
    title, paragraphs = "", dict[str, list[_Question]]()
    for row in read_parquet(path, ("title", "context", "question", "answers")):
        if (another := row.get("title").text().replace("_", " ")) != title:
            yield title, list(paragraphs.items())
            title, paragraphs = another, {}
        answers = [answer.text() for answer in row.get("answers").get("text").items()]
        paragraphs.setdefault(row.get("context").text(), []).append((row.get("question").text(), answers))
    yield title, list(paragraphs.items())


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
