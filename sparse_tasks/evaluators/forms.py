r"""Forms of an answer: rules that read what is unambiguous, given the form of answer that the prompt asked for.

The rules of ``RULES`` are applied in turn; each removes one kind of wrapping and leaves the content unchanged:
``\(\boxed{46}\)`` is 46, and a code fence is not part of a name. The gold answer shows what form was asked for: only if
every entry is a number does "Chapter 4: nothing bought" name chapter 4, and only if none contains a space do spaces
separate entries. The result is unparsed if ``AMBIGUOUS`` finds that it can be read in two ways.

Every function takes time linear in its input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sparse_tasks.evaluators.announcements import (
    ABSENT,
    ABSENT_IN_CHINESE,
    AFFIRMED,
    ANNOUNCED,
    ANNOUNCED_PAIRS,
    BEFORE,
    BEHIND,
    DENIED_IN_CHINESE,
    DENYING,
    HEADING,
    IT_IS,
    LINKS,
)
from sparse_tasks.evaluators.answers import Entry, ascii_digits, entries, normalise, unmarked
from sparse_tasks.evaluators.questions import Clause, clauses, points_group, said_of


@dataclass(frozen=True, slots=True)
class Asked:
    """The form of answer that the prompt asked for, as the gold answer shows it.

    Attributes:
        known: Normalised gold entries.
        free: Whether they are alternatives in free text, without a prescribed form.
        numbers: Whether each is a whole number.
        pairs: Whether some are pairs, "key: value".
        keys: Whether all are pairs, and each key is a whole number.
        values: The same for values.
        several_words: Whether there are several, none with a blank.
        points: Whether points separate groups of three digits, as in the question's language.
        clauses: What the question asks for.
    """

    known: frozenset[str]
    free: bool
    numbers: bool
    pairs: bool
    keys: bool
    values: bool
    several_words: bool
    points: bool
    clauses: tuple[Clause, ...]

    @classmethod
    def by(cls, answers: Sequence[str], question: str = "", free: bool = False) -> Asked:
        """The form of these gold entries."""
        known = frozenset(map(normalise, answers))
        numbers = not free and all(_WHOLE_NUMBER.fullmatch(entry) for entry in known)
        words = not free and len(known) > 1 and not any(" " in entry.strip() for entry in (*known, *answers))
        pairs = [entry.partition(": ") for entry in known]
        return cls(
            known=known,
            free=free,
            numbers=numbers,
            pairs=any(colon for _, colon, _ in pairs),
            keys=all(colon and _WHOLE_NUMBER.fullmatch(key) for key, colon, _ in pairs),
            values=all(colon and _WHOLE_NUMBER.fullmatch(value) for _, colon, value in pairs),
            several_words=words,
            points=points_group(question),
            clauses=clauses(question),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer and how it was read.

    Attributes:
        text: The answer without its wrapping; None if it could be read in two ways.
        rules: Names of the rules that changed it, in their order.
    """

    text: str | None
    rules: tuple[str, ...] = ()


def read(answer: str, answers: Sequence[str], question: str = "", free: bool = False) -> Reading:
    """Read an answer.

    Args:
        answer: The extracted answer text.
        answers: The gold entries, which show the form that was asked for.
        question: The question, which an answer may repeat.
        free: Whether the gold entries are alternatives in free words.
    """
    asked = Asked.by(answers, question, free)
    used: set[str] = set()
    # Wrappings may be nested, in either order: "Answer: \boxed{46}", \boxed{\text{Answer: 46}}.
    for _ in range(2):
        for name, rule in RULES.items():
            changed = rule(answer, asked)
            if changed != answer and changed.strip():
                used.add(name)
                answer = changed
    rules = tuple(name for name in RULES if name in used)
    pieces = entries(answer, asked.known)
    for name, ambiguous in AMBIGUOUS.items():
        if ambiguous(pieces, asked):
            return Reading(None, (*rules, name))
    return Reading(answer.strip(), rules)


_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]+")

# --- marks of LaTeX, Markdown and HTML ----------------------------------------------------------------------

