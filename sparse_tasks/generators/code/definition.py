"""Code, definitions: where a function is defined that a file knows by another name (high dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.code.repository import FUNCTIONS, Function, Module, Repository
from sparse_tasks.generators.code.running import Sources
from sparse_tasks.generators.code.task import CodeTask, Question, asked, dotted, file_of
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Mark, parameter

_HAVE_FEWER = 3  # one import in so many takes a shorter way


@dataclass(frozen=True)
class CodeDefinition(CodeTask):
    """Asks for the file in which a function is defined, and for its name there, ``hops`` imports away from a call.

    Files import names only to hand them on, mostly under other ones, and functions of several files may have one name.
    """

    hops: int = parameter(3, "number of imports between the call and the definition", 1, 16)

    name: ClassVar[str] = "code_definition"
    summary: ClassVar[str] = "where a function is defined that is imported through several files"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"

    def smallest(self) -> int:
        return self.hops + 2

    def ask(self, stream: Stream, repository: Repository) -> Question:
        leaves: list[list[Function]] = []
        # In one module at least a function calls one from as far away as is asked for.
        sure = stream.between(self.hops, len(repository.modules) - 1)
        asks = []
        for module in repository.modules:
            leaves.append([repository.leaf(module)])
            while len(module.functions) < FUNCTIONS:
                first = module.number == sure and len(module.functions) == 1
                if module.number == 0 or (not first and stream.below(FUNCTIONS) == 0):
                    leaves[-1].append(repository.leaf(module))
                    continue
                callees = []
                for _ in range(2):
                    most = min(self.hops, module.number)
                    hops = most if first or stream.below(_HAVE_FEWER) else stream.between(1, most)
                    callee = stream.choice(leaves[stream.below(module.number - hops + 1)])
                    chain = self._chain(stream, repository, module, callee, hops)
                    callees.append((callee, chain[-1][1]))
                    if hops == self.hops:
                        asks.append((len(module.functions), module, chain))
                repository.caller(module, callees)
        number, module, chain = stream.choice(asks)
        caller = module.functions[number]
        name = caller.text.removeprefix("def ").partition("(")[0]
        origin, local = chain[0], chain[-1][1]
        definition = next(leaf for leaf in leaves[origin[0].number] if leaf.name == origin[1])
        return Question(
            ask=f"In {module.file}, the function {name} calls {local}. In which file of the repository is the function "
            "defined that is called there, and what is its name in that file?",
            form='the path of the file, a colon and the name of the function there: "FILE: NAME".',
            answers=[f"{origin[0].file}: {origin[1]}"],
            marks=lambda: [
                Mark(caller, 0, caller, len(caller.text.rstrip()), name),
                *(step.mark_import(known) for step, known in chain[1:]),
                definition.mark(),
            ],
        )

    def _chain(
        self, stream: Stream, repository: Repository, module: Module, callee: Function, hops: int
    ) -> list[tuple[Module, str]]:
        """The files that a function comes through, and its names there, from its own to ``module``."""
        between = stream.sample(range(callee.module.number + 1, module.number), hops - 1)
        chain = [(callee.module, callee.name)]
        for number in (*sorted(between), module.number):
            step = repository.modules[number]
            # Each import has a name of its own, so that there is one way back from it.
            chain.append((step, repository.imported(step, *chain[-1], rename=stream.below(3) > 0)))
        return chain

    def run(self, sources: Sources, question: str) -> str:
        found = asked(r"In (\S+\.py), the function \w+ calls (\w+)\. In which file", question)
        ((_, module, name),) = sources.run([(dotted(found[1]), found[2], None)])
        return f"{file_of(module)}: {name}"


TASKS.register(CodeDefinition.name, CodeDefinition)
