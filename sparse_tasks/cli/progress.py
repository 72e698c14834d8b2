"""Progress on standard error."""

from __future__ import annotations

import time
from typing import Self


class Bar:
    """A progress bar with the number of samples, tokens a second and the time left; shown in terminals only.

    Args:
        description: The first stage, whose size is not known.

    Attributes:
        tokens: Tokens processed in this stage.
    """

    def __init__(self, description: str) -> None:
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
        # What matters first, and no more than there is room for: nothing is cut.
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
        total = samples if work is None else work
        self._progress.reset(self._task, description=description, total=total, count="", rate="")

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
        rate = f"{self.tokens / max(time.monotonic() - self._began, 1e-3):,.0f} tok/s" if self.tokens else ""
        count = f"{self._done:,}{f'/{self._samples:,}' if self._samples else ''} samples"
        self._progress.update(
            self._task,
            advance=samples if work is None else work,
            count=count,
            rate=rate,
            description=description,
        )
