"""Scoring of an output: parsing and comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.answers import How, extraction, normalise
from sparse_tasks.evaluators.metrics import METRICS


@dataclass(frozen=True, slots=True)
class Score:
    """Score of an output with the answer that was compared.

    Attributes:
        value: In [0, 1]. An output without an answer scores 0 and counts in every mean.
        extracted: The text that was compared: the answer, or for a lenient metric the whole output; None without
            an answer.
        parsed: Whether there was an answer. Reports give the share of outputs without.
        how: Form of the answer (see ``answers.Extraction``); None without an answer, and for lenient metrics.
    """

    value: float
    extracted: str | None
    parsed: bool
    how: How | None = None


def score(metric: str, output_text: str, answers: Sequence[str], begun: bool = False) -> Score:
    """The score of a model's output.

    Args:
        metric: A name in ``METRICS``.
        output_text: The model's whole output, reasoning included. Where the prompt ends in a completion, the caller
            puts the sample's ``answer_prefix`` back in front.
        answers: The gold entries, at least one, none of them blank.
        begun: Whether the prompt ended with ``<answer>``, so that the output begins inside.

    Raises:
        UsageError: The metric is unknown, or no answer could match the gold entries.
    """
    compare = METRICS.get(metric)
    if isinstance(answers, str) or not answers or not all(map(normalise, answers)):
        # A string is a sequence too, of letters, and would be scored letter by letter without a word.
        raise UsageError("answers", answers, "must be a list of gold entries, none of them blank")
    if compare.lenient:
        whole = output_text.strip() or None
        return Score(compare(whole, answers), whole, whole is not None)
    answer = extraction(output_text, begun)
    if answer is None:
        return Score(compare(None, answers), None, False, None)
    return Score(compare(answer.text, answers), answer.text, True, answer.how)


def gold_score(metric: str, answer: str, answers: Sequence[str]) -> float:
    """Score of the gold answer itself; anything but 1 is a defect of the data.

    Raises:
        UsageError: As ``score``.
    """
    return score(metric, f"<answer>{answer}</answer>", answers).value
