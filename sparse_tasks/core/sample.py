"""What the generators write and the evaluators read: one sample."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["Evidence", "Sample"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A stretch of the prompt that the answer needs.

    Attributes:
        start: Index in ``prompt`` of the first character, from 0.
        end: Index in ``prompt`` one past the last character.
        depth: Where the stretch begins, as a share of the context's characters, in [0, 1].
        label: What it is evidence of (a chapter, a key, a word).
    """

    start: int
    end: int
    depth: float
    label: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with its gold answer and everything that made it.

    Attributes:
        id: Stable, unique over tasks, lengths, seeds and parameters.
        task: Registered name of the task.
        index: Number of the sample within its task and length, from 0.
        length: Target in tokens, as asked for.
        input_tokens: Tokens of the prompt as the engine gets it, chat template and special tokens included.
        max_new_tokens: Answer budget in tokens.
        prompt: The user's message. With ``question_position="after"`` it is exactly
            ``context + question + answer_prefix``.
        context: The long text.
        question: What is asked, with the format of the answer.
        answer_prefix: Opens the model's answer; empty unless the prompt ends inside the answer.
        answer: The gold answer as a perfect model would write it inside ``<answer>``.
        answers: The list that the metric compares with.
        metric: Registered name of the metric.
        evidence: Stretches of the prompt that the answer needs, in order of appearance.
        question_position: ``both`` (before and after the context) or ``after``.
        params: The task's parameters, as JSON.
        seed: Seed of the data set.
    """

    id: str
    task: str
    index: int
    length: int
    input_tokens: int
    max_new_tokens: int
    prompt: str
    context: str
    question: str
    answer_prefix: str
    answer: str
    answers: list[str]
    metric: str
    evidence: list[Evidence]
    question_position: str
    params: str
    seed: int

    def row(self) -> dict[str, Any]:
        """The sample as plain data, a column a key."""
        return dataclasses.asdict(self)