_LANGUAGE: Final = "text|txt|plain|plaintext|markdown|md|json|csv|yaml|python|latex|tex|html|xml|bash|sh|output|answer"
_FENCE: Final = re.compile(rf"[ \t]*(?:```+|~~~+)(?:{_LANGUAGE})?[ \t]*", re.IGNORECASE)
_LINE_BREAK: Final = re.compile(r"</?br */?>", re.IGNORECASE)
_BOX_OR_BRACE: Final = re.compile(r"\\(?:boxed|fbox) ?\{|[{}]")
_LATEX_TEXT: Final = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_MATH: Final = re.compile(r"\\[()\[\]]")
_ESCAPED: Final = re.compile(r"\\([{}_$%&#])")
_CELL: Final = re.compile(r"[ \t]*\|([^|]*)(?:\|[ \t]*)?")
_RULE_OF_TABLE: Final = re.compile(r"[ \t]*:?-+:?[ \t]*")


def _code_fence(answer: str, asked: Asked) -> str:
    """Without the lines that fence code."""
    if "```" not in answer and "~~~" not in answer:
        return answer
    return "\n".join(line for line in answer.splitlines() if not _FENCE.fullmatch(line))


def _line_break(answer: str, asked: Asked) -> str:
    r"""``<br>`` is the end of a line."""
    return _LINE_BREAK.sub("\n", answer)


def _latex(answer: str, asked: Asked) -> str:
    r"""``\[\boxed{3, 5}\]`` is 3, 5, and ``8{,}000`` is 8,000."""
    if "\\" not in answer and "{,}" not in answer:
        return answer
    text = _LATEX_TEXT.sub(r"\1", _unboxed(answer))
    text = _MATH.sub(" ", text).replace("{,}", ",").replace("\\,", _THIN_SPACE)
    return _ESCAPED.sub(r"\1", text).strip().strip("$").strip()


def _unboxed(text: str) -> str:
    r"""Text with each ``\boxed{}`` replaced by its content; unchanged if a box is not closed."""
    kept: list[str] = []
    boxes: list[bool] = []
    end = 0
    for mark in _BOX_OR_BRACE.finditer(text):
        if mark[0] != "}":
            boxes.append(mark[0] != "{")
        elif not boxes:
            continue
        if boxes[-1]:
            kept += [text[end : mark.start()], " "]
            end = mark.end()
        if mark[0] == "}":
            boxes.pop()
    return text if any(boxes) else "".join([*kept, text[end:]])


def _table(answer: str, asked: Asked) -> str:
    """The cells of a table of one column, a line each, without a heading that only says what they are."""
    lines = [line for line in answer.splitlines() if line.strip()]
    cells = [cell[1].strip() for cell in map(_CELL.fullmatch, lines) if cell]
    if len(cells) < len(lines) or not cells:
        return answer
    if len(cells) > 1 and _RULE_OF_TABLE.fullmatch(cells[1]) and HEADING.fullmatch(cells[0]):
        cells = cells[1:]
    return "\n".join(cell for cell in cells if not _RULE_OF_TABLE.fullmatch(cell))


# --- numbers ------------------------------------------------------------------------------------------------

_THIN_SPACE: Final = "\u2009"
_FIXED_SPACES: Final = "\u00a0\u202f\u2007" + _THIN_SPACE
_GROUPED: Final = re.compile(
    rf"(?<![\w.,{_FIXED_SPACES}])[0-9]{{1,3}}(?:[{_FIXED_SPACES}][0-9]{{3}})+(?![\w{_FIXED_SPACES}]|[.,][0-9])"
)


# Chinese numerals, next to nothing except parts of numbers and chapters.
_ONES: Final = {
    numeral: digit for digit, numerals in enumerate(["零〇", *"一二三四五六七八九"]) for numeral in numerals
}
_TENS: Final = {"十": 10, "百": 100, "千": 1000}
_ONE: Final = "[一二两三四五六七八九]"
_SECTION: Final = f"(?:{_ONE}千)?零?(?:{_ONE}百)?零?(?:{_ONE}?十)?{_ONE}?"
_SPELT: Final = re.compile(f"(?:{_SECTION}万)?零?{_SECTION}|[零〇一二三四五六七八九]+")
_NUMERAL: Final = re.compile(r"(?<![^\W\d_])(第? ?)([零〇一二两三四五六七八九十百千万]+)(?= ?(?:[章枚件个]|铜元|\W|$))")
_NO_FRACTION: Final = re.compile(r"(?<![\w.,])([0-9]+)(?:[.,]00|\.0)(?!\w|[.,][0-9])")
_POINTED: Final = re.compile(r"(?<![\w.,])[0-9]{1,3}(?:\.[0-9]{3})+(?!\w|\.[0-9])")


