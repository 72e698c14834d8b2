"""Depth of evidence: a share of the context, from 0 (its beginning) to 1 (its end)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.seeds import Stream


@dataclass(frozen=True)
class Depth:
    """A uniform range of depths; ``low == high`` is a single depth."""

    low: float = 0.0
    high: float = 1.0

    @property
    def uniform(self) -> bool:
        """Whether evidence may be anywhere."""
        return self.low == 0.0 and self.high == 1.0

    def __str__(self) -> str:
        if self.uniform:
            return "uniform"
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}-{self.high:g}"

    def slot(self, stream: Stream, n: int) -> int:
        """One of ``n`` slots of equal size, drawn by depth, in [0, n)."""
        return min(int((self.low + (self.high - self.low) * stream.uniform()) * n), n - 1)

    def slots(self, stream: Stream, n: int, k: int) -> list[int]:
        """``k`` different slots of ``n``, in order; if the range has fewer, the nearest outside it are added."""
        first, last = min(int(self.low * n), n - 1), min(int(self.high * n), n - 1)
        while last - first + 1 < min(k, n):
            first, last = max(first - 1, 0), min(last + 1, n - 1)
        return sorted(stream.sample(range(first, last + 1), k))


def parse_depth(text: str) -> Depth:
    """``uniform``, a number (``0.5``), or a range (``0.2-0.4``), in [0, 1].

    Raises:
        UsageError: It is none of these.
    """
    if text.strip().lower() == "uniform":
        return Depth()
    number = r"(\d+(?:\.\d+)?|\.\d+)"
    match = re.fullmatch(rf"\s*{number}\s*(?:[-:,]\s*{number}\s*)?", text, re.ASCII)
    if match:
        low = float(match[1])
        high = float(match[2]) if match[2] else low
        if 0 <= low <= high <= 1:
            return Depth(low, high)
    raise UsageError("depth", text, "is not a depth; write uniform, a number from 0 to 1, or a range such as 0.2-0.4")
