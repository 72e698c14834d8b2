"""Progress on standard error."""

from __future__ import annotations

import time
from typing import Self

# Bounds of the seconds between lines without a terminal; in between, a fifth of the elapsed time.
_SHORTEST, _LONGEST = 10.0, 60.0


class Bar:
    """A progress bar with the number of samples, tokens a second and the time left; without a terminal, lines of it.

    Args:
        description: The first stage, of unknown size.
        name: Prefix of each line, if there are several tasks in sequence.

    Attributes:
        tokens: Tokens processed in this stage.
    """

    def __init__(self, description: str, name: str = "") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        self.console = Console(stderr=True, highlight=False)
        self._name = f"{name}: " if name else ""
        # The most important first, and only whole parts that fit.
        columns: list[ProgressColumn] = [
            TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.description}"),
        ]
        if (room := self.console.width) >= 60:
            columns.append(TextColumn("{task.fields[count]}"))
        if room >= 80:
            columns += [TextColumn("{task.fields[rate]:>11}"), BarColumn(bar_width=min(40, room - 70))]
        self._progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._progress.add_task(description, total=None, count="", rate="")
        self.stage(description)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def stage(self, description: str, samples: int | None = None, work: float | None = None) -> None:
        """Begin a stage.

        Args:
            description: Its name.
            samples: Samples to process; None where unknown.
            work: Length of the bar; None for ``samples``.
        """
        self._began, self.tokens, self._done, self._samples = time.monotonic(), 0, 0, samples
        self._printed, self._stage = self._began, description
        self._total, self._work = samples if work is None else work, 0.0
        self._from: tuple[float, float] | None = None
        self._progress.reset(self._task, description=description, total=self._total, count="", rate="")

    def advance(
        self, samples: int = 1, *, work: float | None = None, tokens: int = 0, description: str | None = None
    ) -> None:
        """Count samples that are done.

        Args:
            samples: Their number.
            work: Their share of the bar; None for ``samples``.
            tokens: Their tokens.
            description: New name of the stage; None keeps it.
        """
        self.tokens += tokens
        self._done += samples
        self._work += samples if work is None else work
        now = time.monotonic()
        rate = f"{self.tokens / max(now - self._began, 1e-3):,.0f} tok/s" if self.tokens else ""
        count = f"{self._done:,}{f'/{self._samples:,}' if self._samples else ''} samples"
        self._progress.update(
            self._task,
            advance=samples if work is None else work,
            count=count,
            rate=rate,
            description=description,
        )
        pause = min(_LONGEST, max(_SHORTEST, (now - self._began) / 5))
        if not self.console.is_terminal and now - self._printed >= pause:
            self._printed = now
            self._print_line(count, rate)

    def _print_line(self, count: str, rate: str) -> None:
        """Print a line."""
        parts = [count, rate]
        if self._total and self._work:
            parts = [f"{count} ({self._work / self._total:.0%})", rate]
            # The time to the first line is mostly start-up, and does not predict the rest.
            if self._from is None:
                self._from = self._printed, self._work
            else:
                began, before = self._from
                left = (self._printed - began) * (self._total - self._work) / (self._work - before)
                parts.append(f"{duration(left)} left")
        line = ", ".join(part for part in parts if part)
        self.console.print(f"{self._name}{self._stage}: {line}", soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.{int(seconds < 600)}f} min"
    return f"{seconds / 3600:.1f} h"
