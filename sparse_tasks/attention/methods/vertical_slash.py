"""Vertical-Slash: the columns and diagonals that the last queries attend to (MInference, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.lines import LineMethod
from sparse_tasks.core.parameters import parameter


@dataclass(frozen=True, kw_only=True)
class VerticalSlash(LineMethod):
    """The attention of the last queries, summed by key, ranks the verticals, and by distance, the slashes.

    ``LineMethod`` says what is always seen, and how many lines a sparsity gives.
    """

    window: int = parameter(64, "last queries, whose attention is summed; the paper of the tasks: 256 or 512", 1)

    name: ClassVar[str] = "vertical_slash"
    place: ClassVar[int] = 1
    summary: ClassVar[str] = "columns and diagonals by the attention of the last queries"
    importance: ClassVar[str] = "attention of the last queries"
    source: ClassVar[str] = "Jiang et al., 2024, arXiv:2407.02490"
    any_softmax: ClassVar[bool] = True

    @property
    def observes(self) -> int:
        return self.window


METHODS.register("vertical_slash", VerticalSlash)
