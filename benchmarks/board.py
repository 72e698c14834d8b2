"""Goals of a benchmark, and the missed ones."""

from __future__ import annotations

from rich.console import Console

__all__ = ["Board"]


class Board:
    """Goals and results."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.missed: list[str] = []

    def goal(self, what: str, value: float, limit: float, *, most: bool = False) -> str:
        """A cell that says whether a goal was met."""
        met = value <= limit if most else value >= limit
        if not met:
            self.missed.append(f"{what}: {value:.3g}, goal {limit:.3g}")
        return f"{'≤' if most else '≥'} {limit:g} {'yes' if met else 'NO'}"

    def say(self, what: str, value: float, limit: float, *, most: bool = False) -> None:
        """Print a number outside tables, with its goal."""
        self.console.print(f"{what}: {value:.3g} ({self.goal(what, value, limit, most=most)})")
