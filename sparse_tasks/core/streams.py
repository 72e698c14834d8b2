"""Standard error, shared with libraries that print what they like from processes of their own."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


def own_standard_error() -> None:
    """Let Python write to a copy of standard error, so that descriptor 2 can be put elsewhere for all others."""
    try:
        if sys.stderr is not None and sys.stderr.fileno() == _STDERR:
            sys.stderr.flush()
            sys.stderr = open(  # noqa: SIM115 - as long as the process
                os.dup(_STDERR), "w", 1, sys.stderr.encoding, "backslashreplace", closefd=False
            )
    except (OSError, ValueError):
        pass  # replaced by something without a descriptor, as in notebooks: it is a stream of its own already


class Chatter:
    """What libraries and the processes that they start write to standard error, kept while it is diverted."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._kept: int | None = None

    def divert(self) -> None:
        """Keep from here on what is written to descriptor 2; processes that start now write there until they end."""
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
        """Put descriptor 2 back."""
        if self._before is not None and self._kept is not None:
            os.dup2(self._before, _STDERR)
            os.close(self._before)
            os.close(self._kept)
            self._before = self._kept = None

    @contextmanager
    def diverted(self) -> Iterator[None]:
        """``divert`` within the block, unless it is diverted already."""
        already = self._before is not None
        self.divert()
        try:
            yield
        finally:
            if not already:
                self.restore()

    @property
    def size(self) -> int:
        """Bytes that were written."""
        return 0 if self._kept is None else os.fstat(self._kept).st_size

    def lines(self, start: int = 0) -> list[str]:
        """Lines that were written, without colours and blank lines, from byte ``start`` on."""
        if self._kept is None:
            return []
        text = os.pread(self._kept, self.size - start, start).decode(errors="replace")
        text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "\n")
        return [line.strip() for line in text.splitlines() if line.strip()]
