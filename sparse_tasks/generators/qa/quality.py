"""QuALITY: a multiple-choice question on one long story or article, which it names (low dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, left_out, letters
from sparse_tasks.generators.qa.formats import Field, is_parquet, read_lines, read_parquet
from sparse_tasks.generators.qa.packing import ChoiceTask
from sparse_tasks.generators.task import TASKS


def read_quality(corpus: Corpus) -> Collection:
    """Reader of QuALITY: the published JSON Lines of release 1.0.1, and the Hub's form, in Parquet or JSON Lines."""
    collector = Collector(corpus)
    for path in corpus.paths:
        columns = ("article", "question", "options", "answer")
        for record in read_parquet(path, columns) if is_parquet(path) else read_lines(path):
            title = record.find("title")
            document = collector.document(record.get("article").text(), title.text() if title is not None else "")
            if (questions := record.find("questions")) is not None:
                for question in questions.items():
                    _add(collector, document, question, question.get("gold_label"), first=1)
            elif (label := record.find("gold_label")) is not None:
                _add(collector, document, record, label, first=1)
            else:
                _add(collector, document, record, record.get("answer"), first=0)
    return collector.done()


def _add(collector: Collector, document: int | None, question: Field, right: Field, first: int) -> None:
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
