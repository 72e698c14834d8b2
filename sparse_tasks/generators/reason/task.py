"""Base of the reasoning tasks: an answer of many steps, a line each, scored up to the first mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.task import Task, parameter

_EXPLANATION = 512  # tokens for what is written ahead of the answer


@dataclass(frozen=True)
class ReasonTask(Task):
    """A task whose answer is a line for each of ``steps`` steps.

    Each step takes something from the context, and the line before it. Only those who look all of them up get to the
    end, and the first wrong line tells where decoding failed.
    """

    steps: int = parameter(16, "number of steps of the answer, a line each", 2, 5_000)

    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "prefix_fraction"
    steerable: ClassVar[bool] = False

    def line_tokens(self) -> int:
        """Tokens that a line of the answer takes, with any common tokenizer: an upper bound of their mean."""
        return 16

    def budget(self) -> int:
        return _EXPLANATION + self.steps * self.line_tokens()
