"""How prompts of a language open, and how they ask for answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Instructions:
    """The words of a language in the frame of every prompt.

    Attributes:
        preview: Says ahead of the context what comes; ``{kind}`` is what the context is (``a story``).
        explained: Asks for an explanation and an answer; the form of the answer follows it.
        plain: Asks for the answer alone.
    """

    preview: str
    explained: str
    plain: str


ENGLISH: Final = Instructions(
    preview="You will read {kind} and then answer this question about it.",
    explained="First explain briefly, between <explanation> and </explanation>, how you find the answer. "
    "Then give the answer between <answer> and </answer>: ",
    plain="Give the answer between <answer> and </answer>: ",
)
"""The words of tasks that know no other language."""
