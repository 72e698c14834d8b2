"""Base of the tasks on code: one repository, one form of questions."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.code.repository import Function, Repository
from sparse_tasks.generators.code.running import Sources
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Draft, Mark, Task

_SPECIMENS = 64
_INTRO = (
    "Below are the files of a Python repository, in no order. Each begins with a comment that tells its path; files "
    "import from the root of the repository.\n\n"
)
_END = "The repository ends here."


@dataclass(slots=True)
class Question:
    """A question on a repository: the words, the form of the answer, gold, and its evidence."""

    ask: str
    form: str
    answers: list[str]
    marks: Callable[[], list[Mark]]


@dataclass(frozen=True)
class CodeTask(Task):
    """A task on a repository of Python modules that call each other; its unit is the module.

    The oracle reads the modules out of the prompt and runs what the question needs of them, in a process that knows
    nothing but arithmetic.
    """

    steerable: ClassVar[bool] = False

    @abstractmethod
    def ask(self, stream: Stream, repository: Repository) -> Question:
        """Fill a repository of constants with functions, and ask."""

    @abstractmethod
    def run(self, sources: Sources, question: str) -> str:
        """The oracle's half: the answer, by running the modules as read."""

    def specimens(self, stream: Stream, size: int) -> list[str]:
        repository = Repository(stream.fork("repository"), max(self.smallest(), min(size, _SPECIMENS)))
        self.ask(stream.fork("ask"), repository)
        repository.body()
        return ["".join(passage.text for passage in (module.head, *module.functions)) for module in repository.modules]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        repository = Repository(stream.fork("repository"), size)
        question = self.ask(stream.fork("ask"), repository)
        return Draft(
            intro=_INTRO,
            body=repository.body(),
            preview=prompts.preview("a repository", question.ask, question.form),
            question=prompts.question(_END, question.ask, question.form),
            answer="\n".join(question.answers),
            answers=question.answers,
            offers=repository.offers(stream.fork("filler")),
            marks=question.marks,
            drawn={"modules": size},
        )

    def oracle(self, prompt: str) -> str:
        first, last = prompt.rfind(_INTRO), prompt.rfind(f"\n{_END}\n")
        if first < 0 or last < first:
            raise DataError("the prompt holds no whole repository: its beginning or its end is missing")
        return self.run(Sources(prompt[first + len(_INTRO) : last + 1]), prompt[last:])


def asked(pattern: str, question: str) -> re.Match[str]:
    """The question, by a pattern.

    Raises:
        DataError: It cannot be read.
    """
    match = re.search(pattern, question)
    if match is None:
        raise DataError("the question cannot be read")
    return match


def dotted(file: str) -> str:
    """The module of a file."""
    return file.removesuffix(".py").replace("/", ".")


def file_of(module: object) -> str:
    """The file of a module."""
    return f"{str(module).replace('.', '/')}.py"


def used(function: Function, text: str) -> list[Mark]:
    """A function as evidence, with the lines that give the names in ``text`` their meaning."""
    module = function.module
    words = [word for word in dict.fromkeys(re.findall(r"\w+", text)) if word not in function.parameters]
    return [
        function.mark(),
        *(module.mark_import(word) for word in words if word in module.imports),
        *(module.mark_constant(word) for word in words if word in module.constants),
        *(
            source.mark_constant(name)
            for word in words
            if word in module.imports
            for source, name in [module.imports[word]]
            if name in source.constants
        ),
    ]
