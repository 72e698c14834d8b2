"""Forms of an answer: what is unambiguous is read and counted, what is not is unparsed, and no form earns anything."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.forms import AMBIGUOUS, RULES
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.results import score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.evaluators.scoring import Score, score
from tests.cli.program import run
from tests.evaluators.metrics import METRICS

CHAPTERS, VARIABLES = ["4", "8", "11"], ["WQSFP", "LSGEY"]
PAIRS = ["6goopbxl-3e0y7d6b: 3z5g7f0v-kw2ih1y5", "8l78nhtx-xex62mwz: oic2p184-5k5oelx8", "tbr5roju-3xc1: e9fk4rgp"]
NAMES = ["Otter Quay", "Anna Kowalska", "small brass telescope"]


# What may be said of an answer to deny it, of which there is no end.
DENIALS = """
left out|ruled out|not|excluded|wrong|that are left out|that must be ruled out|that is ruled out|without discount
to skip|I do not mean|in which something is bought|with a purchase|other than these|except|besides|before|unlike|never
in which nobody buys nothing|of the wrong list|Ann did not find|without purchases left out|I doubt|where not nothing was
"""
DENIED = DENIALS.strip().replace("\n", "|").split("|")
COMMENTS = [
    *(
        "something was bought",
        "a lamp bought",
        "excluded",
        "not",
        "maybe",
        "wrong",
        "ruled out",
        "left out",
        "no",
        "none",
    ),
    *("not nothing bought", "nothing bought, but a lamp", "something bought, not nothing bought", "no, a purchase"),
    *("nobody bought nothing", "nothing sold", "without a purchase?? no", "nothing bought is untrue", "see below"),
]


QUESTION = (
    "The text ends here.\n\nWhat is the secret number of obedient-horde?\n\nGive it between <answer> and </answer>."
)


def scored(metric: str, answer: str, gold: list[str], question: str = QUESTION) -> Score:
    return score(metric, f"Well. <answer>{answer}</answer>", gold, question=question)


@pytest.mark.parametrize(
    ("metric", "answer", "gold", "rules"),
    [
        ("exact_match", r"\(\boxed{46}\)", ["46"], ["latex"]),
        ("exact_match", r"$\boxed{\text{46 crowns}}$", ["46"], ["latex", "unit"]),
        ("set_iou", r"\[\boxed{4, 8, 11}\]", CHAPTERS, ["latex"]),
        ("set_iou", r"\boxed{4}, \boxed{8}, \boxed{11}", CHAPTERS, ["latex"]),
        ("set_iou", r"$\boxed{\{4, 8, 11\}}$", CHAPTERS, ["latex"]),
        ("set_iou", r"\boxed{snake\_case, other\_case}", ["snake_case", "other_case"], ["latex"]),
        ("exact_match", r"\boxed{8{,}000}", ["8000"], ["latex"]),
        ("exact_match", r"\(8\,000\)", ["8000"], ["latex", "grouped_digits"]),
        ("exact_match", "```\n46\n```", ["46"], ["code_fence"]),
        ("exact_match", "```text\nAnna Kowalska\n```", ["Anna Kowalska"], ["code_fence"]),
        ("token_f1", "~~~\nsmall brass telescope\n~~~", ["small brass telescope"], ["code_fence"]),
        ("squad_em", "```markdown\nAnna\n```", ["Anna", "Ann"], ["code_fence"]),
        ("ordered_fraction", "```text\n1. Otter Quay\n2. Anna\n```", ["Otter Quay", "Anna"], ["code_fence"]),
        ("set_iou", "4 8 11", CHAPTERS, ["blanks"]),
        ("set_iou", "Chapters 4 8 and 11", CHAPTERS, ["blanks"]),
        ("set_iou", "4\u00a08\u00a011", CHAPTERS, ["blanks"]),
        ("set_iou", "103\u00a0217\u00a0342", ["103", "217", "342"], ["grouped_digits", "blanks"]),
        ("set_iou", "WQSFP LSGEY", VARIABLES, ["blanks"]),
        ("ordered_fraction", "LSGEY  WQSFP", ["LSGEY", "WQSFP"], ["blanks"]),
        ("set_match", "A C", ["A", "C"], ["blanks"]),
        ("set_iou", "VAR WQSFP, VAR LSGEY", VARIABLES, ["label"]),
        ("set_iou", "1. VAR WQSFP\n2. VAR LSGEY", VARIABLES, ["label"]),
        ("set_iou", "VAR WQSFP and VAR LSGEY", VARIABLES, ["label"]),
        ("set_iou", "**VAR WQSFP**\n**VAR LSGEY**", VARIABLES, ["label"]),
        ("set_iou", "VAR WQSFP VAR LSGEY", VARIABLES, ["label", "blanks"]),
        ("unordered_fraction", "\n".join(f"{n}.{pair}" for n, pair in enumerate(PAIRS, 1)), PAIRS, ["numbering"]),
        ("unordered_fraction", f"1.{PAIRS[0]}", PAIRS[:1], ["numbering"]),
        ("ordered_fraction", "1- Otter Quay\n2- Anna", ["Otter Quay", "Anna"], ["numbering"]),
        ("ordered_fraction", "1 \u2013 46\n2 \u2013 48", ["46", "48"], ["numbering"]),
        ("set_iou", "\n".join(f"Chapter {n}: nothing bought" for n in CHAPTERS), CHAPTERS, ["comment"]),
        ("set_iou", "\n".join(f"- **Chapter {n}** (no purchase)" for n in CHAPTERS), CHAPTERS, ["comment"]),
        ("set_iou", "The chapters are 4, 8, 11.", CHAPTERS, ["announced"]),
        ("set_iou", "The chapter numbers are: 4, 8 and 11", CHAPTERS, ["announced"]),
        ("set_iou", "The three chapters are 4, 8, 11", CHAPTERS, ["announced"]),
        ("set_iou", "The chapters in which nothing is bought are 4, 8, 11.", CHAPTERS, ["announced"]),
        ("set_iou", "The numbers of these chapters are 4, 8, 11.", CHAPTERS, ["announced"]),
        ("set_iou", "The chapters where she buys nothing: 4, 8, 11", CHAPTERS, ["announced"]),
        ("set_iou", "Chapters without a purchase: 4 8 11", CHAPTERS, ["announced", "blanks"]),
        ("set_iou", "They are 4, 8 and 11.", CHAPTERS, ["announced"]),
        ("exact_match", "The person is Alex Johnson.", ["Alex Johnson"], ["announced"]),
        ("exact_match", "The secret number is 46.", ["46"], ["announced"]),
        ("set_iou", "The secret UUIDs are 4a-1, 8b-2", ["4a-1", "8b-2"], ["announced"]),
        ("exact_match", "Answer: 46", ["46"], ["announced"]),
        ("exact_match", "Answer:46", ["46"], ["announced"]),
        ("exact_match", "Here is the answer:\n```\n46\n```", ["46"], ["code_fence", "announced"]),
        ("exact_match", "**Final answer:** 46", ["46"], ["announced"]),
        ("exact_match", "So the total is 46 crowns.", ["46"], ["announced", "unit"]),
        ("exact_match", "46 Crowns.", ["46"], ["unit"]),
        ("exact_match", "The secret number of obedient-horde is 46.", ["46"], ["repeated"]),
        ("exact_match", "**The secret number of obedient-horde:** 46", ["46"], ["repeated"]),
        ("exact_match", r"So the secret number of obedient-horde is $\boxed{46}$.", ["46"], ["repeated", "latex"]),
        ("set_iou", "The secret number of obedient-horde are 4 8 11", CHAPTERS, ["repeated", "blanks"]),
        ("exact_match", r"\boxed{\text{Answer: 46}}", ["46"], ["announced", "latex"]),
        ("exact_match", r"The answer is $\boxed{46}$.", ["46"], ["announced", "latex"]),
        ("exact_match", "\u0664\u0666", ["46"], ["digits"]),
        ("set_iou", "\u0664\u060c \u0668\u060c \u0661\u0661", CHAPTERS, ["digits"]),
        ("set_iou", "\u096a, \u096e, \u0967\u0967", CHAPTERS, ["digits"]),
        ("ordered_fraction", "\u0661. Otter Quay\n\u0662. Anna", ["Otter Quay", "Anna"], ["digits"]),
        ("exact_match", "1\u00a0234", ["1234"], ["grouped_digits"]),
        ("exact_match", "1\u202f234\u202f567 crowns", ["1234567"], ["grouped_digits", "unit"]),
        ("exact_match", "46.0", ["46"], ["whole_number"]),
        ("exact_match", "46.00 crowns", ["46"], ["whole_number", "unit"]),
        ("exact_match", "In Otter Quay.", ["Otter Quay"], ["preposition"]),
        ("ordered_fraction", "1. at Otter Quay\n2. Anna", ["Otter Quay", "Anna"], ["preposition"]),
        ("set_iou", "Chapter No. 4, chapter no. 8, Chapter #11", CHAPTERS, ["chapters"]),
        ("ordered_fraction", "Chapter 4: 46\nChapter 8: 9", ["4: 46", "8: 9"], ["chapters"]),
        ("ordered_fraction", "4: 46 crowns\n8: 9 crowns", ["4: 46", "8: 9"], ["unit"]),
        ("ordered_fraction", "Question 1: Otter Quay\nQuestion 2: Anna", ["Otter Quay", "Anna"], ["numbering"]),
        ("set_iou", "\u56db\u3001\u516b\u3001\u5341\u4e00", CHAPTERS, ["numerals"]),
        ("set_iou", "3<br>5", ["3", "5"], ["line_break"]),
        ("set_iou", "Otter Quay<br/>Anna Kowalska<BR />small brass telescope", NAMES, ["line_break"]),
        ("set_iou", "| Chapter |\n| --- |\n| 4 |\n| 8 |\n| 11 |", CHAPTERS, ["table"]),
        ("set_iou", "| Chapter\n| ---\n| 4\n| 8\n| 11", CHAPTERS, ["table"]),
        ("set_iou", "| 4 |\n|:-:|\n| 8 |\n| 11 |", CHAPTERS, ["table"]),
        ("unordered_fraction", "|Names|\n|---|\n" + "\n".join(f"|{name}|" for name in NAMES), NAMES, ["table"]),
    ],
)
def test_unambiguous_answers_are_read_with_their_rules(
    metric: str, answer: str, gold: list[str], rules: list[str]
) -> None:
    one = scored(metric, answer, gold)
    assert (one.value, one.parsed, list(one.rules)) == (1.0, True, rules)


def test_every_rule_has_an_example_above() -> None:
    cases = test_unambiguous_answers_are_read_with_their_rules.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {rule for *_, rules in cases for rule in rules} == set(RULES)


@pytest.mark.parametrize(
    ("metric", "answer", "gold"),
    [
        ("exact_match", "1.46", ["46"]),
        ("exact_match", "1.234", ["1234"]),
        ("exact_match", "46.05", ["46"]),
        ("set_iou", "4.00, 8", ["4", "8"]),
        ("exact_match", "not in Otter Quay", ["Otter Quay"]),
        ("exact_match", "in 46", ["46"]),
        ("ordered_fraction", "Chapter 4: 46 km\nChapter 8: 9 km", ["4: 46", "8: 9"]),
        ("exact_match", "1- 46", ["46"]),
        ("exact_match", "1 234", ["1234"]),
        ("exact_match", "12\u00a034", ["1234"]),
        ("exact_match", "8{,}00", ["800"]),
        ("exact_match", "4\\boxed{6}", ["46"]),
        ("exact_match", "The number that is not the answer is 46", ["46"]),
        ("exact_match", "The wrong answer is 46", ["46"]),
        ("set_iou", "All chapters but 4, 8, 11", CHAPTERS),
        ("set_iou", "The chapters other than these are 4, 8, 11", CHAPTERS),
        ("exact_match", "Answer: 45. Correct answer: 46", ["46"]),
        ("exact_match", "| 45 |\n|---|\n| 46 |", ["46"]),
        ("exact_match", "| 46 | 47 |", ["46"]),
        ("exact_match", "1.5kg", ["5kg"]),
        ("exact_match", "1.5e6", ["5e6"]),
        ("exact_match", "1.5m2", ["5m2"]),
        ("set_iou", "1.4\n2.8\n3.11", CHAPTERS),
        ("set_iou", "| apple |\n|---|\n| corn |\n| elixir |", ["corn", "elixir"]),
        ("set_iou", "not WQSFP LSGEY", VARIABLES),
        ("set_iou", "not VAR WQSFP, not VAR LSGEY", VARIABLES),
        ("exact_match", "~46", ["46"]),
        ("exact_match", "46|47", ["46"]),
        ("set_iou", "WQSFP or LSGEY", VARIABLES),
        ("set_iou", "word corn, word elixir", ["corn", "elixir"]),
        ("set_iou", "Otter Quay Anna Kowalska small brass telescope", NAMES),
        ("set_match", "A or C", ["A", "C"]),
    ],
)
def test_ambiguous_answers_are_unparsed(metric: str, answer: str, gold: list[str]) -> None:
    assert scored(metric, answer, gold).value < 1.0


# Questions as the tasks write them, and answers that repeat them.
REPEATED = [
    ("What are all the secret numbers of tan-abacus?", "The secret numbers of tan-abacus are {}."),
    ("What are the secret numbers of a-b and c-d?", "The secret numbers of a-b and c-d are: {}"),
    ("10 words are more frequent in the list than all others. Which are they?",
     "The 10 words that are more frequent in the list than all others are {}."),
    ("Which three words occur most often in the coded text? Leave the dots out.",
     "The three words that occur most often in the coded text are {}"),
    ("In exactly 3 chapters James buys nothing. Which are they? Only things that are paid for count.",
     "The chapters in which James bought nothing are {}."),
    ("In exactly 3 chapters James buys nothing. Which are they?", "The 3 chapters James buys nothing in are: {}"),
    ("Which variables have the value 60558, either assigned directly or through others? There are 5 of them.",
     "The variables that have the value 60558 are {}."),
    ("Which variables have the value 60558, either assigned directly or through others?",
     "The variables that have the value 60558, either assigned directly or through others, are {}."),
    ("Whom did Seth meet in more chapters than anybody else?",
     "The person whom Seth met in more chapters than anybody else is {}."),
    ("How many crowns are left in James's purse when the story ends?",
     "The total number of crowns left in James's purse when the story ends is {}."),
    ("What was the profession of Laura Nolan?", "The profession of Laura Nolan was {}."),
]  # fmt: skip


@pytest.mark.parametrize(("question", "sentence"), REPEATED)
def test_a_sentence_that_repeats_the_question_is_read_up_to_its_value(question: str, sentence: str) -> None:
    for metric, gold in (
        ("set_iou", CHAPTERS),
        ("set_iou", VARIABLES),
        ("exact_match", ["46"]),
        ("token_f1", NAMES[:1]),
    ):
        if "James buys nothing in" in sentence:
            continue
        one = scored(metric, sentence.format(", ".join(gold)), gold, f"The end.\n\n{question}\n\nAnswer in <answer>.")
        assert (one.value, one.rules) == (1.0, ("repeated",))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the secret number of obedient-horde?", "The secret number of another-horde is 46."),
        ("What is the secret number of obedient-horde?", "The secret number of obedient-hordes is 46."),
        ("What is the secret number of obedient-horde?", "The secret number not of obedient-horde is 46."),
        ("What is the secret number of obedient-horde?", "The number of obedient-horde is 46."),
        ("What is the secret number of obedient-horde?", "The secret number of obedient-horde is not 46."),
        ("What is the secret number of obedient-horde?", "The secret number of obedient-horde is 46 or 47."),
        ("What is the secret number of obedient-horde?", "The secret number of obedient-horde was never 46."),
        ("What is the secret number of obedient-horde?", "Unlike the secret number of obedient-horde is 46."),
        ("What is the secret number of a? What is the secret number of b?", "The secret number of a is 46"),
        ("In exactly 1 chapter Ann buys nothing. Which is it?", "The chapter in which Ann buys something is 46"),
        ("In exactly 1 chapter Ann buys nothing. Which is it?", "The chapter in which Ann buys is 46"),
        ("", "The secret number of obedient-horde is 46."),
    ],
)
def test_a_sentence_that_says_anything_else_is_unparsed(question: str, answer: str) -> None:
    one = scored("exact_match", answer, ["46"], question)
    assert (one.value, one.parsed) == (0.0, False)


@pytest.mark.parametrize(
    "answer",
    [
        "46 km",
        "46km",
        "46 %",
        "46 more",
        "46 thousand",
        "46 crowns excluded",
        "about 46",
        "not 46",
        "45 or 46",
        "46 or 45.",
        "**44, or 45 or 46?**",
        "The answer is 45 or 46",
        "The sum of 40 and 6 is 46",
        "The answer is not 46",
        "Chapter 4: 46",
        "Chapter 46: nothing bought\nChapter 47: a lamp bought",
    ],
)
def test_words_beside_a_number_make_it_unparsed_whether_or_not_it_is_right(answer: str) -> None:
    for metric in ("exact_match", "set_iou"):
        for gold in ("46", "45", "7"):
            assert scored(metric, answer, [gold]) == Score(0.0, None, False, None, scored(metric, answer, [gold]).rules)
            assert scored(metric, answer, [gold]).rules[-1] == "beside_number"


@pytest.mark.parametrize("answer", ["forty-six", "46.5", "1.46", "46, 47", "4*6", "46/47", "none", "1.5e6"])
def test_another_number_or_none_is_wrong_and_parsed(answer: str) -> None:
    one = scored("exact_match", answer, ["46"])
    assert (one.value, one.parsed) == (0.0, True)


# Denials of whole lists; {} is the list.
DENIED_LISTS = """
not {}|None of {}|none of these: {}|neither {}|Not these:/{}|never {}|All but {}|anything other than {}|excluding {}
everything except {}|except for {}|without {}|{} excluded|{} are left out|{} were ruled out|{} are not among them
{} are wrong|The ones left out: {}|The ones left out are {}|All others are left out: {}|Ruled out: {}|**Not** {}
isn't {}|The one that is not: {}
"""
DENYING = [form.replace("/", "\n") for form in DENIED_LISTS.strip().replace("\n", "|").split("|")]


@pytest.mark.parametrize("form", DENYING)
def test_a_denied_list_is_unparsed(form: str) -> None:
    for metric in LISTS:
        for gold in (CHAPTERS, VARIABLES, NAMES, NAMES[:2], ["corn", "elixir", "year"]):
            for joined in (
                ", ".join(gold),
                f"{', '.join(gold[:-1])} or {gold[-1]}",
                f"{', '.join(gold[:-1])} and {gold[-1]}",
            ):
                one = scored(metric, form.format(joined), gold)
                assert (one.value, one.parsed) == (0.0, False), (form.format(joined), one)


@pytest.mark.parametrize(
    ("metric", "answer", "gold", "value"),
    [
        ("set_iou", "WQSFP, not LSGEY, EBVVF", ["WQSFP", "EBVVF"], 2 / 3),
        ("set_iou", "R WQSFP, LSGEY", VARIABLES, 1 / 3),
        ("unordered_fraction", "4, 8, not found", CHAPTERS, 2 / 3),
        ("unordered_fraction", "a-1: not found\nb-2: x-2", ["a-1: x-1", "b-2: x-2"], 1 / 2),
        ("ordered_fraction", "1. not stated\n2. Anna Kowalska\n3. none", NAMES, 1 / 3),
        ("ordered_fraction", "1. Otter Quay\n2. none of them", NAMES[:2], 1 / 2),
        ("token_f1", "not small brass", ["small brass"], 0.8),
    ],
)
def test_comments_on_one_entry_do_not_affect_others(metric: str, answer: str, gold: list[str], value: float) -> None:
    assert scored(metric, answer, gold).value == pytest.approx(value)


def test_every_ambiguity_has_an_example_above() -> None:
    assert {scored("set_iou", answer, VARIABLES).rules[-1:] for answer in ("not A, B", "4")} == {("says_more",), ()}
    assert set(AMBIGUOUS) == {"says_more", "beside_number"}


@pytest.mark.parametrize("comment", COMMENTS)
def test_a_comment_that_says_more_than_the_question_is_not_read(comment: str) -> None:
    for entry in ("Chapter {}: {}", "Chapter {} ({})", "- **Chapter {}** - {}", "1. Ch. {}: {}"):
        answer = "\n".join(entry.format(number, comment) for number in CHAPTERS)
        assert scored("set_iou", answer, CHAPTERS) == Score(0.0, None, False, None, ("beside_number",))


def test_comments_that_say_what_the_question_says_may_differ() -> None:
    answer = "Chapter 4: nothing bought\nChapter 8: Nothing was bought.\nChapter 11: no purchase was made"
    assert scored("set_iou", answer, CHAPTERS).value == 1.0


def test_the_line_that_fences_code_says_no_more_than_a_language() -> None:
    assert scored("exact_match", "```not\n46\n```", ["46"]).value == 0.0


def test_gold_that_looks_like_a_wrapping_is_right() -> None:
    for gold in ("Answer: 46", "VAR WQSFP", "1- word", "| 46 |", r"\boxed{46}", "Chapter 4: nothing bought"):
        assert scored("set_iou", gold, [gold]).value == 1.0


# --- no form earns anything ---------------------------------------------------------------------------------

LISTS = ("set_iou", "set_match", "unordered_fraction", "ordered_fraction")
SINGLES = ("exact_match", "token_f1", "squad_em")
LISTED: dict[str, Callable[[list[str]], str]] = {
    "lines": "\n".join,
    "commas": ", ".join,
    "latex": lambda entries: rf"\[\boxed{{{', '.join(entries)}}}\]",
    "boxes": lambda entries: ", ".join(rf"\boxed{{{entry}}}" for entry in entries),
    "code_fence": lambda entries: "\n".join(["```text", *entries, "```"]),
    "line_break": "<br>".join,
    "table": lambda entries: "\n".join(["| Answer |", "| --- |", *(f"| {entry} |" for entry in entries)]),
    "announced": lambda entries: f"The answers are {', '.join(entries)}.",
    "sentence": lambda entries: f"So the three correct answers are {', '.join(entries)}.",
    "repeated": lambda entries: f"The secret number of obedient-horde is {', '.join(entries)}.",
    "numbering": lambda entries: "\n".join(f"{number}- {entry}" for number, entry in enumerate(entries, 1)),
    "layers": lambda entries: "```\nAnswer: " + rf"$\boxed{{{'<br>'.join(entries)}}}$" + "\n```",
}
NUMBERS: dict[str, Callable[[list[str]], str]] = LISTED | {
    "digits": lambda entries: ", ".join(entries).translate({48 + n: 0x660 + n for n in range(10)}),
    "comment": lambda entries: "\n".join(f"Chapter {entry}: nothing bought" for entry in entries),
    "blanks": " ".join,
}
CAPITALS: dict[str, Callable[[list[str]], str]] = LISTED | {
    "label": lambda entries: ", ".join(f"VAR {entry}" for entry in entries),
    "blanks": " ".join,
}
IDENTIFIERS: dict[str, Callable[[list[str]], str]] = LISTED | {
    "dots": lambda entries: "\n".join(f"{number}.{entry}" for number, entry in enumerate(entries, 1))
}
SINGLE: dict[str, Callable[[list[str]], str]] = {
    "plain": lambda entries: entries[0],
    "latex": lambda entries: rf"\(\boxed{{{entries[0]}}}\)",
    "code_fence": lambda entries: f"```\n{entries[0]}\n```",
    "announced": lambda entries: f"Answer: {entries[0]}",
    "repeated": lambda entries: f"The secret number of obedient-horde is {entries[0]}.",
    "table": lambda entries: f"| Answer |\n|---|\n| {entries[0]} |",
    "layers": lambda entries: rf"**Answer:** $\boxed{{\text{{{entries[0]}}}}}$",
}


def word(draw: random.Random, letters: str, length: int) -> str:
    return "".join(draw.choices(letters, k=length))


def identifier(draw: random.Random) -> str:
    return "-".join(
        draw.choice(string.digits) + word(draw, string.ascii_lowercase, 3) + word(draw, string.digits, 2)
        for _ in range(3)
    )


def name(draw: random.Random) -> str:
    return f"{word(draw, string.ascii_lowercase, 5).title()} {word(draw, string.ascii_lowercase, 6).title()}"


KINDS: dict[str, tuple[Callable[[random.Random], str], dict[str, Callable[[list[str]], str]]]] = {
    "numbers": (lambda draw: str(draw.randrange(10, 999)), NUMBERS),
    "variables": (lambda draw: word(draw, string.ascii_uppercase, 5), CAPITALS),
    "words": (lambda draw: word(draw, string.ascii_lowercase, 6), LISTED | {"blanks": " ".join}),
    "pairs": (lambda draw: f"{identifier(draw)}: {identifier(draw)}", IDENTIFIERS),
    "names": (name, LISTED),
}
# Between two characters of an entry each of these makes another entry of it, or two; ``*`` does so in numbers.
SEPARATING = ("\u00a0", "\\,", "{,}", "<br>", "|")
INSERTED = (" or ", " not ", ".", "-", "/", "x", "7", "{,}", "\\,", "\u00a0", "<br>", "\\boxed{", "$", "'", "|", "^")


def changed(draw: random.Random, entry: str) -> str:
    """Another entry: a character replaced, left out, or something put in between, a denial, another number."""
    places = [i for i in range(1, len(entry)) if entry[i - 1].isalnum() and entry[i].isalnum()]
    place = draw.choice(places)
    if entry.isdigit() and draw.random() < 0.3:
        return draw.choice(
            [f"-{entry}", f"{entry}.5", f"1.{entry}", f"{entry}000", f"0.{entry}", f"{entry[0]}*{entry[1:]}"]
        )
    way = draw.randrange(4)
    if way == 0:
        others = string.digits if entry[place].isdigit() else string.ascii_lowercase
        return entry[:place] + draw.choice(others.replace(entry[place].lower(), "")) + entry[place + 1 :]
    if way == 1:
        return entry[:place] + entry[place + 1 :]
    if way == 2:
        return draw.choice([f"not {entry}", f"{entry} or {entry[::-1]}", f"about {entry}", f"no {entry}"])
    inserted = INSERTED if entry[place - 1].isdigit() and entry[place].isdigit() else INSERTED[:-1]
    return entry[:place] + draw.choice(inserted) + entry[place:]


def wrong(draw: random.Random, gold: list[str], make: Callable[[random.Random], str], ordered: bool) -> list[str]:
    """Entries that are not the gold ones."""
    entries, at = list(gold), draw.randrange(len(gold))
    way = draw.randrange(5)
    if way == 0 and len(gold) > 1:
        del entries[at]
    elif way == 1:
        entries.insert(at, make(draw))
    elif way == 2 and ordered and len(gold) > 1:
        entries = entries[1:] + entries[:1]
    else:
        entries[at] = changed(draw, entries[at])
    return entries


@pytest.mark.slow
@pytest.mark.parametrize("cases", [400, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_no_rule_turns_a_wrong_answer_into_a_right_one(cases: int) -> None:
    draw = random.Random(cases)
    for _ in range(cases):
        kind = draw.choice(sorted(KINDS))
        make, forms = KINDS[kind]
        single = draw.random() < 0.3
        metric = draw.choice(SINGLES if single else LISTS)
        count = 1 if single else draw.randrange(1, 5)
        gold = [make(draw) for _ in range(count)]
        if len({entry.lower() for entry in gold}) < count:
            continue
        for form, write in (SINGLE if single else forms).items():
            # A single "1- 46" may be a difference.
            assert scored(metric, write(gold), gold).value == 1.0 or (form, count) == ("numbering", 1), (form, gold)
        entries = [changed(draw, gold[0])] if single else wrong(draw, gold, make, metric == "ordered_fraction")
        if metric in ("token_f1", "squad_em") and METRICS[metric](entries[0], gold) == 1.0:
            continue  # SQuAD's tokens have no punctuation
        lines = "\n".join(entries), "\n".join(f"{number}. {entry}" for number, entry in enumerate(entries, 1))
        plain = max(scored(metric, answer, gold).value for answer in lines)
        for form, write in (SINGLE if single else forms).items():
            one = scored(metric, write(entries), gold)
            assert one.value < 1.0, (form, metric, write(entries), gold)
            if not any(mark in "".join(entries) for mark in SEPARATING):  # in lists these divide entries, or do not
                assert one.value <= plain, (form, metric, write(entries), gold)


def denying(draw: random.Random) -> Callable[[list[str]], str]:
    """A form that denies the entries it holds."""
    noun = draw.choice(["answer", "chapter", "number", "word", "value", "person", "total", "entry"])
    denial = " ".join(draw.sample(DENIED, draw.choice([1, 1, 2])))
    subject = draw.choice(
        [f"the {noun} {denial}", f"the {noun}s {denial}", f"{denial} {noun}s", denial, f"all but {noun}s"]
    )
    verb = draw.choice([" is ", " are ", ": ", " is: ", " are:\n", ":\n", ":<br>"])
    start = draw.choice(["", "So ", "**", "Here are ", "It is "]) + subject.capitalize() + verb
    return lambda entries: start + draw.choice([", ", "\n", "<br>"]).join(entries)


@pytest.mark.parametrize("cases", [2000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_no_denial_is_read_as_an_announcement_or_a_comment(cases: int) -> None:
    draw = random.Random(cases)
    for _ in range(cases):
        make = KINDS[draw.choice(sorted(KINDS))][0]
        gold = list(dict.fromkeys(make(draw) for _ in range(draw.randrange(1, 5))))
        metric = draw.choice((*LISTS, *SINGLES) if len(gold) == 1 else LISTS)
        answer = denying(draw)(gold)
        one = scored(metric, answer, gold)
        # Of a single answer in free words some are the right ones.
        assert one.value == 0.0 or (len(gold) == 1 and one.value < 1.0), (metric, answer, gold)
        numbers = [str(draw.randrange(10, 99)) for _ in range(3)]
        commented = [f"Chapter {number}: {draw.choice(COMMENTS)}" for number in numbers]
        assert scored("set_iou", "\n".join(commented), numbers).value == 0.0, commented


# --- the run ------------------------------------------------------------------------------------------------


def test_the_shares_of_all_rules_stand_in_the_result(
    tmp_path: Path, dataset: Dataset, model: Path, fake: Any, rows: list[dict[str, Any]]
) -> None:
    texts = {}
    for number, row in enumerate(rows):
        entries = row["answer"].splitlines() if "\n" in row["answer"] else row["answer"].split(", ")
        texts[row["id"]] = [
            f"<answer>{row['answer']}</answer>",
            "<answer>" + "<br>".join(entries) + "</answer>",
            "<answer>```text\n" + "<br>".join(entries) + "\n```",
            "I do not know.",
        ][number % 4]
    fake.texts = texts
    with Run(tmp_path / "run") as opened:
        predict(RunRequest(dataset, dataset.select(), str(model), "fake"), opened)
        result = score_run(opened, dataset)
    for config in result.configs:
        assert config.mean == 0.75
        assert config.read_by == {"tag": 0.5, "open_tag": 0.25, "code_fence": 0.25, "line_break": 0.5}
        assert config.ambiguous == 0.0
    written = json.loads((tmp_path / "run" / "result.json").read_bytes())
    assert written["configs"][0]["read_by"]["line_break"] == 0.5
    reported = run("score", tmp_path / "run")
    assert "read by rules (code_fence, line_break)" in " ".join(reported.out.split())


@pytest.mark.nightly
def test_hostile_answers_take_linear_time() -> None:
    """Quadratic time would be felt."""
    pieces = [
        *"|*_ \n1-.,:{}(<",
        "\\boxed{",
        "\\text{",
        "| a |\n",
        "<br>",
        "1\u00a0234",
        "chapter 4: a\n",
        "VAR A ",
        "1- a\n",
    ]
    pieces += ["1.6a-b\n", "the answer is ", "answer: ", "```\n", "\\(", "\u0664", " and 1", "\u00a0"]
    for piece in pieces:
        text = piece * (30_000 // len(piece))
        for answer in (text, f"x{text}x", f"answer: {text}"):
            for gold in (CHAPTERS, VARIABLES, PAIRS):
                scored("set_iou", answer, gold)
