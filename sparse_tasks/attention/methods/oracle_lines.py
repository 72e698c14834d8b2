"""Oracle for prompts, in lines: the verticals and slashes that hold most of the true attention of all queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.lines import LineMethod

_ALL: Final = 1 << 40  # queries


@dataclass(frozen=True, kw_only=True)
class OracleLines(LineMethod):
    """``vertical_slash`` with the attention of all queries instead of the last ones.

    As there, lines are ranked independently; where they cross, attention counts twice.
    """

    name: ClassVar[str] = "oracle_lines"
    place: ClassVar[int] = 2
    summary: ClassVar[str] = "control: columns and diagonals by the true attention"
    control: ClassVar[bool] = True
    importance: ClassVar[str] = "true attention"
    source: ClassVar[str] = "Jiang et al., 2024, arXiv:2407.02490"
    any_softmax: ClassVar[bool] = True

    @property
    def observes(self) -> int:
        return _ALL


METHODS.register("oracle_lines", OracleLines)
