"""The mistakes that scorers before this one make, a test each: named after the mistake, with who makes it."""

from statistics import fmean

import pytest

from sparse_tasks.evaluators.scoring import score
from tests.evaluators.metrics import LENIENT, METRICS, STRICT

CHAIN = ["VAAAA", "VBBBB", "VCCCC", "VDDDD"]
# Some thousand assignments, as variable tracking has them, the chain among them.
ASSIGNMENTS = "\n".join(f"VAR {CHAIN[n // 1000] if n % 1000 == 0 else f'X{n}'} = {n}" for n in range(4000))


def value(metric: str, answer: str, answers: list[str]) -> float:
    return score(metric, f"<answer>{answer}</answer>", answers).value


@pytest.mark.parametrize("nothing", ["", "I do not know.", "<answer></answer>", "<think><answer>46</answer>"])
@pytest.mark.parametrize("metric", STRICT)
def test_one_right_and_nine_unanswered_is_a_tenth_and_the_share_is_known(metric: str, nothing: str) -> None:
    scores = [score(metric, output, ["46"]) for output in ["<answer>46</answer>", *[nothing] * 9]]
    assert fmean(one.value for one in scores) == 0.1
    assert fmean(not one.parsed for one in scores) == 0.9


def test_rulers_substrings_reward_the_echo_so_they_are_named_so_and_have_a_strict_twin() -> None:
    for lenient, strict in [("string_match_all", "unordered_fraction"), ("string_match_part", "token_f1")]:
        assert lenient in LENIENT
        assert lenient.startswith("string_match")
        assert strict in STRICT
        assert score(lenient, ASSIGNMENTS, CHAIN).value == 1.0
        assert value(strict, ASSIGNMENTS, CHAIN) < 0.05


def test_no_strict_metric_finds_an_answer_inside_a_longer_one() -> None:
    for metric in STRICT:
        assert value(metric, "1460", ["46"]) == 0.0
    for metric in LENIENT:
        assert value(metric, "1460", ["46"]) == 1.0


@pytest.mark.parametrize("metric", ["string_match_part", "token_f1"])
def test_one_of_three_references_is_enough(metric: str) -> None:
    references = ["Paris", "City of Light", "Lutetia"]
    for reference in references:
        assert value(metric, reference, references) == 1.0


def test_string_match_all_is_the_share_of_the_entries() -> None:
    assert score("string_match_all", "VAAAA and vcccc", CHAIN).value == 2 / 4
    assert score("string_match_all", "VAAAA VAAAA", CHAIN).value == 1 / 4


def test_f1_counts_a_bag_of_tokens() -> None:
    # As sets both sides are {buffalo, city}, and F1 would be 1.
    assert value("token_f1", "buffalo city", ["buffalo buffalo buffalo city"]) == 2 * 2 / (2 + 4)
    assert value("token_f1", "buffalo buffalo buffalo city", ["buffalo city"]) == 2 * 2 / (4 + 2)


def test_f1_is_not_rounded() -> None:
    assert value("token_f1", "one two", ["one three four five six"]) == 2 / 7
    assert value("token_f1", "one two three", ["one two four"]) == 2 * 2 / 6


def test_f1_compares_tokens_as_squad_does() -> None:
    for same in (
        "The small brass telescope.",
        "small, BRASS telescope",
        "a small (brass) telescope!",
        "**small** brass telescope",
    ):
        assert value("token_f1", same, ["small brass telescope"]) == 1.0
    assert value("token_f1", "of the people by the people", ["of people, by people"]) == 1.0
    assert value("token_f1", "", ["small brass telescope"]) == 0.0
    assert METRICS["token_f1"](None, ["small brass telescope"]) == 0.0
    assert METRICS["token_f1"]("?!", ["small brass telescope"]) == 0.0


@pytest.mark.parametrize("gold", ["The", "A", "the the"])
def test_f1_of_gold_that_is_an_article_is_one(gold: str) -> None:
    assert value("token_f1", gold, [gold]) == 1.0
    assert value("token_f1", "an otter", [gold]) == 0.0
