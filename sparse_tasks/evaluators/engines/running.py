"""The running engine, kept for the next run where possible."""

from __future__ import annotations

from types import TracebackType

from sparse_tasks.evaluators.engines.engine import Engine


class Engines:
    """Starts engines in turn, and stops the last: ``with Engines() as engines``."""

    def __init__(self) -> None:
        self._running: Engine | None = None

    def __enter__(self) -> Engines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def start(self, engine: Engine, needed: int) -> None:
        """Start an engine, for requests of at most ``needed`` tokens, or let it take over what runs."""
        running = self._running
        if running is not None and engine.take_over(running, needed):
            self._running = engine
            return
        self._stop()
        self._running = engine  # an engine that fails to start may hold resources too
        engine.start(needed)

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.stop()
