"""Scoring an output: no answer is wrong, not absent, and the score says what it compared."""

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.scoring import Score, score
from tests.evaluators.metrics import LENIENT


def test_a_score_records_what_was_compared_and_its_place() -> None:
    assert score("exact_match", "So: <answer>46 crowns</answer>", ["46"]) == Score(1.0, "46", True, "tag", ("unit",))
    assert score("exact_match", "So: <answer>46", ["46"]) == Score(1.0, "46", True, "open_tag")
    assert score("exact_match", "So: \\boxed{46}", ["46"]) == Score(1.0, "46", True, "boxed")
    assert score("exact_match", "So: 46", ["46"]) == Score(0.0, None, False, None)


@pytest.mark.parametrize("metric", sorted(LENIENT))
def test_a_lenient_metric_reads_the_whole_output(metric: str) -> None:
    assert score(metric, " It is 46.\n", ["46"]) == Score(1.0, "It is 46.", True)
    assert score(metric, "<answer>45</answer> or 46", ["46"]).value == 1.0
    assert score(metric, "I do not know.", ["46"]) == Score(0.0, "I do not know.", True)
    for blank in ("", " \n"):
        assert score(metric, blank, ["46"]) == Score(0.0, None, False)


def test_an_unknown_metric_is_refused_and_the_near_one_named() -> None:
    with pytest.raises(UsageError, match="set_iou"):
        score("set_io", "<answer>46</answer>", ["46"])


@pytest.mark.parametrize("answers", [[], [""], ["46", " "], ["?!"], "46"])
def test_gold_that_no_answer_could_match_is_refused(answers: list[str]) -> None:
    with pytest.raises(UsageError):
        score("set_iou", "<answer>46</answer>", answers)
