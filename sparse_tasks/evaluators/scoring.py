"""Scoring of an output: parsing and comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.answers import How, extraction, normalise
from sparse_tasks.evaluators.forms import read
from sparse_tasks.evaluators.metrics import METRICS
from sparse_tasks.evaluators.thinking import NO_PROMPT, Thinking


@dataclass(frozen=True, slots=True)
class Score:
    """Score of an output with the answer that was compared.

    Attributes:
        value: In [0, 1]. An output without an answer scores 0 and counts in every mean.
        extracted: The text that was compared: the answer, or for a lenient metric the whole output; None without
            an answer.
        parsed: Whether there was an answer that can be read in one way. Reports give the share of outputs without.
        how: Place of the answer (see ``answers.Extraction``); None without an answer, and for lenient metrics.
        rules: Names of the rules that read the answer (see ``forms``); none where it was compared as it stands.
    """

    value: float
    extracted: str | None
    parsed: bool
    how: How | None = None
    rules: tuple[str, ...] = ()


def score(
    metric: str,
    output_text: str,
    answers: Sequence[str],
    begun: bool = False,
    thinking: Thinking = NO_PROMPT,
    before: str = "",
    question: str = "",
) -> Score:
    """The score of a model's output.

    Args:
        metric: A name in ``METRICS``.
        output_text: The model's whole output, reasoning included.
        answers: The gold entries, at least one, none of them blank.
        begun: Whether the prompt ended with ``<answer>``, so that the output begins inside.
        thinking: The marks of thought, and whether the prompt opened a block.
        before: The sample's ``answer_prefix`` where the prompt ends in it and not inside the answer.
        question: The sample's, which an answer may repeat; "" if unknown, and no repetition is recognised.

    Raises:
        UsageError: The metric is unknown, or no answer could match the gold entries.
    """
    compare = METRICS.get(metric)
    if isinstance(answers, str) or not answers or not all(map(normalise, answers)):
        # A string is also a sequence, and would silently be scored letter by letter.
        raise UsageError("answers", answers, "must be a list of gold entries, none of them blank")
    if compare.lenient:
        whole = (before + output_text).strip() or None
        return Score(compare(whole, answers), whole, whole is not None)
    answer = extraction(output_text, begun, thinking, before)
    if answer is None:
        return Score(compare(None, answers), None, False, None)
    plain = compare(answer.text, answers)
    reading = read(answer.text, answers, question, free=compare.alternatives)
    value = compare(reading.text, answers)
    if not reading.rules or value < plain == 1.0:
        # Gold entries may look like wrappings.
        return Score(plain, answer.text, True, answer.how)
    if reading.text is None:
        return Score(0.0, None, False, None, reading.rules)
    return Score(value, reading.text, True, answer.how, reading.rules)


def gold_score(metric: str, answer: str, answers: Sequence[str]) -> float:
    """Score of the gold answer itself; anything but 1 is an error in the data.

    Raises:
        UsageError: As ``score``.
    """
    return score(metric, f"<answer>{answer}</answer>", answers).value
