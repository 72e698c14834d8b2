"""The answer parser: what counts as an answer, where one entry ends, and when two are the same."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparse_tasks.evaluators.answers import Extraction, How, entries, extract, extraction, items, normalise


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("<answer>46</answer>", "46"),
        ("It is this.\n<ANSWER>\n46\n</Answer >\nGood luck!", "46"),
        ("<answer>45</answer> No, wait. <answer>46</answer>", "46"),
        ("I will write it in <answer> tags: <answer>46</answer>", "46"),
        ("<answer>46</answer><answer>46</answer><answer>4", "46"),
    ],
)
def test_the_last_closed_tag_is_the_answer(output: str, answer: str) -> None:
    assert extraction(output) == Extraction(answer, "tag")


@pytest.mark.parametrize("output", ["46", "The answer is 46.", "Answer: 46", "**46**", "46</answer>", "", " \n"])
def test_no_tags_is_no_answer_and_prose_is_not_searched(output: str) -> None:
    assert extract(output) is None


@pytest.mark.parametrize(
    "output", ["<answer></answer>", "<answer> \n </answer>", "<answer>", "<answer>  ", "\\boxed{}"]
)
def test_an_empty_answer_is_none(output: str) -> None:
    assert extract(output) is None


def test_an_empty_last_answer_takes_the_earlier_one_back() -> None:
    assert extract("<answer>46</answer> I am not sure. <answer></answer>") is None


def test_an_answer_cut_off_counts_to_the_end_and_says_so() -> None:
    assert extraction("Well. <answer>1. Otter Quay\n2. Anna") == Extraction("1. Otter Quay\n2. Anna", "open_tag")


@pytest.mark.parametrize(
    ("output", "answer", "how"),
    [
        ("46</answer>", "46", "tag"),
        ("46\n</ANSWER>\nGood luck!", "46", "tag"),
        ("46", "46", "open_tag"),  # the model stopped, or its budget ended
        ("1. Otter Quay\n2. Anna", "1. Otter Quay\n2. Anna", "open_tag"),
        # What comes after the answer is another turn, as base models write.
        ("46</answer>\n\nAnother question. <answer>47</answer>", "46", "tag"),
        ("<answer>46</answer>", "46", "tag"),
        ("<explanation>It says so.</explanation>\n<answer>46</answer>", "46", "tag"),
        ("Well, thinking.</think>46</answer>", "46", "tag"),
    ],
)
def test_an_output_that_was_begun_is_the_answer_until_it_is_closed(output: str, answer: str, how: How) -> None:
    assert extraction(output, begun=True) == Extraction(answer, how)


@pytest.mark.parametrize("output", ["", " \n", "</answer>", "\n</answer> 46", "<think>46", "<answer></answer>46"])
def test_an_output_that_was_begun_and_says_nothing_is_none(output: str) -> None:
    assert extract(output, begun=True) is None


@pytest.mark.parametrize(
    "output",
    [
        "<think>Maybe <answer>45</answer>?</think><answer>46</answer>",
        "<answer>46</answer><think>or <answer>45</answer>",
        "Maybe <answer>45</answer>?</think>\n\n<answer>46</answer>",
        "<think>a <think>b</think> <answer>45</answer></think><answer>46</answer>",
        "<THINKING>45</THINKING><answer>46</answer>",
        "<think></think><answer><think>45?</think>46</answer>",
    ],
)
def test_what_is_only_thought_is_not_an_answer(output: str) -> None:
    assert extract(output) == "46"


@pytest.mark.parametrize(
    "output",
    ["<think>It is <answer>46</answer>", "<answer>46</answer></think>", "<think>\\boxed{46}</think>Hm."],
)
def test_an_answer_given_only_in_thought_is_none(output: str) -> None:
    assert extract(output) is None


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("So it is $\\boxed{46}$.", "46"),
        ("\\boxed{45}, no, \\boxed{46}", "46"),
        ("\\boxed{a {b} c}", "a {b} c"),
    ],
)
def test_a_box_is_a_fallback_and_says_so(output: str, answer: str) -> None:
    assert extraction(output) == Extraction(answer, "boxed")


def test_a_box_never_beats_a_tag() -> None:
    assert extract("<answer>46</answer> \\boxed{45}") == "46"
    assert extract("<answer></answer> \\boxed{45}") is None
    assert extract("\\boxed{45") is None


@given(st.text(alphabet="<>/answerthinkAT {}\\boxed46\n", max_size=200) | st.text())
def test_any_output_can_be_parsed(output: str) -> None:
    answer = extract(output)
    assert answer is None or answer == answer.strip() != ""
    for item in items(answer or ""):
        normalise(item)


@pytest.mark.parametrize(
    "answer",
    [
        "Otter Quay\nAnna Kowalska\nsmall brass telescope",
        "1. Otter Quay\n2. Anna Kowalska\n3. small brass telescope",
        "1) Otter Quay\n2) Anna Kowalska\n3) small brass telescope",
        "1: Otter Quay\n2: Anna Kowalska\n3: small brass telescope",
        "* **Otter Quay**\n* *Anna Kowalska*\n* `small brass telescope`",
        "\u2022 Otter Quay\n\u2022 Anna Kowalska\n\u2022 small brass telescope",
        "- 1. Otter Quay\n- 2. Anna Kowalska\n- 3. small brass telescope",
        "**1. Otter Quay**\n**2.** Anna Kowalska\n3. `small brass telescope`",
        "\nOtter Quay\n\n  Anna Kowalska  \n\nsmall brass telescope\n",
        "The answers are:\n1. Otter Quay\n2. Anna Kowalska\n3. small brass telescope",
        '[\n  "Otter Quay",\n  "Anna Kowalska",\n  "small brass telescope"\n]',
        '["Otter Quay", "Anna Kowalska", "small brass telescope"]',
        "Otter Quay, Anna Kowalska, small brass telescope",
        "Otter Quay, Anna Kowalska, and small brass telescope",
        "Otter Quay and Anna Kowalska and small brass telescope",
        "1. Otter Quay 2. Anna Kowalska 3. small brass telescope",
        "1: Otter Quay, 2: Anna Kowalska, 3: small brass telescope",
        "\u201cOtter Quay\u201d, \u201cAnna Kowalska\u201d, \u2018small brass telescope\u2019",
    ],
)
def test_a_list_is_read_in_every_common_form(answer: str) -> None:
    assert items(answer) == ["Otter Quay", "Anna Kowalska", "small brass telescope"]


@pytest.mark.parametrize(
    "name",
    [
        "Saint-Jean-de-Luz",
        "the Thieves\u2019 Market",
        "Salt and Pepper Inn",
        "Wells, Somerset",
        "Mr. Fox",
        "-5",
        "3.5 yards",
        "abcd1234-efgh5678: ijkl",
        "12: 45",
        "snake_case_name",
        "\u6771\u4eac\u90fd",
        "\u041d\u0438\u0436\u043d\u0438\u0439 \u041d\u043e\u0432\u0433\u043e\u0440\u043e\u0434",
        "\u0645\u062d\u0645\u062f \u0639\u0644\u06cc",
        "C\u00e9line \u0141uczak",
    ],
)
def test_one_line_is_one_entry_whatever_it_holds(name: str) -> None:
    assert items(f"{name}\nOtter Quay") == [name, "Otter Quay"]
    assert items(f"1. {name}\n2. Otter Quay") == [name, "Otter Quay"]


def test_pairs_stay_whole() -> None:
    pairs = ["abcd1234-efgh5678: ijkl", "7654321: 1234567", "12: 45"]
    assert items("\n".join(pairs)) == pairs
    assert items(", ".join(pairs)) == pairs
    assert items("\n".join(reversed(pairs))) == pairs[::-1]


def test_a_pair_keyed_by_one_is_not_a_numbered_entry_where_the_gold_says_so() -> None:
    assert items("1: 45\n2: 46") == ["45", "46"]
    assert items("1: 45\n2: 46", known={"1: 45", "2: 46"}) == ["1: 45", "2: 46"]


def test_thousands_separators_do_not_split() -> None:
    assert items("1,234, 5, 2,345,678") == ["1234", "5", "2345678"]
    assert items("1,234") == ["1234"]
    assert items("3,17,42") == ["3", "17", "42"]
    assert items("3,117,42") == ["3", "117", "42"]


def test_numbers_without_blanks_are_a_list_where_the_gold_says_so() -> None:
    assert items("103,217,342", known={"103", "217", "342"}) == ["103", "217", "342"]
    assert items("1,234", known={"1234", "234"}) == ["1,234"]


def test_lines_of_bare_numbers_are_lists_themselves() -> None:
    assert items("Chapters without a purchase:\n3, 17,\n42") == ["3", "17", "42"]


def test_a_known_entry_is_never_broken_up() -> None:
    known = {"salt and pepper inn", "wells, somerset"}
    assert items("Salt and Pepper Inn", known) == ["Salt and Pepper Inn"]
    assert items("1. Salt and Pepper Inn", known) == ["Salt and Pepper Inn"]
    assert items("Otter Quay, Salt and Pepper Inn", known) == ["Otter Quay", "Salt and Pepper Inn"]
    assert items("Wells, Somerset", known) == ["Wells, Somerset"]


def test_numbers_are_kept_for_ordered_answers() -> None:
    assert [entry.number for entry in entries("1. a\n3) b\nc")] == [1, 3, None]
    assert [entry.number for entry in entries("1: a\n2: b\n5: c")] == [1, 2, 5]


@pytest.mark.parametrize("answer", ["", " ", "\n", "---", "[]", "```\n```", ",", "1.", "***"])
def test_empty_answers_have_no_entries(answer: str) -> None:
    assert [item for item in items(answer) if item != "1."] == []


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("Small  brass\ntelescope.", "small brass telescope"),
        ("A small brass telescope!", "small brass telescope"),
        ('"Small brass telescope."', "small brass telescope"),
        ("**small brass telescope**", "small brass telescope"),
        ("\u201cthe small brass telescope\u201d", "small brass telescope"),
        ("O\u2019Brien", "O'Brien"),
        ("Saint\u2011Jean\u2013de\u2014Luz", "Saint-Jean-de-Luz"),
        ("STRASSE", "stra\u00dfe"),
        ("Ce\u0301line", "C\u00e9line"),
        ("\uff14\uff16", "46"),
        ("\u0664\u0666", "46"),
        ("\u096a\u096c", "46"),
        ("\u0661\u066c\u0662\u0663\u0664", "1234"),
        ("46\u00b2", "46^2"),
        ("1,234,567.", "1234567"),
        ("$46$", "46"),
        ("Ch. 3.", "3"),
        ("**Chapter 1,203**", "1203"),
        ("abcd1234-efgh5678 :ijkl", "abcd1234-efgh5678: ijkl"),
        ("**abcd1234-efgh5678:** `ijkl`", "abcd1234-efgh5678: ijkl"),
        ('"abcd" : "ijkl"', "abcd: ijkl"),
        ("abcd\uff1aijkl", "abcd: ijkl"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_equivalent_answers_are_equal(written: str, same: str) -> None:
    assert normalise(written) == normalise(same) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Anna-Maria", "Anna Maria"),
        ("O'Brien", "Brien"),
        ("Jos\u00e9", "Jose"),
        ("4.6", "46"),
        ("4*6", "46"),
        ("4`6", "46"),
        ("4\u2076", "46"),
        ("\u0664\u066b\u0666", "46"),
        ("1,23", "123"),
        ("1,234.5", "12345"),
        ("theatre", "atre"),
        ("snake_case", "snakecase"),
        ("Chapter 3 and 4", "3"),
        ("\u6771\u4eac", "\u4eac\u6771"),
    ],
)
def test_different_things_stay_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(("word", "form"), [("the", "the"), ("A", "a"), ("the the", "the"), ("?!", ""), ("", "")])
def test_an_article_alone_stays_and_punctuation_alone_is_nothing(word: str, form: str) -> None:
    assert normalise(word) == form


@example("A \u2014")
@given(st.text(alphabet="abAB the1,234'\"-.\u2019\u2014\u00e9\u0130\u00df\u6771", max_size=30))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_hostile_output_takes_linear_time() -> None:
    """Quadratic time would be felt."""
    tags = ["<think>", "</think>", "<answer>", "</answer>", "<", "\\boxed{", "\\text{"]
    marks = [" ", "\n", "a\n", '"', "'", "the ", " and ", "chapter ", "1", "1,", "1. ", "- ", ",", ": ", "*", "(", "_"]
    for piece in tags + marks:
        text = piece * (30_000 // len(piece))
        for output in (text, f"<answer>{text}</answer>", f"<answer>x{text}x</answer>"):
            for item in items(extract(output) or ""):
                normalise(item)
            normalise(extract(output) or "")
