"""The frame of every prompt: how the question is announced and asked, and how to answer."""

from __future__ import annotations

from dataclasses import replace

from sparse_tasks.generators.instructions import ENGLISH, Instructions
from sparse_tasks.generators.task import Completion


def answer_format(form: str, words: Instructions = ENGLISH) -> str:
    """Instruction for the answer; ``form`` says what goes between the answer tags."""
    return f"{words.explained}{form}"


def unexplained(frame: Completion, words: Instructions = ENGLISH) -> Completion:
    """The frame of a prompt that asks for no explanation, since the model's answer is already begun."""
    preview, question = (text.replace(words.explained, words.plain) for text in (frame.preview, frame.question))
    return replace(frame, preview=preview, question=question)


def preview(kind: str, ask: str, form: str, words: Instructions = ENGLISH) -> str:
    """The question before the context; ``kind`` is what the context is (``a story``)."""
    return f"{words.preview.format(kind=kind)}\n\n{ask}\n\n{answer_format(form, words)}\n\n"


def question(end: str, ask: str, form: str, words: Instructions = ENGLISH) -> str:
    """The question after the context; ``end`` is a sentence saying that the context is over."""
    return f"{end}\n\n{ask}\n\n{answer_format(form, words)}"


def completion(kind: str, intro: str, end: str, ask: str, prefix: str) -> Completion:
    """The same question without tags, whose answer follows ``prefix``."""
    return Completion(
        preview=f"{ENGLISH.preview.format(kind=kind)}\n\n{ask}\n\n",
        intro=intro,
        question=f"{end}\n\n{ask}",
        prefix=f"\n\n{prefix}",
    )
