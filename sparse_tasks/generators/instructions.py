"""How prompts in a language open and ask for answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Instructions:
    """A language's wording of the frame of every prompt.

    Attributes:
        preview: Announces the context; ``{kind}`` is what it is (``a story``).
        explained: Asks for an explanation and an answer; followed by the form of the answer.
        plain: Asks for the answer only.
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
