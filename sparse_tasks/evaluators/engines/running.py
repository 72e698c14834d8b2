"""The running engine, kept for the next run where possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from sparse_tasks.core.records import JsonObject
from sparse_tasks.evaluators.engines.engine import Engine, Output, Request


class Running(Protocol):
    """A started engine, or several."""

    def version(self) -> str | None:
        """As of ``Engine``, and so are the others."""

    def details(self) -> JsonObject:
        """Facts for ``run.json``."""

    def notes(self) -> list[str]:
        """Sentences for the user."""

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        """Answers to requests."""


@dataclass(frozen=True, slots=True)
class Started:
    """What an engine reports about itself once it runs, for other processes.

    Attributes:
        version: As of ``Engine``, and so are the others.
        details: Facts for ``run.json``.
        notes: Sentences for the user.
    """

    version: str | None
    details: JsonObject
    notes: list[str]

    @classmethod
    def of(cls, running: Running) -> Started:
        """The report of an engine."""
        return cls(running.version(), running.details(), running.notes())


class Starter(ABC):
    """Starts engines in turn, and stops the last: ``with Engines() as starter``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @abstractmethod
    def start(self, engine: Engine, needed: int) -> Running:
        """Start an engine for requests of at most ``needed`` tokens, or let it take over the running one."""

    @abstractmethod
    def _stop(self) -> None: ...


class Engines(Starter):
    """One engine at a time."""

    def __init__(self) -> None:
        self._running: Engine | None = None

    def start(self, engine: Engine, needed: int) -> Running:
        running = self._running
        if running is not None and engine.take_over(running, needed):
            self._running = engine
            return engine
        self._stop()
        self._running = engine  # an engine that failed to start may hold resources too
        engine.start(needed)
        return engine

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.stop()
