"""The beginning of an answer: the text in the model's turn before its first own token."""

from __future__ import annotations

from typing import Final

EXPLANATION: Final = "\n\n<explanation>"
"""End of a bare prompt, where a base model goes on writing."""
ANSWER: Final = "<answer>\n"
"""Beginning of an answer in tags. It ends in a newline, which no tokenizer joins with what is written behind it."""
BARE_ANSWER: Final = "\n\n" + ANSWER
"""The same at the end of a bare prompt."""


def in_tags(prefix: str) -> bool:
    """Whether an ``answer_prefix`` leads to an answer in tags rather than to a completion."""
    return prefix in ("", EXPLANATION, ANSWER, BARE_ANSWER)


def begun(prompt: str, prefix: str, chat: bool) -> tuple[str, str]:
    """The user's message, and the beginning of the answer that follows it in the model's turn.

    An answer in tags begins with ``<answer>``, a completion (RULER's form) with its prefix.

    Args:
        prompt: The sample's prompt.
        prefix: Its ``answer_prefix``, with which the prompt may end.
        chat: Whether there is a chat template. A bare prompt has no turns, so all of it is the message.
    """
    message = prompt.removesuffix(prefix)
    if chat:
        return message, ANSWER if in_tags(prefix) else prefix.lstrip()
    return message + (BARE_ANSWER if in_tags(prefix) else prefix), ""


def unbegun(prompt: str, prefix: str, chat: bool) -> str:
    """The prompt without the beginning of its answer."""
    return prompt.removesuffix(prefix) + ("" if chat or not in_tags(prefix) else EXPLANATION)
