"""The beginning of an answer: what stands for the model before the first word that it writes."""

from __future__ import annotations

from typing import Final

EXPLANATION: Final = "\n\n<explanation>"
"""End of a bare prompt, where a base model goes on writing."""
ANSWER: Final = "<answer>\n"
"""Beginning of an answer in tags. It ends in a newline, which no tokenizer joins with what is written behind it."""
BARE_ANSWER: Final = "\n\n" + ANSWER
"""The same at the end of a bare prompt."""


def in_tags(prefix: str) -> bool:
    """Whether an ``answer_prefix`` leads to an answer in tags; else it is a completion with words of its own."""
    return prefix in ("", EXPLANATION, ANSWER, BARE_ANSWER)


def begun(prompt: str, prefix: str, chat: bool) -> tuple[str, str]:
    """The user's message, and the beginning of the answer that stands behind it in the model's turn.

    An answer in tags begins with ``<answer>``, a completion (RULER's form) with its own words.

    Args:
        prompt: The sample's prompt.
        prefix: Its ``answer_prefix``, with which the prompt may end.
        chat: Whether there is a chat template; a bare prompt has no turns, so that all of it is the message.
    """
    message = prompt.removesuffix(prefix)
    if chat:
        return message, ANSWER if in_tags(prefix) else prefix.lstrip()
    return message + (BARE_ANSWER if in_tags(prefix) else prefix), ""


def unbegun(prompt: str, prefix: str, chat: bool) -> str:
    """The prompt of a data set that begins its answers, without the beginning."""
    return prompt.removesuffix(prefix) + ("" if chat or not in_tags(prefix) else EXPLANATION)
