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

    The first tokens and the shortest distances are always seen, and count. Slashes are rounded up to tiles, so more
    than the lines is computed; the closer they are, the less is added.

    With ``sparsity`` every call finds the numbers of lines, the same for all its heads, that meet it on average,
    including what tiles add: as many verticals as slashes, and verticals for the rest. In prompts so short that the
    shortest distances would take more than half of the budget, only the query itself is always seen: there, verticals
    matter more than neighbours.
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
