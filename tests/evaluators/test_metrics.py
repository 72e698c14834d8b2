"""The metrics: each known mistake of a scorer has a test; what holds for every answer is tried on many."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.evaluators.answers import normalise
from sparse_tasks.evaluators.metrics.exact_match import exact_match
from sparse_tasks.evaluators.metrics.ordered_fraction import ordered_fraction
from sparse_tasks.evaluators.metrics.set_iou import set_iou
from sparse_tasks.evaluators.metrics.set_match import set_match
from sparse_tasks.evaluators.metrics.squad_em import squad_em
from sparse_tasks.evaluators.metrics.token_f1 import token_f1
from sparse_tasks.evaluators.metrics.unordered_fraction import unordered_fraction
from tests.evaluators.metrics import METRICS, Metric, numbered

LISTS = {name: metric for name, metric in METRICS.items() if name not in ("exact_match", "squad_em", "token_f1")}
SETS = {"set_iou": set_iou, "unordered_fraction": unordered_fraction}
FACTS = ["Otter Quay", "Anna Kowalska", "small brass telescope", "Salt and Pepper Inn"]

# Names as the generators write them, and worse: with hyphens, apostrophes, commas, "and", digits, any script.
_WORDS = st.one_of(
    st.from_regex(r"[A-Za-z]{2,8}(?:-[A-Za-z]{2,6})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,7}", fullmatch=True),
    st.text(alphabet=st.characters(categories=["Lu", "Ll", "Lo"]), min_size=2, max_size=6),
    st.sampled_from(["and", "O'Brien", "the", "Wells,", "Inn", "Chapter", "1,234", "a", "No."]),
)
_PHRASES = st.lists(_WORDS, min_size=1, max_size=4).map(" ".join)
# "3, 17 and 42" on its own line is three entries, so it is not drawn as one.
_SEVERAL_NUMBERS = re.compile(r"(?:chapter\s)?[0-9,]+(?:\s+(?:and|[0-9,]+))+\.?", re.IGNORECASE)
_ENTRIES = st.one_of(_PHRASES, st.tuples(_WORDS, _PHRASES).map(": ".join)).filter(
    lambda entry: normalise(entry) and not _SEVERAL_NUMBERS.fullmatch(entry)
)
_GOLD = st.lists(_ENTRIES, min_size=1, max_size=6, unique_by=normalise)


@given(_GOLD)
def test_the_gold_answer_scores_one(gold: list[str]) -> None:
    assert exact_match(gold[0], gold[:1]) == 1.0
    assert token_f1(gold[-1], gold) == squad_em(gold[-1], gold) == 1.0
    for metric in LISTS.values():
        assert metric("\n".join(gold), gold) == 1.0
        assert metric(numbered(gold), gold) == 1.0


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("46", "46"),
        ("46.", "46"),
        ("**46**", "46"),
        ("1,046", "1046"),
        ("1046", "1,046"),
        ("-5", "\u22125"),
        ("The small brass telescope.", "small brass telescope"),
        ("\u201cSmall brass telescope\u201d", "small brass telescope"),
    ],
)
def test_the_same_answer_in_other_wrappings_is_right(prediction: str, gold: str) -> None:
    assert exact_match(prediction, [gold]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("46 or 47", "46"),
        ("46, 47", "46"),
        ("46\n47", "46"),
        ("46 thousand", "46"),
        ("46 or", "46"),
        ("46 plus ten", "46"),
        ("about 46", "46"),
        ("46.5", "46"),
        ("146", "46"),
        ("466", "46"),
        ("-46", "46"),
        ("46: 47", "46"),
        ("The answer is 46", "46"),
        ("telescope", "small brass telescope"),
        ("small brass telescope or lamp", "small brass telescope"),
        ("small brass telescope, large iron lamp", "small brass telescope"),
    ],
)
def test_hedging_and_half_an_answer_are_wrong(prediction: str, gold: str) -> None:
    assert exact_match(prediction, [gold]) == 0.0


@pytest.mark.parametrize(
    "prediction",
    [
        "3, 17, 42",
        "42, 3, 17",
        "3,17,42",
        "3, 17, and 42.",
        "Chapters 3, 17 and 42",
        "Chapters: 3, 17, 42",
        "1. Chapter 3\n2. Chapter 17\n3. Chapter 42",
        "1. 3\n2. 17\n3. 42",
        "{3, 17, 42}",
        "Chapters without a purchase:\n3, 17, 42",
    ],
)
def test_chapters_are_read_in_every_common_form(prediction: str) -> None:
    assert set_iou(prediction, ["3", "17", "42"]) == 1.0
    assert unordered_fraction(prediction, ["3", "17", "42"]) == 1.0


def test_chapters_of_three_digits_without_blanks_are_not_one_number() -> None:
    assert set_iou("103,217,342", ["103", "217", "342"]) == 1.0


def test_set_iou_is_intersection_over_union_and_not_rounded() -> None:
    assert set_iou("3, 17, 9", ["3", "17", "42"]) == 2 / 4
    assert set_iou("3", ["3", "17", "42"]) == 1 / 3
    assert set_iou("3, 17, 42, 5, 6, 7", ["3", "17", "42"]) == 3 / 6
    assert set_iou("3, 3, 3", ["3", "17", "42"]) == 1 / 3


def test_a_set_is_not_a_bag_of_tokens() -> None:
    # SQuAD's F1 over all words gives this 1.0: each word is right, no thing is.
    assert set_iou("small iron lamp\nlarge brass telescope", ["small brass telescope", "large iron lamp"]) == 0.0


def test_one_entry_that_holds_a_separator_is_one_entry() -> None:
    for entry in ("Salt and Pepper Inn", "Wells, Somerset", "a; b", "1. FC Otter"):
        for metric in LISTS.values():
            assert metric(entry, [entry]) == 1.0


@pytest.mark.parametrize("metric", SETS.values(), ids=SETS)
def test_a_pair_is_right_only_with_its_own_value(metric: Metric) -> None:
    assert metric("a: 1\nb: 2", ["a: 2", "b: 1"]) == 0.0
    assert metric("1\n2", ["a: 1", "b: 2"]) == 0.0


def test_pairs_keyed_by_small_numbers_are_not_numbered_entries() -> None:
    assert unordered_fraction("1: 45\n2: 46\n3: 47", ["1: 45", "2: 46", "3: 47"]) == 1.0
    assert unordered_fraction("1: 45\n2: 46\n3: 99", ["1: 45", "2: 46", "3: 47"]) == 2 / 3


def test_unordered_fraction_divides_by_the_longer_side() -> None:
    assert unordered_fraction("Otter Quay\nAnna Kowalska", FACTS) == 2 / 4
    assert unordered_fraction("\n".join([*FACTS, "x", "y", "z", "w"]), FACTS) == 4 / 8
    assert unordered_fraction("46", ["46", "46"]) == 1.0


def test_an_ordered_answer_needs_its_order() -> None:
    assert ordered_fraction("\n".join(FACTS), FACTS) == 1.0
    assert ordered_fraction("\n".join([FACTS[1], FACTS[0], *FACTS[2:]]), FACTS) == 2 / 4


def test_one_left_out_does_not_shift_the_rest_where_the_lines_are_numbered() -> None:
    assert ordered_fraction("1. Otter Quay\n3. small brass telescope\n4. Salt and Pepper Inn", FACTS) == 3 / 4
    assert ordered_fraction("Otter Quay\nsmall brass telescope\nSalt and Pepper Inn", FACTS) == 1 / 4


def test_numbers_place_lines_in_any_order() -> None:
    lines = numbered(FACTS).splitlines()
    assert ordered_fraction("\n".join(reversed(lines)), FACTS) == 1.0
    assert ordered_fraction("Here you are\n" + "\n".join(lines), FACTS) == 4 / 5


@pytest.mark.parametrize("numbers", [[1, 1, 1, 1], [0, 1, 2, 3]])
def test_numbers_that_are_no_places_are_ignored(numbers: list[int]) -> None:
    lines = [f"{number}. {fact}" for number, fact in zip(numbers, FACTS, strict=True)]
    assert ordered_fraction("\n".join(lines), FACTS) == 1.0


def test_extra_entries_cost() -> None:
    assert ordered_fraction("\n".join([*FACTS, "x", "y", "z", "w"]), FACTS) == 4 / 8
    assert ordered_fraction(numbered([*FACTS, "x", "y", "z", "w"]), FACTS) == 4 / 8


def test_a_place_may_be_left_blank() -> None:
    assert ordered_fraction("1. Otter Quay\n2.\n3. small brass telescope\n4. -", FACTS) == 2 / 4


def test_the_same_entry_may_be_right_twice() -> None:
    assert ordered_fraction("1. Otter Quay\n2. Otter Quay", ["Otter Quay", "Otter Quay"]) == 1.0


def test_metrics_are_named_as_their_functions() -> None:
    for name in METRICS:
        assert re.fullmatch(r"[a-z]+(?:_[a-z0-9]+)*", name)
        assert getattr(METRICS[name].function, "__name__", None) == name


@pytest.mark.parametrize(
    "given",
    [
        "A, C",
        "C and A",
        "A and C",
        "a, c",
        "A\nC",
        "C, A, C",
        "A), C)",
        "A., C.",
        "- A\n- C",
    ],
)
def test_letters_are_a_set(given: str) -> None:
    assert set_match(given, ["A", "C"]) == 1.0
    assert set_match(given, ["C", "A"]) == 1.0
    for other in (["A"], ["C"], ["A", "B"], ["A", "B", "C"], ["B"]):
        assert set_match(given, other) == 0.0


@pytest.mark.parametrize("given", ["B", "b", "(B)", "B)", "B.", " B\n", "**B**", "`B`", "B:", "[B]", "B, B"])
def test_one_letter_in_all_its_forms(given: str) -> None:
    assert set_match(given, ["B"]) == 1.0


@pytest.mark.parametrize(
    "given",
    [
        "B) because",
        "B or C",
        "A B C D",
        "not B",
        "BC",
        "A, B",
        "B. Otter Quay",
        "and",
        "ß",
    ],
)
def test_more_than_a_letter_is_not_a_choice(given: str) -> None:
    assert set_match(given, ["B"]) == 0.0


def test_all_or_nothing_goes_for_other_sets_too() -> None:
    assert set_match("Otter Quay\nsmall brass telescope", ["small brass telescope", "Otter Quay"]) == 1.0
    assert set_match("Otter Quay", ["small brass telescope", "Otter Quay"]) == 0.0


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("in 1066", 1.0),
        ("the 1066.", 1.0),
        ("1066", 1.0),
        ("In the year 1066", 0.0),
        ("1066 in", 0.0),
        ("", 0.0),
        ("the", 0.0),
        ("Saint-Denis", 0.0),
    ],
)
def test_squads_exact_match_is_the_best_over_references(given: str, value: float) -> None:
    assert squad_em(given, ["in 1066", "1066"]) == value


def test_squads_exact_match_has_squads_tokens() -> None:
    assert squad_em("the Duke of the Normans", ["Duke of Normans"]) == 1.0
    assert squad_em("the", ["The"]) == 1.0  # nothing but articles keeps them
    assert squad_em("SaintDenis", ["Saint-Denis"]) == 1.0  # punctuation is removed without a blank
    assert squad_em("Otter", ["Quay"]) == 0.0
