"""Standard error, shared with libraries that print to it, also from child processes."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


def own_standard_error() -> None:
    """Let Python write to a copy of standard error, so that descriptor 2 can be redirected for everything else."""
    try:
        if sys.stderr is not None and sys.stderr.fileno() == _STDERR:
            sys.stderr.flush()
            sys.stderr = open(  # noqa: SIM115 - as long as the process
                os.dup(_STDERR), "w", 1, sys.stderr.encoding, "backslashreplace", closefd=False
            )
    except (OSError, ValueError):
        pass  # no descriptor, as in notebooks: already a separate stream


class Chatter:
    """Captured standard error of libraries and their child processes."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._kept: int | None = None

    def divert(self) -> None:
        """Start capturing what is written to descriptor 2. Processes started from now on write there until they end."""
        if self._before is not None:
            return
        own_standard_error()
        try:
            self._before = os.dup(_STDERR)
        except OSError:
            return  # there is no standard error
        with tempfile.TemporaryFile() as file:
            self._kept = os.dup(file.fileno())
        os.dup2(self._kept, _STDERR)

    def restore(self) -> None:
        """Restore descriptor 2."""
        if self._before is not None and self._kept is not None:
            os.dup2(self._before, _STDERR)
            os.close(self._before)
            os.close(self._kept)
            self._before = self._kept = None

    @contextmanager
    def diverted(self) -> Iterator[None]:
        """``divert`` within the block, unless already diverted."""
        already = self._before is not None
        self.divert()
        try:
            yield
        finally:
            if not already:
                self.restore()

    @property
    def size(self) -> int:
        """Bytes captured so far."""
        return 0 if self._kept is None else os.fstat(self._kept).st_size

    def lines(self, start: int = 0) -> list[str]:
        """Captured lines from byte ``start`` on, without colours and blank lines."""
        if self._kept is None:
            return []
        text = os.pread(self._kept, self.size - start, start).decode(errors="replace")
        text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "\n")
        return [line.strip() for line in text.splitlines() if line.strip()]