def _digits(answer: str, asked: Asked) -> str:
    """Digits of all scripts as 0 to 9."""
    return ascii_digits(answer)


def _numerals(answer: str, asked: Asked) -> str:
    """Chinese numerals as digits: 第四十二章 is 第42章."""
    if asked.numbers:
        return _NUMERAL.sub(_in_digits, answer)
    if not (asked.keys or asked.values):
        return answer
    return "\n".join(
        (_NUMERAL.sub(_in_digits, key) if asked.keys else key)
        + colon
        + (_NUMERAL.sub(_in_digits, value) if asked.values else value)
        for key, colon, value in (line.replace("\uff1a", ":").partition(":") for line in answer.splitlines())
    )


def _in_digits(numeral: re.Match[str]) -> str:
    """A numeral in digits, converted sign by sign if it has no ten; unchanged if not well formed."""
    before, signs = numeral[1], numeral[2]
    if not _SPELT.fullmatch(signs):
        return numeral[0]
    if all(sign in _ONES for sign in signs):
        return before + "".join(str(_ONES[sign]) for sign in signs)
    total = section = ones = 0
    for sign in signs:
        if sign == "万":
            total, section, ones = (section + ones) * 10_000, 0, 0
        elif sign in _TENS:
            section, ones = section + (ones or 1) * _TENS[sign], 0
        else:
            ones = 2 if sign == "两" else _ONES[sign]
    return f"{before}{total + section + ones}"


def _whole_number(answer: str, asked: Asked) -> str:
    """Whole numbers as they are written in German and Spanish: 1.234 is 1234 there, and 467,00 is 467 anywhere."""
    if not (asked.numbers or asked.values):
        return answer
    text = _POINTED.sub(lambda number: number[0].replace(".", ""), answer) if asked.points else answer
    return _NO_FRACTION.sub(r"\1", text) if len(asked.known) == 1 or asked.values else text


def _grouped_digits(answer: str, asked: Asked) -> str:
    """A number whose groups of three are joined by no-break spaces or similar blanks."""
    return _GROUPED.sub(lambda number: _joined(number[0], asked), answer)


def _joined(number: str, asked: Asked) -> str:
    parts = re.split(f"[{_FIXED_SPACES}]", number)
    whole = "".join(parts)
    # As with commas, the gold answer may show that it is a list.
    return " ".join(parts) if whole not in asked.known and any(part in asked.known for part in parts) else whole


# --- words around the answer --------------------------------------------------------------------------------

_COMMENTED: Final = re.compile(
    r"(?:[0-9]{1,3}[.)] )?(?:(?:ch(?:apters?|\.)|kapitel|cap[ií]tulo) ?([0-9]+)|第 ?([0-9]+) ?章)"
    r"(?:[:\uff1a]| [-\u2013\u2014] | ?[(\uff08])(.+)",
    re.IGNORECASE,
)
# Other words are not known to be units: see _beside_number.
_UNIT: Final = (
    r"(?: (?:(?:crown|coin|thing|item|chapter|corona|objeto|cap[ií]tulo)s?|kronen?|kapitel|gegenst(?:and|ände)|stück)"
    r"(?: (?:in all|in total|altogether|insgesamt|zusammen|en total))?| ?(?:枚?铜元|[枚件个章]))"
)
_UNITS: Final = re.compile(rf"(-?[0-9][0-9,]*){_UNIT}[.。]?", re.IGNORECASE)
_UNITS_OF_VALUES: Final = re.compile(
    rf"([:\uff1a][ *_]*-?[0-9][0-9,]*){_UNIT}(?=[ *_.。]*(?:$|[,;，；、\n]))", re.IGNORECASE
)
_NUMBER_SIGN: Final = r"(?:(?:nr|no|núm)\.|n\.? ?[º°]|№|#|number|numbers|nummern?|números?|编号)"
_CHAPTER_SIGN: Final = r"(?:ch(?:apters?|\.)|kap(?:iteln?|\.)|caps?(?:[ií]tulos?|\.))"
_SIGNED: Final = re.compile(rf"(?<!\w)(?:{_CHAPTER_SIGN}\s*)?{_NUMBER_SIGN}\s*(?=[0-9])", re.IGNORECASE)
_KEY: Final = re.compile(
    rf"(^|[,;，；、])([ *_\-\u2022]*)(?:{_CHAPTER_SIGN}\s*([0-9]+)|第\s*([0-9]+)\s*章)(?=[ *_]*[:\uff1a])",
    re.IGNORECASE | re.MULTILINE,
)
_CHAPTERS: Final = re.compile(
    r"[第章0-9、,，;；和及与以\s]*第[第章0-9、,，;；和及与以\s]*[.。]?|[0-9、,，;；和及与以\s]+章[.。]?"
)
# Prepositions in answers; none is a denial.
_PREPOSITION: Final = re.compile(
    r"((?:[0-9]{1,3}[.)] ?)?)(?:(?:in|at|to|with|im|nach|bei|mit|zu|en|con)\s+(?:(?:the|den|dem|der|los|el|la)\s+)?"
    r"|到了|来到|在|到)(.+)",
    re.IGNORECASE,
)
_CHAPTERS_FOLLOW: Final = re.compile(rf"{_CHAPTER_SIGN}|第", re.IGNORECASE)
_LABEL: Final = re.compile(r"(?<![^\s,;*`(\[])(?:VAR|[Vv]ariables?) (?=[A-Z])")


