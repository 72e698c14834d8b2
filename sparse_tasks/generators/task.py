"""Tasks: parameters, a draft that can grow, an oracle."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sparse_tasks.core.errors import quoted
from sparse_tasks.core.parameters import Parameter, Parametric, parameter, parameters
from sparse_tasks.core.registry import Registry, import_modules
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.instructions import ENGLISH, Instructions
from sparse_tasks.generators.seeds import Stream

if TYPE_CHECKING:
    from sparse_tasks.core.tokenizers import PromptTokenizer

__all__ = [
    "TASKS",
    "Asked",
    "Completion",
    "Draft",
    "Mark",
    "Offer",
    "Parameter",
    "Passage",
    "Task",
    "Telling",
    "parameter",
    "parameters",
    "task_order",
]


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


class Telling(NamedTuple):
    """Where a sentence stands."""

    passage: Passage
    start: int
    end: int

    def mark(self, label: str) -> Mark:
        """The sentence as evidence."""
        return Mark(self.passage, self.start, self.passage, self.end, label)


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to make a draft a little longer: texts of the form of passages that come and go, and how to take it."""

    added: Sequence[str]
    removed: Sequence[str]
    accept: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Completion:
    """A question whose answer the prompt itself begins, as RULER's do.

    Attributes:
        preview: States the question ahead of the context; ends in a newline.
        question: Behind the context.
        prefix: Opens the answer, behind the question; begins with white space.
        intro: Opens the context, with a worked example where there is one; ends in a newline. None: the draft's own.
    """

    preview: str
    question: str
    prefix: str
    intro: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of several on one context.

    Attributes:
        question: The question with the format of its answer, behind the context or behind earlier questions.
        answer: Gold, as a perfect model would write it inside ``<answer>``.
        answers: The list that the metric compares with.
        metric: Registered name of the metric.
        marks: Finds the evidence once the body is final.
        history: Number of questions just before it that stand before it, with their gold answers.
        level: As of ``core.sample.Turn``.
    """

    question: str
    answer: str
    answers: list[str]
    metric: str
    marks: Callable[[], list[Mark]]
    history: int = 0
    level: str = ""


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
        completion: The same asked so that the answer is what follows, without tags; None where a task has no such form.
        metric: Another metric than the task's own, where a kind of question needs it.
        drawn: What was drawn for this sample where parameters leave it open (the kind of question, say).
        fields: What the placeholders of a user's template stand for.
        instructions: The language's words in the frame of the prompt.
        turns: All questions where there are several; the first is the draft's own.
    """

    intro: str
    body: list[Passage]
    preview: str
    question: str
    answer: str
    answers: list[str]
    offers: Sequence[Callable[[], Offer | None]]
    marks: Callable[[], list[Mark]]
    completion: Completion | None = None
    metric: str | None = None
    drawn: dict[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    instructions: Instructions = ENGLISH
    turns: Sequence[Asked] = ()

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
        max_new_tokens: Default answer budget in tokens, where ``budget`` says no other.
        steerable: Whether ``--depth`` can place the evidence.
        ruler_metric: RULER's own metric, for comparison; None where the task is none of RULER's.
        texts: Parameters that are the SHA-256 of a corpus (``corpora.py``), with the corpus's name. The one called
            ``corpus`` has to be at hand; where another is not, its parameter is empty.
        in_groups: The groups that stand for it; None: that of its name.
        stand_in: Whether its groups hold it only where they hold nothing else that can be made.
        placeholders: What a user's template may name, with meanings; empty where a task takes no template.
        needed: Those that a template's question has to hold, since the oracle has to know them.
        sized_in_tokens: Whether its sizes are tokens of the body, which it counts itself after ``at``, beforehand and
            for all samples; the fitter then composes to the requested size instead of estimating it.
        references: Whether ``answers`` are ways to say one thing, of which ``answer`` is the first.
    """

    version: ClassVar[int] = 1
    summary: ClassVar[str]
    dispersion: ClassVar[str]
    scope: ClassVar[str]
    metric: ClassVar[str]
    max_new_tokens: ClassVar[int] = 1024
    steerable: ClassVar[bool]
    ruler_metric: ClassVar[str | None] = None
    texts: ClassVar[Mapping[str, str]] = {}
    in_groups: ClassVar[tuple[str, ...] | None] = None
    stand_in: ClassVar[bool] = False
    placeholders: ClassVar[Mapping[str, str]] = {}
    needed: ClassVar[tuple[str, ...]] = ()
    sized_in_tokens: ClassVar[bool] = False
    references: ClassVar[bool] = False

    @classmethod
    def groups(cls) -> tuple[str, ...]:
        """The names, beside ``all``, that stand for this task among others."""
        return (cls.group(),) if cls.in_groups is None else cls.in_groups

    @classmethod
    def group(cls) -> str:
        """The first word of its name (``story``), with which parameters are set for all that share it."""
        return cls.name.partition("_")[0]

    def key(self) -> str:
        """Identity of the task's text apart from length and index: name, version, parameters."""
        return json.dumps([self.name, self.version, self.settings()], sort_keys=True)

    def notices(self, tokenizer: PromptTokenizer) -> list[str]:
        """What a user should know of samples by this tokenizer: what was left out, say."""
        return []

    def at(self, tokenizer: PromptTokenizer, seed: int, index: int) -> Task:
        """The task as it makes one sample; another than itself where samples share out what there is.

        Raises:
            UsageError: There is nothing for a sample with this index.
        """
        return self

    @abstractmethod
    def smallest(self) -> int:
        """The smallest size (chapters, needles, lines, words: the task's own unit) that holds the question."""

    def units(self, size: int) -> int:
        """Number of pieces, of the sort that ``specimens`` shows, in a body of this size."""
        return size

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

    def complete(self, fields: Mapping[str, str]) -> Completion:
        """The question asked as a completion; its ``question`` uses no fields but those in ``needed``."""
        raise NotImplementedError(f"{self.name} has no placeholders")

    def verify(self, prompt: str, answer: str, answers: Sequence[str]) -> str | None:
        """The mistake in the answer, by the prompt; None if there is none.

        Raises:
            DataError: As of ``oracle``.
        """
        derived = self.oracle(prompt)
        return (
            None if derived == answer else f"the prompt says {quoted(derived)}, the stored answer is {quoted(answer)}"
        )

    def budget(self) -> int:
        """Default answer budget in tokens."""
        return self.max_new_tokens

    def largest(self) -> int | None:
        """The largest size for which there is text; None: there is no end of it."""
        return None

    def audit(self, prompt: str) -> list[str]:
        """Contradictions in the prompt beyond what the oracle sees; none unless a task looks for them."""
        return []


_GROUPS = ("story", "qa", "ruler", "reason", "copy", "code", "turns", "ladder")


def _import_all() -> None:
    for group in _GROUPS:
        import_modules(f"sparse_tasks.generators.{group}")


def _module(name: str) -> str:
    """Module of a built-in task: ``ruler_niah_single_1`` is in ``ruler/niah_single_1.py``."""
    group, _, module = name.partition("_")
    return f"sparse_tasks.generators.{group}.{module}"


def task_order(name: str) -> tuple[int | str, ...]:
    """Sort key of a task's name: by group, the built-in ones first, then alphabetically."""
    group = name.partition("_")[0]
    return (_GROUPS.index(group) if group in _GROUPS else len(_GROUPS), name)


TASKS: Registry[type[Task]] = Registry(
    "task", _import_all, "sparse_tasks.tasks", key=lambda task: task_order(task.name), module=_module
)
"""All tasks; other packages add theirs through the entry point group ``sparse_tasks.tasks``."""
