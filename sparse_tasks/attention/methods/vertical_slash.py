"""Vertical-Slash: the columns and the diagonals that the last queries attend to (MInference, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.lines import LineMethod
from sparse_tasks.core.parameters import parameter


@dataclass(frozen=True, kw_only=True)
class VerticalSlash(LineMethod):
    """The attention of the last queries, summed by key, ranks the verticals, and by distance, the slashes.

    The first tokens and the shortest distances are always seen, and count. Slashes are rounded up to tiles, so that
    more is computed than the lines alone; less so, the closer they lie together.

    With ``sparsity`` every call finds the numbers of lines, the same for all its heads, that meet it on average, with
    all that tiles add: as many verticals as slashes, and verticals for what is left. In prompts so short that the
    shortest distances would take more than half of it, a query sees itself for sure, and what else its lines hold:
    verticals matter more than neighbours there.
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