def _announced(answer: str, asked: Asked) -> str:
    """Without words that announce the answer: "The chapters are 4, 8, 11." is 4, 8, 11."""
    words = (ANNOUNCED_PAIRS if asked.pairs else ANNOUNCED).match(answer)
    if words is None and asked.points and not asked.pairs:
        words = IT_IS.match(answer)
    return answer[words.end() :].strip() if words else answer


def _repeated(answer: str, asked: Asked) -> str:
    """Without a repetition of the question: "The secret number of obedient-horde is 46." is 46."""
    return next(filter(None, (said_of(clause, answer) for clause in asked.clauses)), answer)


def _comment(answer: str, asked: Asked) -> str:
    """Chapters without their comment, as in "Chapter 4: nothing bought", where each says what the question asks for."""
    if not asked.numbers:
        return answer
    plain = unmarked(answer).strip()
    pieces = [
        piece.strip("-\u2022_ \t") for piece in re.split("\n" if "\n" in plain else "[,;\uff0c\u3001\uff1b]", plain)
    ]
    found = [_COMMENTED.fullmatch(piece) for piece in pieces if piece]
    if all(entry and AFFIRMED.fullmatch(normalise(entry[3].rstrip(")\uff09"))) for entry in found):
        return "\n".join(entry[1] or entry[2] for entry in found if entry)
    return answer


def _unit(answer: str, asked: Asked) -> str:
    """A number without a unit of the tasks: "46 crowns" is 46, and of pairs "3: 46 crowns" is 3: 46."""
    if asked.values:
        return _UNITS_OF_VALUES.sub(r"\1", answer)
    number = _UNITS.fullmatch(unmarked(answer).strip()) if asked.numbers else None
    return number[1] if number else answer


def _chapters(answer: str, asked: Asked) -> str:
    """Chapters as numbers: "Kapitel Nr. 3" is 3, "第3、17章" is 3、17; and so the keys of pairs, "第3章：46"."""
    if asked.keys:
        return _KEY.sub(r"\1\2\3\4", answer)
    if not asked.numbers:
        return answer
    plain = unmarked(answer).strip()
    if _CHAPTERS.fullmatch(plain):
        return re.sub("[第章]", "", plain)
    return _SIGNED.sub("", answer)


def _preposition(answer: str, asked: Asked) -> str:
    """Entries without the preposition of their question: "in Kleinbach" is Kleinbach, and "In Kapitel 3" Kapitel 3."""
    if asked.free or asked.pairs:
        return answer
    lines = answer.splitlines()
    for i, line in enumerate(lines):
        found = _PREPOSITION.fullmatch(line.strip())
        if found is None or normalise(line) in asked.known:
            continue
        if _CHAPTERS_FOLLOW.match(found[2]) if asked.numbers else normalise(found[2]) in asked.known:
            lines[i] = found[1] + found[2]
    return "\n".join(lines)


def _label(answer: str, asked: Asked) -> str:
    """Variables without the word that the prompt writes before them: "VAR WQSFP" is WQSFP."""
    return _LABEL.sub("", answer) if not any(" " in entry for entry in asked.known) else answer


# --- where one entry ends -----------------------------------------------------------------------------------

