"""Multiple-choice questions as others write them: choices in lists, on lines, or within the question's own line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparse_tasks.generators.qa.collection import Collector, Unusable, letters
from sparse_tasks.generators.qa.formats import Field

_PREFIX = re.compile(r"\A\s*Question\s*\d*\s*[:.]\s*", re.I)
_HEADING = re.compile(r"\b(?:Options|Choices)\s*:\s*", re.I)
# A choice on a line of its own: "A. a lecture", "(B) a lecture".
_LINE = re.compile(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", re.M)
# The beginning of a choice among others on a line: "A.to sign up B.to report", "(A) to sign up (B) to report".
_MARK = re.compile(r"(?:^|(?<=\s))(\(?)([A-Z])([.):])(\s*)(?=\S)")


def read_questions(collector: Collector, document: int | Unusable, record: Field) -> None:
    """Add a record's questions about one document: one, or several with as many answers.

    ``question`` or ``questions``, ``options`` or ``choices`` (else they stand in the question's text), and letters in
    ``answer`` or ``answers``.
    """
    options = record.find("options", "choices")
    if (several := record.find("questions")) is None:
        _add(collector, document, record.get("question"), options, record.get("answer"))
        return
    questions, answers = several.items(), record.get("answer", "answers")
    if len(answers.items()) != len(questions):
        raise answers.error(f"has {len(answers.items())} members for {len(questions)} questions")
    choices = options.items() if options is not None else []
    if choices and len(choices) != len(questions):
        raise record.error(f"has {len(choices)} lists of options for {len(questions)} questions")
    for i, (question, answer) in enumerate(zip(questions, answers.items(), strict=True)):
        _add(collector, document, question, choices[i] if choices else None, answer)


def _add(collector: Collector, document: int | Unusable, question: Field, options: Field | None, answer: Field) -> None:
    text = _PREFIX.sub("", question.text())
    if options is not None:
        choices = _without_letters([option.text() for option in options.items()])
    else:
        text, choices = _split(question, text)
    if not 2 <= len(choices) <= 26:
        raise question.error(f"has {len(choices)} choices, not 2 to 26")
    collector.question(text, [document], _letters(answer, len(choices)), choices)


def _without_letters(choices: Sequence[str]) -> Sequence[str]:
    lettered = [_LINE.fullmatch(choice) for choice in choices]
    if [choice and choice[1] for choice in lettered] == list(letters(len(choices))):
        return [choice[2] for choice in lettered if choice]
    return choices


def _split(question: Field, text: str) -> tuple[str, list[str]]:
    """A question and the choices that stand in its text."""
    if len(listed := list(_LINE.finditer(text))) > 1:
        _check([choice[1] for choice in listed], question)
        return _HEADING.sub("", text[: listed[0].start()]), [choice[2] for choice in listed]
    heading = _HEADING.search(text)
    marks = list(_MARK.finditer(text, heading.end() if heading else 0))
    if not marks:
        return text, []
    # All are written as the first one is; so in "A.Robert E. Lee" the E begins no choice.
    form = [marks[0][1], marks[0][3], bool(marks[0][4])]
    marks = [mark for mark in marks if [mark[1], mark[3], bool(mark[4])] == form]
    _check([mark[2] for mark in marks], question)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    choices = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    return text[: heading.start() if heading else marks[0].start()], choices


def _check(listed: Sequence[str], question: Field) -> None:
    if list(listed) != list(letters(len(listed))):
        raise question.error("has choices whose letters are not A, B, C and so on")


def _letters(answer: Field, n: int) -> list[str]:
    """Letters of the right choices, in order, out of ``B``, ``BD``, ``B, D`` or a list."""
    given = [item.text() for item in answer.items()] if isinstance(answer.value, list) else [answer.text()]
    words = re.split(r"[\s,;.()]+|\band\b", " ".join(given))
    right = {letter for word in words for letter in word.upper()}
    if not right or not right <= set(letters(n)):
        raise answer.error(f"is {answer.value!r}, which is not some of the letters {letters(n)}")
    return sorted(right)
