"""QuALITY: a multiple-choice question on one long story or article, which it names (low dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.choices import read_questions
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, Unusable, left_out, letters
from sparse_tasks.generators.qa.formats import Field, read_records, unknown
from sparse_tasks.generators.qa.packing import ChoiceTask
from sparse_tasks.generators.task import TASKS

_FORMS = (
    "QuALITY is read from JSON Lines or JSON, also packed with gzip, of articles (article, questions with options and "
    "gold_label; or context, questions, answer) or of questions (article, question, options, answer), or from Parquet "
    "with these four columns"
)
_COLUMNS = ("article", "question", "options", "answer")


def read_quality(corpus: Corpus) -> Collection:
    """Reader of QuALITY, in the forms in ``docs/qa.md``: choices are counted from 1, from 0, or have letters."""
    collector = Collector(corpus)
    for path in corpus.paths:
        for record in read_records(path, _FORMS, _COLUMNS):
            if record.find("questions", "question") is None:
                raise unknown(record)
            title = record.find("title")
            document = collector.document(
                record.get("article", "context").text(), title.text() if title is not None else ""
            )
            questions, label, answer = record.find("questions"), record.find("gold_label"), record.find("answer")
            if answer is not None and (questions is not None or isinstance(answer.value, str)):
                read_questions(collector, document, record)
            elif questions is not None:
                for question in questions.items():
                    _add(collector, document, question, question.get("gold_label"), first=1)
            elif label is not None:
                _add(collector, document, record, label, first=1)
            else:
                _add(collector, document, record, record.get("answer"), first=0)
    return collector.done()


def _add(collector: Collector, document: int | Unusable, question: Field, right: Field, first: int) -> None:
    options = [option.text() for option in question.get("options").items()]
    if not 2 <= len(options) <= 26:
        raise question.get("options").error(f"has {len(options)} members, not 2 to 26")
    if not first <= right.number() < first + len(options):
        last = first + len(options) - 1
        raise right.error(f"is {right.number()}, and the options have the numbers {first} to {last}")
    letter = letters(26)[right.number() - first]
    collector.question(question.get("question").text(), [document], [letter], options)


@dataclass(frozen=True)
class QaQuality(ChoiceTask):
    """Asks a multiple-choice question of QuALITY (Pang et al. 2022) about one numbered article among others."""

    name = "qa_quality"
    summary = "a multiple-choice question on one long numbered document among others (QuALITY)"
    texts: ClassVar[Mapping[str, str]] = {"corpus": "qa_quality"}
    reader = staticmethod(read_quality)

    def form(self, question: Question) -> str:
        known = letters(len(question.choices))
        return f"the letter of the right choice alone ({', '.join(known[:-1])} or {known[-1]})."


CORPORA.register(
    "qa_quality",
    Kind(
        name="qa_quality",
        summary="QuALITY 1.0.1: multiple-choice questions on stories and articles of some 5,000 words",
        supply="take QuALITY.v1.0.1.htmlstripped.dev from https://github.com/nyu-mll/quality with "
        "--corpus qa_quality=FILE, or the copy --corpus qa_quality=emozilla/quality",
        licence="CC BY 4.0",
        notices=lambda corpus: left_out(corpus, read_quality),
    ),
)
TASKS.register(QaQuality.name, QaQuality)