_BY_DASH: Final = re.compile(r"\s*\(?([0-9]{1,3})\)? ?[-\u2013\u2014]\s+(?=\S)")
# After the dot an identifier, such as 6goopbxl-3e0y or 3z5g7f0v: 1.5, 1.5kg and 1.5e6 are numbers.
_IDENTIFIER: Final = r"[0-9]+[^\W\d_]+(?:[0-9]+[^\W\d_]|\S*[-_:])"
_BY_DOT: Final = re.compile(rf"\s*([0-9]{{1,3}})[.)]\s*(?=[^\W\d]|{_IDENTIFIER})")
_JOINED_BY_DOT: Final = re.compile(rf"\s*[0-9]{{1,3}}[.)]{_IDENTIFIER}")
_BY_WORD: Final = re.compile(
    r"\s*(?:(?:question|answer|frage|antwort|pregunta|respuesta|问题|答案)\s*([0-9]{1,3})|第\s*([0-9]{1,3})\s*[题个问])"
    r"(?:个?(?:问题|答案))?\s*[:\uff1a.、]\s*(?=\S)",
    re.IGNORECASE,
)
_CIRCLED: Final = {chr(0x245F + number): f"{number}. " for number in range(1, 21)}
_BY_CIRCLE: Final = re.compile(f"(?m)^[ \\t]*([{''.join(_CIRCLED)}])[ .、．]*(?=\\S)")
_NUMBERS: Final = re.compile(r"-?[0-9]+(?:,[0-9]+)*")
_CHAPTER_WORD: Final = re.compile(r"\bch(?:apters?|\.) ?(?=[0-9])", re.IGNORECASE)
_SENTENCE: Final = """
a about after all also an and are as at be before both but by either else except for from had has have i in is it its
maybe neither no none nor not of on only or perhaps possibly probably so than that the then there these they this to
was we were which with without
"""
NOT_ENTRIES: Final = frozenset(_SENTENCE.split())
"""Words of sentences; a line that has one is not a list of words."""


def _numbering(answer: str, asked: Asked) -> str:
    """Entries numbered otherwise ("1- ", "1." of "1.6goopbxl-3e0y: value", "Frage 1: ", "①") as "1. " numbers them."""
    answer = _BY_CIRCLE.sub(lambda found: _CIRCLED[found[1]], answer)
    lines = [line for line in answer.splitlines() if line.strip()]
    if any(normalise(line) in asked.known for line in lines):
        return answer
    forms = [_BY_DASH, _BY_DOT] if any(map(_JOINED_BY_DOT.match, lines)) else [_BY_DASH]
    for form in [*forms, _BY_WORD]:
        found = [form.match(line) for line in lines]
        numbers = [int(next(filter(None, mark.groups()))) for mark in found if mark]
        if len(numbers) < len(lines) or numbers[:1] != [1] or any(b <= a for a, b in pairwise(numbers)):
            continue
        rest = [mark.string[mark.end() :] for mark in found if mark]
        # A single "1 - 46" may be a range or a difference.
        if len(rest) > 1 or not rest[0][0].isdigit() or form is not _BY_DASH:
            return "\n".join(f"{number}. {entry}" for number, entry in zip(numbers, rest, strict=True))
    return answer


def _blanks(answer: str, asked: Asked) -> str:
    """Entries separated only by blanks, such as "4 8 11", if no gold entry contains a blank."""
    if not asked.several_words:
        return answer
    lines = answer.splitlines()
    if asked.numbers:
        return "\n".join("\n".join(_numbers(line) or [line]) for line in lines)
    words = answer.split()
    plain = len(lines) == 1 and len(words) > 1 and not re.search(r"[,;:]|\w[.!?]\s", answer)
    if not plain or any(word.strip("*`'\".").lower() in NOT_ENTRIES - asked.known for word in words):
        return answer
    return "\n".join(words)


def _numbers(line: str) -> list[str]:
    """The numbers of a line of only numbers, some separated only by a blank; none for other lines."""
    words = _CHAPTER_WORD.sub("", line).split()
    if not any(before[-1].isdigit() and after[0].isdigit() for before, after in pairwise(words)):
        return []
    numbers = [word.rstrip(",;.") for word in words if word.lower() != "and"]
    return numbers if all(map(_NUMBERS.fullmatch, numbers)) else []


