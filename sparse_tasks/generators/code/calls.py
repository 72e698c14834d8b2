"""Code, calls: which of many calls of a function pass an argument that it refuses (high dispersion, high scope)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.code.repository import FUNCTIONS, Module, Repository, opening
from sparse_tasks.generators.code.running import Sources
from sparse_tasks.generators.code.task import CodeTask, Question, asked, dotted, file_of
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Mark, Passage, parameter

_CHECKERS = 6  # one module in so many has a function that refuses arguments


@dataclass(slots=True, eq=False)
class _Checker:
    """A function that refuses numbers below or above what it takes."""

    module: Module
    name: str
    least: int
    most: int
    passage: Passage


@dataclass(slots=True, eq=False)
class _Site:
    """A function that calls a checker with a number that follows from constants."""

    module: Module
    name: str
    local: str
    constant: str
    passage: Passage


@dataclass(frozen=True)
class CodeCalls(CodeTask):
    """Asks which functions call another one with an argument that makes it raise an error.

    ``refused`` of them do, ``accepted`` do not. Arguments follow from constants, half of which are imported, and
    functions of several files may have the name of the one asked about.
    """

    refused: int = parameter(
        3, "number of functions that call the one asked about with a number that it refuses", 1, 64
    )
    accepted: int = parameter(9, "number of functions that call it with another one", 0, 256)

    name: ClassVar[str] = "code_calls"
    summary: ClassVar[str] = "the callers of a function that pass an argument which it refuses"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "set_iou"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refused == 1:
            object.__setattr__(self, "version", 2)  # one function was asked for as several

    @property
    def calls(self) -> int:
        """Number of functions that call the one asked about."""
        return self.refused + self.accepted

    def budget(self) -> int:
        return 512 + 32 * self.refused

    def smallest(self) -> int:
        return -(-self.calls // (FUNCTIONS - 1)) + 2

    def ask(self, stream: Stream, repository: Repository) -> Question:
        modules = repository.modules
        asked_about = self._checker(stream, repository, modules[0])
        while len(modules[0].functions) < FUNCTIONS:
            repository.leaf(modules[0])
        others = [self._checker(stream, repository, module) for module in modules[1::_CHECKERS]]
        # Places for functions in all modules but the first, whose function is called from anywhere else.
        places = [module for module in modules[1:] for _ in range(FUNCTIONS - len(module.functions))]
        chosen = stream.sample(range(len(places)), self.calls)
        bad = frozenset(chosen[: self.refused])
        sites = {}
        numbers = [other.module.number for other in others]
        for number, module in enumerate(places):
            if number in chosen:
                sites[number] = self._site(stream, repository, module, asked_about, number in bad)
            else:
                other = stream.choice(others[: bisect_right(numbers, module.number)])
                self._site(stream, repository, module, other, stream.below(4) == 0)
        order = {module: place for place, module in enumerate(repository.order)}
        gold = sorted((sites[number] for number in sorted(bad)), key=lambda site: order[site.module])
        return Question(
            ask=f"The function {asked_about.name} of {asked_about.module.file} is called in exactly {self.calls} other "
            f"function{'s' * (self.calls > 1)} of the repository. In exactly {self.refused} of these it raises "
            "ValueError, because of the number that it is called with. "
            f"Which function{'s are these' if self.refused > 1 else ' is it'}?",
            form='the path of the file, a colon and the name of the function that calls, one a line: "FILE: NAME".',
            answers=[f"{site.module.file}: {site.name}" for site in gold],
            marks=lambda: [
                Mark(
                    asked_about.passage,
                    0,
                    asked_about.passage,
                    len(asked_about.passage.text.rstrip()),
                    asked_about.name,
                ),
                *(mark for site in sites.values() for mark in _evidence(site)),
            ],
        )

    def _checker(self, stream: Stream, repository: Repository, module: Module) -> _Checker:
        name, (parameter, _) = repository.name(module), repository.parameters()
        least = stream.between(10, 40)
        most = least + stream.between(20, 60)
        text = (
            f"{opening(name, parameter)}    if {parameter} < {least} or {parameter} > {most}:\n"
            f"        raise ValueError({parameter})\n"
            f"    return {parameter} * {stream.between(2, 9)}\n\n\n"
        )
        module.functions.append(Passage(text))
        return _Checker(module, name, least, most, module.functions[-1])

    def _site(self, stream: Stream, repository: Repository, module: Module, checker: _Checker, bad: bool) -> _Site:
        constant = repository.constant(module)
        value = module.values[constant]
        if bad:
            least = value + 1 if checker.least - value < 3 or stream.below(2) else None
            number = (
                stream.between(checker.most + 1, checker.most + 20)
                if least
                else stream.between(value + 1, checker.least - 1)
            )
        else:
            number = stream.between(max(checker.least, value + 1), checker.most)
        local = repository.imported(module, checker.module, checker.name)
        name = repository.name(module)
        text = f"{opening(name, '')}    return {local}({constant} + {number - value}) + {stream.between(1, 50)}\n\n\n"
        module.functions.append(Passage(text))
        return _Site(module, name, local, constant, module.functions[-1])

    def run(self, sources: Sources, question: str) -> str:
        found = asked(
            r"The function (\w+) of (\S+\.py) is called in exactly (\d+) other functions? .* exactly (\d+) of these",
            question,
        )
        sites = list(sources.mentions(dotted(found[2]), found[1]))
        results = sources.run([(module, name, []) for module, name in sites])
        raised = [site for site, (how, *_) in zip(sites, results, strict=True) if how == "raised"]
        if len(sites) != int(found[3]) or len(raised) != int(found[4]):
            raise DataError(
                f"{len(sites)} functions call it, and it raises in {len(raised)}, which is not what the question says"
            )
        return "\n".join(f"{file_of(module)}: {name}" for module, name in raised)


def _evidence(site: _Site) -> list[Mark]:
    module = site.module
    marks = [Mark(site.passage, 0, site.passage, len(site.passage.text.rstrip()), site.name)]
    if site.constant in module.imports:
        source, name = module.imports[site.constant]
        return [*marks, module.mark_import(site.local), module.mark_import(site.constant), source.mark_constant(name)]
    return [*marks, module.mark_import(site.local), module.mark_constant(site.constant)]


TASKS.register(CodeCalls.name, CodeCalls)
