"""The frame of every prompt: how the question is announced, asked and to be answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sparse_tasks.generators.task import Completion

_EXPLAINED: Final = (
    "First explain briefly, between <explanation> and </explanation>, how you find the answer. Then give the answer"
)


def answer_format(form: str) -> str:
    """Instruction for the answer; ``form`` says what goes between the answer tags."""
    return f"{_EXPLAINED} between <answer> and </answer>: {form}"


def unexplained(frame: Completion) -> Completion:
    """The frame of a prompt that asks for no explanation, since the answer is begun for the model."""
    preview, question = (text.replace(_EXPLAINED, "Give the answer") for text in (frame.preview, frame.question))
    return replace(frame, preview=preview, question=question)


def preview(kind: str, ask: str, form: str) -> str:
    """The question ahead of the context; ``kind`` is what the context is (``a story``)."""
    return f"You will read {kind} and then answer this question about it.\n\n{ask}\n\n{answer_format(form)}\n\n"


def question(end: str, ask: str, form: str) -> str:
    """The question behind the context; ``end`` says in a sentence that the context is over."""
    return f"{end}\n\n{ask}\n\n{answer_format(form)}"


def completion(kind: str, intro: str, end: str, ask: str, prefix: str) -> Completion:
    """The same question without tags, whose answer follows ``prefix``."""
    return Completion(
        preview=f"You will read {kind} and then answer this question about it.\n\n{ask}\n\n",
        intro=intro,
        question=f"{end}\n\n{ask}",
        prefix=f"\n\n{prefix}",
    )
