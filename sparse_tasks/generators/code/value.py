"""Code, values: what a function returns that calls others across files (high dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.code.repository import FUNCTIONS, Function, Repository
from sparse_tasks.generators.code.running import Sources
from sparse_tasks.generators.code.task import CodeTask, Question, asked, dotted, used
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Mark, parameter


@dataclass(frozen=True)
class CodeValue(CodeTask):
    """Asks for the value that a function returns, over ``hops`` calls of functions in other files.

    Each function goes one of two ways, as its arguments say, and calls another one there. Imports may rename, and
    functions of several files may have one name. Written values take no arithmetic but a comparison for each call.
    """

    hops: int = parameter(4, "number of calls, one after the other, until a value is returned", 1, 24)
    kind: str = parameter(
        "computed",
        "values that are computed from arguments, or written in the last function",
        choices=lambda: ("computed", "written"),
        later=True,
    )

    name: ClassVar[str] = "code_value"
    summary: ClassVar[str] = "the value returned by a function that calls others across files"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"

    def smallest(self) -> int:
        return -(-(self.hops + 1) // FUNCTIONS) + 1

    def ask(self, stream: Stream, repository: Repository) -> Question:
        repository.computes = self.kind == "computed"
        # Functions of each level call those of the level below, in modules with smaller numbers or in their own.
        levels: list[list[Function]] = [[] for _ in range(self.hops + 1)]
        for number in range(FUNCTIONS * len(repository.modules)):
            module = repository.modules[number // FUNCTIONS]
            level = number % (self.hops + 1)
            if level == 0:
                made = repository.leaf(module)
            else:
                callees = stream.sample(levels[level - 1], 2) if levels[level - 1][1:] else levels[level - 1] * 2
                made = repository.caller(
                    module, [(callee, repository.imported(module, callee.module, callee.name)) for callee in callees]
                )
            levels[level].append(made)
        function = stream.choice(levels[-1])
        arguments = [stream.between(2, 60), stream.between(2, 60)]
        value, called = function.call(arguments)
        return Question(
            ask=f"What does {function.name}({arguments[0]}, {arguments[1]}) of {function.module.file} return?",
            form="one whole number, in digits.",
            answers=[str(value)],
            marks=lambda: _evidence(called),
        )

    def run(self, sources: Sources, question: str) -> str:
        found = asked(r"What does (\w+)\((\d+), (\d+)\) of (\S+\.py) return\?", question)
        ((how, *value),) = sources.run([(dotted(found[4]), found[1], [int(found[2]), int(found[3])])])
        if how != "returned":
            raise DataError(f"{found[1]} returns no value")
        return str(value[0])


def _evidence(called: list[Function]) -> list[Mark]:
    """The functions that are called, each with the meaning of the names in it."""
    return [mark for function in called for mark in used(function, function.passage.text)]


TASKS.register(CodeValue.name, CodeValue)
