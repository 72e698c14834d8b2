"""Multiple-choice questions in third-party forms: choices in lists, on lines, or within the question's line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparse_tasks.generators.qa.collection import Collector, Unusable, letters
from sparse_tasks.generators.qa.formats import Field

_PREFIX = re.compile(r"\A\s*Question\s*\d*\s*[:.]\s*", re.I)
_HEADING = re.compile(r"\b(?:Options|Choices)\s*:\s*", re.I)
# A choice in a list: "A. a lecture", "(B) a lecture".
_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*(\S.*?)\s*")
# The beginning of a choice in a text: "A.to sign up B.to report", "(A) to sign up (B) to report", "why?A. to sign up".
_MARK = re.compile(r"(?:^|(?<=[\s?？:：]))(\(?)([A-Z])([.):])(\s*)(?=\S)")
# Initials and abbreviations within a line: "a U.S. official", "D.H. Lawrence"; but "D.U.S. officials" is a choice.
_SHORT = re.compile(r"[A-Z]\.(?!U\.[A-Z]\.)[A-Z]\.")
_NEVER = re.compile(
    r"A\.[DM]\.|[BD]\.C\."
)  # of times and places, which begin no choice: "at 9 A.M.", "Washington D.C."
_FIRST = re.compile(r"(?<=[\s?？:：.!])(\(?)(A)([.):])(\s*)(?=\S)")
_ASKED = re.compile(r"[?？:：]\s*$")


def read_questions(collector: Collector, document: int | Unusable, record: Field) -> None:
    """Add a record's questions about one document: one, or several with as many answers.

    ``question`` or ``questions``, ``options`` or ``choices`` (else they are in the question's text), and letters in
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
        parts = _split(text)
        if parts is None:
            collector.leave_out("whose choices cannot be told apart by the letters A, B, C and so on")
            return
        text, choices = parts
    if not 2 <= len(choices) <= 26:
        raise question.error(f"has {len(choices)} choices, not 2 to 26")
    collector.question(text, [document], _letters(answer, len(choices)), choices)


def _without_letters(choices: Sequence[str]) -> Sequence[str]:
    lettered = [_LETTERED.fullmatch(choice) for choice in choices]
    if [choice and choice[1] for choice in lettered] == list(letters(len(choices))):
        return [choice[2] for choice in lettered if choice]
    return choices


def _split(text: str) -> tuple[str, list[str]] | None:
    """A question and the choices in its text; None if they cannot be determined."""
    heading = _HEADING.search(text)
    marks = list(_MARK.finditer(text, heading.end() if heading else 0))
    if not marks:
        return text, []
    chosen = _chosen(text, marks)
    if chosen is None or [mark[2] for mark in chosen] != list(letters(len(chosen))):
        return None
    ends = [mark.start() for mark in chosen[1:]] + [len(text)]
    choices = [text[mark.end() : end].strip() for mark, end in zip(chosen, ends, strict=True)]
    return text[: heading.start() if heading else chosen[0].start()], choices


def _chosen(text: str, marks: list[re.Match[str]]) -> list[re.Match[str]] | None:
    """The marks that begin a choice; None if several readings have consecutive letters."""
    fresh = [mark for mark in marks if not text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()].strip()]
    if fresh and fresh[0][2] == "B":
        # The first choice is on the question's line, after the question.
        firsts = list(_FIRST.finditer(text, 0, fresh[0].start()))
        asked = [mark for mark in firsts if _ASKED.search(text, 0, mark.start())]
        return [*(asked[:1] or firsts), *fresh]
    if len(fresh) > 1:
        return fresh
    return _in_order(text, [mark for mark in marks if not _NEVER.match(text, mark.start(2))])


def _in_order(text: str, marks: list[re.Match[str]]) -> list[re.Match[str]] | None:
    """Choices of one line: marks with consecutive letters, if there is only one reading."""
    asked = [mark for mark in marks if mark[2] == "A" and _ASKED.search(text, 0, mark.start())]
    begun = [mark for mark in marks if mark.start() >= asked[0].start()] if asked else marks
    readings: dict[int, list[list[re.Match[str]]]] = {0: [[]]}  # by their number of choices, at most two each
    for mark in begun:
        first = begun[0]
        # All have the form of the first one; so in "A.Robert E. Lee" the E begins no choice.
        if (mark[1], mark[3], bool(mark[4])) != (first[1], first[3], bool(first[4])):
            continue
        number, is_short = ord(mark[2]) - ord("A"), bool(_SHORT.match(text, mark.start(2))) and mark is not first
        following = [[*reading, mark] for reading in readings.get(number, [])]
        if is_short:
            readings[number + 1] = [*readings.get(number + 1, []), *following][:2]
        elif following or number < 6:
            readings = {number + 1: following}
    found = [reading for some in readings.values() for reading in some]
    return found[0] if len(found) == 1 and len(found[0]) > 1 else None


def _letters(answer: Field, n: int) -> list[str]:
    """Letters of the right choices, in order, from ``B``, ``BD``, ``B, D`` or a list."""
    given = [item.text() for item in answer.items()] if isinstance(answer.value, list) else [answer.text()]
    words = re.split(r"[\s,;.()]+|\band\b", " ".join(given))
    right = {letter for word in words for letter in word.upper()}
    if not right or not right <= set(letters(n)):
        raise answer.error(f"is {answer.value!r}, which is not some of the letters {letters(n)}")
    return sorted(right)
