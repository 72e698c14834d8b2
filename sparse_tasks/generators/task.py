"""What a task is: parameters, a draft that can grow, an oracle."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from sparse_tasks.core.parameters import Parameter, Parametric, parameter, parameters
from sparse_tasks.core.registry import Registry
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream

__all__ = ["TASKS", "Draft", "Mark", "Offer", "Parameter", "Passage", "Task", "parameter", "parameters"]


@dataclass(slots=True, eq=False)
class Passage:
    """A stretch of the context that begins with no white space and ends in a newline.

    Attributes:
        text: The words.
        followers: Filler that the fitter has put behind it, each of the same form.
    """

    text: str
    followers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mark:
    """Evidence in a draft: from character ``start`` of one passage to character ``end`` of another (or the same)."""

    first: Passage
    start: int
    last: Passage
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to make a draft a little longer: texts of the form of passages that come and go, and how to take it."""

    added: Sequence[str]
    removed: Sequence[str]
    accept: Callable[[], None]


@dataclass(slots=True)
class Draft:
    """One sample before its length is exact.

    Attributes:
        intro: Opens the context; ends in a newline.
        body: The passages.
        preview: States the question ahead of the context; ends in a newline.
        question: The question with the format of its answer, behind the context.
        answer: Gold, as a perfect model would write it inside ``<answer>``.
        answers: The list that the metric compares with.
        offers: Ways to grow, from the largest steps to the smallest. Each call makes another offer;
            None says that there are no more of this size.
        marks: Finds the evidence once the body is final.
        metric: Another metric than the task's own, where a kind of question needs it.
        drawn: What was drawn for this sample where parameters leave it open (the kind of question, say).
    """

    intro: str
    body: list[Passage]
    preview: str
    question: str
    answer: str
    answers: list[str]
    offers: Sequence[Callable[[], Offer | None]]
    marks: Callable[[], list[Mark]]
    metric: str | None = None
    drawn: dict[str, Any] = field(default_factory=dict)

    def texts(self) -> list[str]:
        """The texts of the body, filler included, in order."""
        texts: list[str] = []
        for passage in self.body:
            texts.append(passage.text)
            texts += passage.followers
        return texts


@dataclass(frozen=True)
class Task(Parametric, ABC):
    """A task: one file in a folder of this room, its parameters the fields of a frozen dataclass.

    Class attributes:
        name: Registered name; its group is the part before the first underscore (``story``).
        version: Raised when the same key gives other bytes.
        summary: One line for listings.
        dispersion, scope: ``low`` or ``high``: how hard the information is to find, how much of it there is.
        metric: Registered name of the metric.
        max_new_tokens: Default answer budget in tokens.
        steerable: Whether ``--depth`` can place the evidence.
    """

    version: ClassVar[int] = 1
    summary: ClassVar[str]
    dispersion: ClassVar[str]
    scope: ClassVar[str]
    metric: ClassVar[str]
    max_new_tokens: ClassVar[int] = 1024
    steerable: ClassVar[bool]

    @classmethod
    def group(cls) -> str:
        """The task's group: ``story``, ``ruler``, ``qa``."""
        return cls.name.partition("_")[0]

    def key(self) -> str:
        """What identifies the task's text apart from length and index: name, version, parameters."""
        return json.dumps([self.name, self.version, self.settings()], sort_keys=True)

    @abstractmethod
    def smallest(self) -> int:
        """The smallest size (chapters, needles, lines, words: the task's own unit) that holds the question."""

    @abstractmethod
    def units(self, size: int) -> int:
        """How many pieces, of the sort that ``specimens`` shows, the body has at this size."""

    @abstractmethod
    def specimens(self, stream: Stream, size: int) -> list[str]:
        """Pieces that are typical of a body of this size; their mean cost tells the fitter how many fit."""

    @abstractmethod
    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        """A sample of the given size, with its question and answer."""

    @abstractmethod
    def oracle(self, prompt: str) -> str:
        """The answer, derived from the rendered prompt and from nothing else.

        Raises:
            DataError: The prompt cannot be read, contradicts itself, or does not hold one answer.
        """

    def audit(self, prompt: str) -> list[str]:
        """Contradictions in the prompt beyond what the oracle sees; none unless a task looks for them."""
        return []


def _import_all() -> None:
    for group in ("story", "ruler"):
        import_module(f"sparse_tasks.generators.{group}")


TASKS: Registry[type[Task]] = Registry("task", _import_all, "sparse_tasks.tasks")
"""All tasks; other packages add theirs through the entry point group ``sparse_tasks.tasks``."""
