"""The mistakes that scorers before this one make, a test each: named after the mistake, with who makes it."""

from statistics import fmean

import pytest

from sparse_tasks.evaluators.scoring import score
from sparse_tasks.evaluators.statistics import difference_interval, mean_interval
from tests.evaluators.metrics import LENIENT, METRICS, STRICT

FACTS = ["Otter Quay", "Anna Kowalska", "small brass telescope"]
PAIRS = ["abcd1234-efgh5678: ijkl", "mild-otter: 1234567", "12: 45"]
CHAIN = ["VAAAA", "VBBBB", "VCCCC", "VDDDD"]
# Some thousand assignments, as variable tracking has them, the chain among them.
ASSIGNMENTS = "\n".join(f"VAR {CHAIN[n // 1000] if n % 1000 == 0 else f'X{n}'} = {n}" for n in range(4000))


def value(metric: str, answer: str, answers: list[str]) -> float:
    return score(metric, f"<answer>{answer}</answer>", answers).value


# --- unanswered samples left out of the mean (sparse-frontier: story multi-hop, story filtering) -------------


@pytest.mark.parametrize("nothing", ["", "I do not know.", "<answer></answer>", "<think><answer>46</answer>"])
@pytest.mark.parametrize("metric", STRICT)
def test_one_right_and_nine_unanswered_is_a_tenth_and_the_share_is_known(metric: str, nothing: str) -> None:
    scores = [score(metric, output, ["46"]) for output in ["<answer>46</answer>", *[nothing] * 9]]
    assert fmean(one.value for one in scores) == 0.1
    assert fmean(not one.parsed for one in scores) == 0.9


# --- order that matters where it should not (sparse-frontier: needles) ---------------------------------------


@pytest.mark.parametrize("metric", ["set_iou", "unordered_fraction"])
def test_right_pairs_in_another_order_are_right(metric: str) -> None:
    for order in (PAIRS, PAIRS[::-1], [*PAIRS[1:], PAIRS[0]]):
        assert value(metric, "\n".join(order), PAIRS) == 1.0
        assert value(metric, ", ".join(order), PAIRS) == 1.0


# --- whole prose scored as the answer where tags are missing (sparse-frontier: variable tracking) ------------


@pytest.mark.parametrize("metric", STRICT)
@pytest.mark.parametrize("prose", ["{0}", "The answer is {0}.", "Answer: {0}", "**{0}**", "{0}</answer>", "# {0}\n"])
def test_prose_without_tags_is_no_answer(metric: str, prose: str) -> None:
    one = score(metric, prose.format("VAAAA"), ["VAAAA"])
    assert (one.value, one.extracted, one.parsed, one.how) == (0.0, None, False, None)


@pytest.mark.parametrize(
    ("output", "how"), [("<answer>46", "open_tag"), ("so \\boxed{46}", "boxed"), ("<answer>46</answer>", "tag")]
)
def test_a_fallback_is_reported(output: str, how: str) -> None:
    one = score("exact_match", output, ["46"])
    assert (one.value, one.parsed, one.how) == (1.0, True, how)


# --- echo wins (RULER, lm-eval: substrings; sparse-frontier: variable tracking) ------------------------------


@pytest.mark.parametrize("metric", STRICT)
def test_repeating_the_context_wins_nothing_with_or_without_tags(metric: str) -> None:
    for context in (ASSIGNMENTS, ASSIGNMENTS.replace("\n", ", "), " ".join(ASSIGNMENTS.split())):
        for output in (context, f"<answer>{context}</answer>", f"<answer>{context}", f"\\boxed{{{context}}}"):
            assert score(metric, output, CHAIN).value < 0.05


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


# --- mean over references instead of maximum (lm-eval: string_match_part) ------------------------------------


@pytest.mark.parametrize("metric", ["string_match_part", "token_f1"])
def test_one_of_three_references_is_enough(metric: str) -> None:
    references = ["Paris", "City of Light", "Lutetia"]
    for reference in references:
        assert value(metric, reference, references) == 1.0


def test_string_match_all_is_the_share_of_the_entries() -> None:
    assert score("string_match_all", "VAAAA and vcccc", CHAIN).value == 2 / 4
    assert score("string_match_all", "VAAAA VAAAA", CHAIN).value == 1 / 4


# --- F1 on sets, and rounded (sparse-frontier: question answering) -------------------------------------------


def test_f1_counts_a_bag_of_tokens() -> None:
    # As sets both sides are {buffalo, city}, and F1 would be 1.
    assert value("token_f1", "buffalo city", ["buffalo buffalo buffalo city"]) == 2 * 2 / (2 + 4)
    assert value("token_f1", "buffalo buffalo buffalo city", ["buffalo city"]) == 2 * 2 / (4 + 2)


def test_f1_is_not_rounded() -> None:
    assert value("token_f1", "one two", ["one three four five six"]) == 2 / 7
    assert value("token_f1", "one two three", ["one two four"]) == 2 * 2 / 6


def test_f1_is_harmonic_mean_of_precision_and_recall() -> None:
    precision, recall = 1 / 4, 1 / 2
    harmonic = 2 * precision * recall / (precision + recall)
    assert value("token_f1", "one two three four", ["one five"]) == pytest.approx(harmonic, rel=1e-15)


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


# --- variance without intervals, pairs compared as if they were none (sparse-frontier) -----------------------


def test_a_mean_comes_with_an_interval_that_holds_it_even_where_all_are_right() -> None:
    for scores in ([1.0] * 20, [0.0] * 20, [1.0, 0.5, 0.0] * 7):
        interval = mean_interval(scores)
        assert interval.low <= fmean(scores) <= interval.high
        assert 0.0 < interval.high - interval.low < 1.0


def test_dense_and_sparse_are_compared_by_their_pairs() -> None:
    dense = [1.0, 0.0] * 50
    lost = set(range(0, 40, 4))
    sparse = [0.0 if number in lost else one for number, one in enumerate(dense)]
    # As strangers the two cannot be told apart: their intervals overlap. Ten samples lost and none won can.
    assert mean_interval(sparse).high > mean_interval(dense).low
    assert difference_interval([b - a for a, b in zip(dense, sparse, strict=True)]).high < 0.0


# --- what is thought scored as if it were said ---------------------------------------------------------------


@pytest.mark.parametrize("metric", STRICT)
def test_a_guess_in_thought_is_not_an_answer(metric: str) -> None:
    assert score(metric, "<think>Is it <answer>46</answer>?</think> I cannot tell.", ["46"]).value == 0.0
    assert score(metric, "Is it <answer>46</answer>?</think> I cannot tell.", ["46"]).value == 0.0
    assert score(metric, "<think>Is it <answer>46</answer>?", ["46"]).value == 0.0
    assert score(metric, "<think>Is it <answer>45</answer>?</think><answer>46</answer>", ["46"]).value == 1.0


# --- a list read by a rule that its entries break ------------------------------------------------------------


def test_a_list_is_scored_by_entries_and_not_by_words() -> None:
    swapped = ["small iron lamp", "large brass telescope"]
    assert value("set_iou", "\n".join(swapped), ["small brass telescope", "large iron lamp"]) == 0.0
    assert value("ordered_fraction", "\n".join(FACTS[::-1]), FACTS) == 1 / 3
