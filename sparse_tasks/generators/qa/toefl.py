"""TOEFL-QA: a multiple-choice question on one lecture or conversation, which it names (low dispersion, low scope)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, left_out, letters
from sparse_tasks.generators.qa.formats import Field, read_lines
from sparse_tasks.generators.qa.packing import ChoiceTask
from sparse_tasks.generators.task import TASKS

_PREFIX = re.compile(r"\A\s*Question\s*\d*\s*[:.]\s*", re.I)
# A choice within the question's text: "A. a lecture", "(B) a lecture", on a line of its own.
_CHOICE = re.compile(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", re.M)


def read_toefl(corpus: Corpus) -> Collection:
    """Reader of TOEFL-QA as JSON Lines, in the forms that ``docs/qa.md`` has."""
    collector = Collector(corpus)
    for path in corpus.paths:
        for record in read_lines(path):
            document = collector.document(record.get("context", "passage", "article").text())
            options = record.find("options", "choices")
            if (several := record.find("questions")) is None:
                _add(collector, document, record.get("question"), options, record.get("answer"))
                continue
            questions, answers = several.items(), record.get("answer", "answers")
            if len(answers.items()) != len(questions):
                raise answers.error(f"has {len(answers.items())} members for {len(questions)} questions")
            choices = options.items() if options is not None else []
            if choices and len(choices) != len(questions):
                raise record.error(f"has {len(choices)} lists of options for {len(questions)} questions")
            for i, (question, answer) in enumerate(zip(questions, answers.items(), strict=True)):
                _add(collector, document, question, choices[i] if choices else None, answer)
    return collector.done()


def _add(collector: Collector, document: int | None, question: Field, options: Field | None, answer: Field) -> None:
    text = _PREFIX.sub("", question.text())
    if options is not None:
        choices = [option.text() for option in options.items()]
        lettered = [_CHOICE.fullmatch(choice) for choice in choices]
        if [choice and choice[1] for choice in lettered] == list(letters(len(choices))):
            choices = [choice[2] for choice in lettered if choice]
    else:
        listed = list(_CHOICE.finditer(text))
        if [choice[1] for choice in listed] != list(letters(len(listed))):
            raise question.error("has choices whose letters are not A, B, C and so on")
        choices = [choice[2] for choice in listed]
        text = text[: listed[0].start()] if listed else text
    if not 2 <= len(choices) <= 26:
        raise question.error(f"has {len(choices)} choices, not 2 to 26")
    collector.question(text, [document], _letters(answer, len(choices)), choices)


def _letters(answer: Field, n: int) -> list[str]:
    """Letters of the right choices, in order, out of ``B``, ``BD``, ``B, D`` or a list."""
    given = [item.text() for item in answer.items()] if isinstance(answer.value, list) else [answer.text()]
    words = re.split(r"[\s,;.()]+|\band\b", " ".join(given))
    right = {letter for word in words for letter in word.upper()}
    if not right or not right <= set(letters(n)):
        raise answer.error(f"is {answer.value!r}, which is not some of the letters {letters(n)}")
    return sorted(right)


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
        supply="name JSON Lines made from https://github.com/iamyuanchung/TOEFL-QA with --corpus qa_toefl=FILE "
        "(docs/qa.md says of what form)",
        licence=None,
        notices=lambda corpus: left_out(corpus, read_toefl),
    ),
)
TASKS.register(QaToefl.name, QaToefl)