RULES: Final[dict[str, Callable[[str, Asked], str]]] = {
    "digits": _digits,
    "numerals": _numerals,
    "code_fence": _code_fence,
    "line_break": _line_break,
    "table": _table,
    "announced": _announced,
    "repeated": _repeated,
    "latex": _latex,
    "grouped_digits": _grouped_digits,
    "whole_number": _whole_number,
    "preposition": _preposition,
    "comment": _comment,
    "chapters": _chapters,
    "unit": _unit,
    "label": _label,
    "numbering": _numbering,
    "blanks": _blanks,
}
"""The rules by name, in their order: an answer in one form to the same in a plainer one."""

# --- what can be read in two ways ---------------------------------------------------------------------------

# Endless runs of digits, as broken models write, are not numbers.
_NUMBER: Final = re.compile(r"[-+~(\u20ac\u00a3]*[0-9][0-9.,]{0,15}(?:[^\W\d_]{1,2}|%)?[).,:;!?]*")
# Chinese has no blank between words and numbers.
_HAN_EDGE: Final = re.compile(r"(?<=[\u3400-\u9fff])(?=[-0-9])|(?<=[0-9])(?=[\u3400-\u9fff])")
_WORDY: Final = re.compile(r"[^\W\d_]|[%\u20ac\u00a3]")
_LONGEST_NAME: Final = 4  # words
_HEADING: Final = re.compile(r"[^:]*:[*_]*(?:\s.*)?", re.DOTALL)


def _beside_number(pieces: Sequence[Entry], asked: Asked) -> bool:
    """Whether there are words next to a number where numbers were asked for: "46 km", "about 46", "not 4", "8 or 11".

    Units and denials are unlimited: "46 km" may be 46 with a stray word, or another amount, like "46 thousand". No list
    could tell them apart, so such an answer is ambiguous.
    """
    return asked.numbers and any(
        _WORDY.search(entry) and any(map(_NUMBER.fullmatch, _HAN_EDGE.sub(" ", entry).split()))
        for entry in (normalise(piece.text) for piece in pieces)
        if entry not in asked.known
    )


def _says_more(pieces: Sequence[Entry], asked: Asked) -> bool:
    """Whether the first or last entry says something of the others: "none of A, B, C", "The ones left out: A, B, C"."""
    if asked.free or not pieces:
        return False
    longest = 1 if asked.several_words else _LONGEST_NAME
    first, last = _words(pieces[0], asked), _words(pieces[-1], asked)
    before = [word for word in first if word not in LINKS][-longest - 1 : -1]
    behind = [] if NOT_ENTRIES.issuperset(last[:1]) else last[1 : longest + 1]
    several = len(pieces) > 1
    if any(_denied_in_chinese(pieces[i], asked) for i in (0, -1)):
        return True
    return (
        (several and bool(first) and _is_heading(pieces[0].text, asked))
        or _denies(first, alone=not several)
        or _denies(last, alone=True)
        or not (BEFORE.isdisjoint(before) and BEHIND.isdisjoint(behind))
    )


def _denied_in_chinese(entry: Entry, asked: Asked) -> bool:
    text = normalise(entry.text)
    if entry.number is not None or text in asked.known or ABSENT_IN_CHINESE.fullmatch(text):
        return False
    return bool(DENIED_IN_CHINESE.match(text))


def _words(entry: Entry, asked: Asked) -> list[str]:
    """The words of an entry, or of a pair's key; none for a gold entry or one with its own number."""
    text = normalise(entry.text)
    if entry.number is not None or text in asked.known:
        return []
    return text.partition(": ")[0].split() if asked.pairs else text.split()


def _is_heading(text: str, asked: Asked) -> bool:
    """Whether words with a colon precede an entry, or are alone; a pair has another colon after its key."""
    if asked.pairs:
        first = text.partition(":")[0]
        if " " not in first and not first.isalpha():
            return False  # a key, perhaps without value
        if ": " in text:
            return text.count(": ") > 1
    return bool(_HEADING.fullmatch(text)) and not (asked.numbers and re.search(r"\d", text))


def _denies(words: Sequence[str], *, alone: bool) -> bool:
    """Whether the words begin with a denial of others, and do not just say that there is no answer.

    One word is an entry: "besides" is in the vocabulary of word lists.
    """
    return len(words) > 1 and not DENYING.isdisjoint(words[:1]) and not (alone and " ".join(words) in ABSENT)


AMBIGUOUS: Final[dict[str, Callable[[Sequence[Entry], Asked], bool]]] = {
    "beside_number": _beside_number,
    "says_more": _says_more,
}
"""Why an answer can be read in two ways, by name."""
