"""Base of the story tasks: one world, one narrator, one form of questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.overlap import LITERAL, refuse, shared
from sparse_tasks.generators.prose.people import locales
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import ENGLISH, Language, language, languages
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Story, audit, read
from sparse_tasks.generators.story.world import Chronicle, Plan, simulate
from sparse_tasks.generators.task import Asked, Draft, Mark, Task, parameter

_SPECIMENS = 160
# Filler paragraphs by their number of sentences, from large to small; 0 is a short sentence alone.
_FILLER = (4, 2, 1, 0)


@dataclass(slots=True)
class Question:
    """A question on a story.

    Attributes:
        ask: The question.
        form: What goes between the answer tags.
        answer: Gold, as a perfect model writes it.
        answers: Gold, as the metric compares it.
        marks: Finds the evidence.
        metric: Another metric than the task's.
        drawn: Values drawn for the sample.
        history: As of ``Asked``, and so is ``level``.
        others: Further questions on the story.
    """

    ask: str
    form: str
    answer: str
    answers: list[str]
    marks: Callable[[], list[Mark]]
    metric: str | None = None
    drawn: dict[str, Any] = field(default_factory=dict)
    history: int = 0
    level: str = ""
    others: Sequence[Question] = ()


@dataclass(frozen=True)
class StoryTask(Task):
    """A task over the story world; its unit is the chapter."""

    locale: str = parameter("en_US", "faker's locale for names", choices=locales)
    distractors: int = parameter(2, "mean number of events per chapter that only look like those asked for", 0, 8)
    language: str = parameter(
        ENGLISH, "language of story, question and answer; names come from its locale", choices=languages, later=True
    )

    steerable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language != ENGLISH and self.locale == language().locale:
            object.__setattr__(self, "locale", language(self.language).locale)
        # A change in one language's stories does not affect other languages.
        object.__setattr__(self, "version", type(self).version + language(self.language).version - 1)

    def check_overlap(self, level: str, sentence: str) -> None:
        """Check that the task's language has the sentence for an overlap.

        Raises:
            UsageError: It is missing.
        """
        if level != LITERAL and sentence not in language(self.language).say:
            raise refuse(self.name, level, f"is not asked in the language {self.language!r}")

    def measured(self, asked: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Any]:
        """Mean overlap of questions and what answers each, for a task's ``drawn``; nothing where that is literal."""
        if getattr(self, "overlap", LITERAL) == LITERAL:
            return {}
        words = language(self.language).words
        return {"overlap": round(fmean(shared(question, evidence, words) for question, evidence in asked), 4)}

    @abstractmethod
    def plan(self, stream: Stream, chapters: int, depth: Depth) -> Plan:
        """Plan of the story."""

    @abstractmethod
    def ask(self, stream: Stream, plan: Plan, chronicle: Chronicle, narrator: Narrator, depth: Depth) -> Question:
        """The question, after simulation and narration."""

    @abstractmethod
    def answer(self, story: Story) -> str:
        """The oracle's half: the answer, from the story as read."""

    def specimens(self, stream: Stream, size: int) -> list[str]:
        chapters = max(self.smallest(), min(size, _SPECIMENS))
        chronicle = simulate(stream.fork("world"), self.plan(stream.fork("plan"), chapters, Depth()))
        narrated = Narrator(stream.fork("prose"), chronicle).chapters
        return ["".join(passage.text for passage in chapter) for chapter in narrated]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        plan = self.plan(stream.fork("plan"), size, depth)
        chronicle = simulate(stream.fork("world"), plan)
        narrator = Narrator(stream.fork("prose"), chronicle)
        question = self.ask(stream.fork("question"), plan, chronicle, narrator, depth)
        filler, tongue = stream.fork("filler"), chronicle.tongue
        words = tongue.instructions
        return Draft(
            intro=narrator.intro,
            body=narrator.body,
            preview=_preview(question, tongue),
            question=_asked(question, tongue),
            answer=question.answer,
            answers=question.answers,
            offers=[partial(narrator.filler, filler, sentences) for sentences in _FILLER],
            marks=question.marks,
            metric=question.metric,
            drawn={"chapters": size} | question.drawn,
            instructions=words,
            turns=[self._turn(each, tongue) for each in (question, *question.others)] if question.others else (),
        )

    def _turn(self, question: Question, tongue: Language) -> Asked:
        return Asked(
            question=_asked(question, tongue),
            answer=question.answer,
            answers=question.answers,
            metric=question.metric or self.metric,
            marks=question.marks,
            history=question.history,
            level=question.level,
        )

    def oracle(self, prompt: str) -> str:
        try:
            return self.answer(read(prompt))
        except (ValueError, IndexError, KeyError, AttributeError) as error:
            raise DataError(f"the question and the story do not go together: {error!r}") from error

    def audit(self, prompt: str) -> list[str]:
        return audit(prompt)


def _asked(question: Question, tongue: Language) -> str:
    """A question after the story, or after others."""
    opening = tongue.sentence("next" if question.history else "over")
    return prompts.question(opening, question.ask, question.form, tongue.instructions)


def _preview(question: Question, tongue: Language) -> str:
    """The question before the story; all of them if they are asked in sequence."""
    if not question.others or question.level:  # levels ask for parts of the first
        return prompts.preview("a story", question.ask, question.form, tongue.instructions)
    asks = [each.ask for each in (question, *question.others)]
    numbered = "\n\n".join(f"{number}. {ask}" for number, ask in enumerate(asks, 1))
    return f"{tongue.sentence('several')}\n\n{numbered}\n\n"
