"""TOEFL-QA: a multiple-choice question on one lecture or conversation, which it names (low dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.choices import read_questions
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, left_out
from sparse_tasks.generators.qa.formats import read_records, unknown
from sparse_tasks.generators.qa.packing import ChoiceTask
from sparse_tasks.generators.task import TASKS

_FORMS = (
    "TOEFL-QA is read from JSON Lines or JSON, also packed with gzip, of passages (context, questions, answer) or of "
    "questions (context, question, options, answer)"
)


def read_toefl(corpus: Corpus) -> Collection:
    """Reader of TOEFL-QA, in the forms that ``docs/qa.md`` has."""
    collector = Collector(corpus)
    for path in corpus.paths:
        for record in read_records(path, _FORMS):
            if record.find("questions", "question") is None:
                raise unknown(record)
            document = collector.document(record.get("context", "passage", "article").text())
            read_questions(collector, document, record)
    return collector.done()


@dataclass(frozen=True)
class QaToefl(ChoiceTask):
    """Asks a multiple-choice question of TOEFL-QA (Tseng et al. 2016) about one numbered transcript among others.

    Some questions have more than one right choice; the answer is all of their letters.
    """

    name = "qa_toefl"
    summary = "a multiple-choice question on one numbered transcript among others (TOEFL-QA)"
    texts: ClassVar[Mapping[str, str]] = {"corpus": "qa_toefl"}
    reader = staticmethod(read_toefl)

    def form(self, question: Question) -> str:
        return "the letter of the right choice alone, or all letters, separated by commas, where several are right."


CORPORA.register(
    "qa_toefl",
    Kind(
        name="qa_toefl",
        summary="TOEFL-QA: multiple-choice questions on transcripts of lectures and conversations",
        supply="take toeflqa.jsonl of https://github.com/PiotrNawrot/sparse-frontier, or make JSON Lines (docs/qa.md "
        "says of what form) from https://github.com/iamyuanchung/TOEFL-QA, with --corpus qa_toefl=FILE",
        licence=None,
        notices=lambda corpus: left_out(corpus, read_toefl),
    ),
)
TASKS.register(QaToefl.name, QaToefl)
