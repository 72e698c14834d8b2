"""Scoring an output: no answer is wrong, not absent, and the score says what it compared."""

from statistics import fmean

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.scoring import Score, score
from tests.evaluators.metrics import LENIENT, STRICT


def test_a_score_says_what_was_compared_and_how_it_was_found() -> None:
    assert score("exact_match", "So: <answer>46 crowns</answer>", ["46"]) == Score(1.0, "46 crowns", True, "tag")
    assert score("exact_match", "So: <answer>46", ["46"]) == Score(1.0, "46", True, "open_tag")
    assert score("exact_match", "So: \\boxed{46}", ["46"]) == Score(1.0, "46", True, "boxed")
    assert score("exact_match", "So: 46", ["46"]) == Score(0.0, None, False, None)


def test_unanswered_is_not_dropped_from_the_mean() -> None:
    # sparse-frontier leaves them out, and one right answer among nine empty ones scores 1.0.
    for metric in STRICT:
        outputs = ["<answer>46</answer>", *["", "I do not know.", "<answer></answer>"] * 3]
        scores = [score(metric, output, ["46"]) for output in outputs]
        assert fmean(s.value for s in scores) == 0.1
        assert [s.parsed for s in scores] == [True] + [False] * 9


@pytest.mark.parametrize("metric", STRICT)
def test_without_tags_the_prose_is_not_the_answer(metric: str) -> None:
    for output in ("46", "The answer is 46.", "1. 46", "46\n", "Answer: 46"):
        assert score(metric, output, ["46"]).value == 0.0


@pytest.mark.parametrize("metric", STRICT)
def test_repeating_the_context_is_not_an_answer(metric: str) -> None:
    context = "\n".join(f"The special number for key-{n} is {n * 7919}." for n in range(2000))
    for output in (context, f"<answer>{context}</answer>", f"<answer>{context}", f"\\boxed{{{context}}}"):
        assert score(metric, output, [str(7919 * 77)]).value < 0.05


@pytest.mark.parametrize("metric", sorted(LENIENT))
def test_a_lenient_metric_reads_the_whole_output(metric: str) -> None:
    assert score(metric, " It is 46.\n", ["46"]) == Score(1.0, "It is 46.", True)
    assert score(metric, "<answer>45</answer> or 46", ["46"]).value == 1.0
    assert score(metric, "I do not know.", ["46"]) == Score(0.0, "I do not know.", True)
    for blank in ("", " \n"):
        assert score(metric, blank, ["46"]) == Score(0.0, None, False)


def test_thinking_is_not_answering() -> None:
    assert score("exact_match", "<think><answer>46</answer></think>", ["46"]).value == 0.0
    assert score("exact_match", "<think><answer>45</answer></think><answer>46</answer>", ["46"]).value == 1.0


@pytest.mark.parametrize(
    ("metric", "output", "answers"),
    [
        (
            "ordered_fraction",
            "<answer>1. Otter Quay\n2. Anna Kowalska</answer>",
            ["Otter Quay", "Anna Kowalska"],
        ),
        ("unordered_fraction", "<answer>b: 2\na: 1</answer>", ["a: 1", "b: 2"]),
        ("set_iou", "<answer>Chapters 3, 17 and 42</answer>", ["3", "17", "42"]),
        ("exact_match", "<answer>small brass telescope</answer>", ["small brass telescope"]),
    ],
)
def test_the_answers_of_the_tasks_score_one(metric: str, output: str, answers: list[str]) -> None:
    assert score(metric, output, answers).value == 1.0


def test_an_unknown_metric_is_refused_and_the_near_one_named() -> None:
    with pytest.raises(UsageError, match="set_iou"):
        score("set_io", "<answer>46</answer>", ["46"])


@pytest.mark.parametrize("answers", [[], [""], ["46", " "], ["?!"], "46"])
def test_gold_that_no_answer_could_match_is_refused(answers: list[str]) -> None:
    with pytest.raises(UsageError):
        score("set_iou", "<answer>46</answer>", answers)
