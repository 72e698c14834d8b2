"""Several questions on one context: the messages that lead to each.

A question follows the context, or, in a chat, earlier questions and their gold answers. So a wrong answer does not
propagate, and all prompts of a sample are known before a model has answered any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sparse_tasks.core.beginning import ANSWER
from sparse_tasks.core.sample import Turn

_MARK = "#"


def stem_of(prompt: str, question: str, prefix: str) -> str:
    """A prompt up to the end of its context.

    Args:
        prompt: The user's first message.
        question: The question in it.
        prefix: Opens the answer, after the question; empty if it is in the model's turn.
    """
    return prompt.removesuffix(prefix).removesuffix(question)


def messages(stem: str, turns: Sequence[Turn], number: int, prefix: str = "") -> tuple[str, ...]:
    """The messages up to a question: the user's and the model's in turn.

    Args:
        stem: The prompt up to the end of its context.
        turns: All questions.
        number: Which one, from 0.
        prefix: Opens the answer, at the end of the last message.
    """
    chat = list(turns[number - turns[number].history : number + 1])
    said = [stem + chat[0].question]
    for before, after in pairwise(chat):
        said += [f"{ANSWER}{before.answer}\n</answer>", after.question]
    said[-1] += prefix
    return tuple(said)


def request_id(sample: str, number: int) -> str:
    """The id of a question, counted from 0; the first has its sample's id."""
    return f"{sample}{_MARK}{number + 1}" if number else sample


def sample_id(request: str) -> str:
    """The id of the sample of a question."""
    return request.partition(_MARK)[0]
