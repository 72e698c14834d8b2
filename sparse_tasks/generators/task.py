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
    """A part of the context that does not begin with white space and ends in a newline.

    Attributes:
        text: The text.
        followers: Filler that the fitter has added after it, each of the same form.
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
    """Position of a sentence."""

    passage: Passage
    start: int
    end: int

    def mark(self, label: str) -> Mark:
        """The sentence as evidence."""
        return Mark(self.passage, self.start, self.passage, self.end, label)


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to make a draft a little longer: the texts added and removed, with the form of passages, and its effect."""

    added: Sequence[str]
    removed: Sequence[str]
    accept: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Completion:
    """A question whose answer is begun in the prompt, as in RULER.

    Attributes:
        preview: States the question before the context; ends in a newline.
        question: After the context.
        prefix: Opens the answer, after the question; begins with white space.
        intro: Opens the context, with a worked example where there is one; ends in a newline. None: the draft's own.
    """

    preview: str
    question: str
    prefix: str
    intro: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One of several questions on the same context.

    Attributes:
        question: The question with the format of its answer, after the context or earlier questions.
        answer: Gold, as a perfect model would write it inside ``<answer>``.
        answers: The list that the metric compares with.
        metric: Registered name of the metric.
        marks: Finds the evidence once the body is final.
        history: Number of preceding questions repeated before it, with their gold answers.
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
        preview: States the question before the context; ends in a newline.
        question: The question with the format of its answer, after the context.
        answer: Gold, as a perfect model would write it inside ``<answer>``.
        answers: The list that the metric compares with.
        offers: Ways to grow, from the largest steps to the smallest. Each call makes another offer; None if there are
            no more of this size.
        marks: Finds the evidence once the body is final.
        completion: The question as a completion, without tags; None if the task has no such form.
        metric: The metric, if the kind of question needs another than the task's.
        drawn: What was drawn for this sample beyond the parameters (the kind of question, say).
        fields: Values of the placeholders of a user's template.
        instructions: The language's wording of the prompt's frame.
        turns: All questions if there are several; the first is the draft's own.
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
    """A task: one file in a folder of this package, its parameters the fields of a frozen dataclass.

    Class attributes:
        name: Registered name; its group is the part before the first underscore (``story``).
        version: Increased when the bytes for a key change.
        summary: One line for listings.
        dispersion, scope: ``low`` or ``high``: how hard the information is to find, and how much of it there is.
        metric: Registered name of the metric.
        max_new_tokens: Default answer budget in tokens, unless ``budget`` overrides it.
        steerable: Whether ``--depth`` can place the evidence.
        ruler_metric: RULER's metric, for comparison; None if the task is not RULER's.
        texts: Parameters that are the SHA-256 of a corpus (``corpora.py``), with the corpus's name. The one called
            ``corpus`` must be available; others may be missing, with an empty parameter.
        in_groups: The groups that include it; None: the group of its name.
        stand_in: Whether its groups include it only if none of their other tasks can be made.
        placeholders: Placeholders of a user's template, with their meanings; empty if the task takes no template.
        needed: Placeholders that a template's question must contain, since the oracle needs them.
        sized_in_tokens: Whether its sizes are tokens of the body, which the task counts itself (in ``at``), once for
            all samples; the fitter then composes to the requested size instead of estimating it.
        references: Whether ``answers`` are alternatives, of which ``answer`` is the first.
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
        """The groups, besides ``all``, that include this task."""
        return (cls.group(),) if cls.in_groups is None else cls.in_groups

    @classmethod
    def group(cls) -> str:
        """The first word of its name (``story``), which sets parameters of all tasks that share it."""
        return cls.name.partition("_")[0]

    def key(self) -> str:
        """Identity of the task without length and index: name, version, parameters."""
        return json.dumps([self.name, self.version, self.settings()], sort_keys=True)

    def notices(self, tokenizer: PromptTokenizer) -> list[str]:
        """What a user should know of samples for this tokenizer, such as what was left out."""
        return []

    def at(self, tokenizer: PromptTokenizer, seed: int, index: int) -> Task:
        """The task that makes one sample; differs from itself if samples divide a corpus between them.

        Raises:
            UsageError: There is no material for a sample with this index.
        """
        return self

    @abstractmethod
    def smallest(self) -> int:
        """The smallest size (in the task's unit: chapters, needles, lines, words) that fits the question."""

    def units(self, size: int) -> int:
        """Number of pieces, as in ``specimens``, in a body of this size."""
        return size

    @abstractmethod
    def specimens(self, stream: Stream, size: int) -> list[str]:
        """Typical pieces of a body of this size; their mean cost tells the fitter how many fit."""

    @abstractmethod
    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        """A sample of the given size, with its question and answer."""

    @abstractmethod
    def oracle(self, prompt: str) -> str:
        """The answer, derived only from the rendered prompt.

        Raises:
            DataError: The prompt cannot be read, contradicts itself, or does not hold one answer.
        """

    def complete(self, fields: Mapping[str, str]) -> Completion:
        """The question as a completion; its ``question`` uses only fields in ``needed``."""
        raise NotImplementedError(f"{self.name} has no placeholders")

    def verify(self, prompt: str, answer: str, answers: Sequence[str]) -> str | None:
        """The mistake in the answer according to the prompt; None if there is none.

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
        """The largest size for which there is text; None if unlimited."""
        return None

    def audit(self, prompt: str) -> list[str]:
        """Contradictions in the prompt beyond what the oracle sees; none by default."""
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
