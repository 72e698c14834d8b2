"""A repository that is drawn: modules with constants and functions, each of which calls functions of other modules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from sparse_tasks.generators.prose.grammar import read_lexicon
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Mark, Offer, Passage

FUNCTIONS = 3  # of a module
_CONSTANTS = 2  # of a module
_NAMESAKES = 3  # one function in so many has the name of one in another module
_RENAMED = 3  # one import in so many has another name
_NAMESAKE_TRIES = 8

Expression = int | str | tuple["Expression", str, "Expression"]
"""A number, a name, or two expressions and a sign."""

_SIGNS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}


_BINDS = {"+": 1, "*": 2, "//": 2, "%": 2}  # signs that bind, the stronger ones with larger numbers


def written(expression: Expression, bound: int = 0) -> str:
    """An expression in Python."""
    if not isinstance(expression, tuple):
        return str(expression)
    left, sign, right = expression
    binds = _BINDS.get(sign, 0)
    text = f"{written(left, binds)} {sign} {written(right, binds)}"
    return f"({text})" if binds < bound else text


@dataclass(slots=True, eq=False)
class Way:
    """What a function returns: an expression, or what another function returns for two of them."""

    value: Expression
    callee: Function | None = None
    local: str = ""
    arguments: tuple[Expression, Expression] = (0, 0)

    def text(self) -> str:
        """The line."""
        if self.callee is None:
            return f"return {written(self.value)}"
        call = f"{self.local}({', '.join(map(written, self.arguments))})"
        return f"return {call}" if self.value == 0 else f"return {call} + {written(self.value)}"


@dataclass(slots=True, eq=False)
class Function:
    """A function of two numbers: a condition, and two ways on.

    Attributes:
        passage: Where it stands.
    """

    module: Module
    name: str
    parameters: tuple[str, str]
    condition: Expression
    ways: tuple[Way, Way]
    passage: Passage = field(default_factory=lambda: Passage(""))

    def mark(self) -> Mark:
        """All of it as evidence."""
        return Mark(self.passage, 0, self.passage, len(self.passage.text.rstrip()), self.name)

    def text(self) -> str:
        """Its definition."""
        first, second = self.ways
        return (
            f"{opening(self.name, ', '.join(self.parameters))}"
            f"    if {written(self.condition)}:\n        {first.text()}\n    {second.text()}\n\n\n"
        )

    def call(self, arguments: Sequence[int]) -> tuple[int, list[Function]]:
        """What it returns, and the functions that are called for it, in order."""
        values = dict(zip(self.parameters, arguments, strict=True))
        way = self.ways[0 if self.module.evaluate(self.condition, values) else 1]
        value, called = self.module.evaluate(way.value, values), [self]
        if way.callee is not None:
            more, others = way.callee.call([self.module.evaluate(argument, values) for argument in way.arguments])
            value, called = value + more, [self, *others]
        return value, called


@dataclass(slots=True, eq=False)
class Module:
    """A file.

    Attributes:
        path: Without its ending (``depot/yard``).
        number: It imports from modules with smaller numbers alone.
        names: Names that are bound.
        imports: Where imported names come from: a module and the name there.
        head: Path, imports and constants.
    """

    path: str
    number: int
    names: set[str] = field(default_factory=set)
    imports: dict[str, tuple[Module, str]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    head: Passage = field(default_factory=lambda: Passage(""))
    functions: list[Passage] = field(default_factory=list)

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.path}.py"

    def evaluate(self, expression: Expression, values: dict[str, int]) -> int:
        """The value of an expression in this module."""
        if isinstance(expression, int):
            return expression
        if isinstance(expression, str):
            return values[expression] if expression in values else self.values[expression]
        left, sign, right = expression
        return _SIGNS[sign](self.evaluate(left, values), self.evaluate(right, values))

    def write_head(self) -> None:
        """The beginning of the file, once all imports are known."""
        imports = sorted(self._import(local) for local in self.imports)
        constants = [f"{name} = {value}\n" for name, value in self.constants.items()]
        self.head.text = "\n".join(
            ["".join(part) for part in ([f"# {self.file}\n"], imports, constants) if part] + ["\n"]
        )

    def mark_import(self, local: str) -> Mark:
        """The line that imports a name."""
        line = self._import(local)
        start = self.head.text.index(line)
        return Mark(self.head, start, self.head, start + len(line) - 1, local)

    def mark_constant(self, name: str) -> Mark:
        """The line that gives a constant its value."""
        line = f"{name} = {self.constants[name]}\n"
        start = self.head.text.index(f"\n{line}") + 1
        return Mark(self.head, start, self.head, start + len(line) - 1, name)

    def _import(self, local: str) -> str:
        module, name = self.imports[local]
        renamed = "" if name == local else f" as {local}"
        return f"from {module.path.replace('/', '.')} import {name}{renamed}\n"


class Repository:
    """Modules with constants, still without functions.

    Args:
        stream: Where the draws come from.
        size: Number of modules.

    Attributes:
        modules: In the order in which they may import: each from those before it.
        order: The same as they are told, in no order.
        computes: Whether functions compute with their arguments. Otherwise they return a written number, or what
            another function returns for the same arguments.
    """

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._used: set[str] = set()
        self._names: list[str] = []
        self.computes = True
        self.modules = [Module(path, number) for number, path in enumerate(self._paths(size))]
        self.order = list(self.modules)
        stream.shuffle(self.order)
        for module in self.modules:
            while len(module.constants) < _CONSTANTS:
                name = self.stream_choice("constants.txt")
                if name not in module.names:
                    module.names.add(name)
                    module.constants[name] = module.values[name] = stream.between(2, 30)

    def stream_choice(self, lexicon: str) -> str:
        """A word of a list."""
        return self._stream.choice(_words(lexicon))

    def fresh(self) -> str:
        """A name of a function that no other has."""
        while True:
            verb, noun = self.stream_choice("verbs.txt"), self.stream_choice("nouns.txt")
            name = f"{verb}_{noun}"
            for _ in range(_NAMESAKE_TRIES):
                if name not in self._used:
                    self._used.add(name)
                    self._names.append(name)
                    return name
                name = f"{verb}_{self.stream_choice('adjectives.txt')}_{noun}"

    def name(self, module: Module) -> str:
        """A name for a function of a module, which one of another module may have, too."""
        if self._names and self._stream.below(_NAMESAKES) == 0:
            name = self._stream.choice(self._names)
            if name not in module.names:
                module.names.add(name)
                return name
        name = self.fresh()
        module.names.add(name)
        return name

    def parameters(self) -> tuple[str, str]:
        """Two names of parameters."""
        first, second = self._stream.sample(_words("nouns.txt"), 2)
        return first, second

    def imported(self, module: Module, source: Module, name: str, rename: bool | None = None) -> str:
        """The name under which a module has a name of another one (or its own)."""
        if module is source:
            return name
        known = next((local for local, origin in module.imports.items() if origin == (source, name)), None)
        if known is not None and rename is None:
            return known
        if rename is None:
            rename = self._stream.below(_RENAMED) == 0
        local = name
        if rename or local in module.names:
            local = self.stream_choice("constants.txt") if name.isupper() else self.fresh()
            while local in module.names:
                local = f"{self.stream_choice('constants.txt')}_{local}" if name.isupper() else self.fresh()
        module.names.add(local)
        module.imports[local] = (source, name)
        if name.isupper():
            module.values[local] = source.values[name]
        return local

    def constant(self, module: Module) -> str:
        """A constant as a module knows it: its own, or one that it imports."""
        source = module
        if module.number and self._stream.below(2):
            source = self.modules[self._stream.below(module.number)]
        return self.imported(module, source, self._stream.choice(list(source.constants)))

    def function(self, module: Module, parameters: tuple[str, str], ways: tuple[Way, Way]) -> Function:
        """A function that goes one of two ways."""
        stream = self._stream
        name = self.name(module)
        tested = stream.choice(parameters)
        condition: Expression = (
            ((tested, "%", k := stream.between(2, 4)), "==", stream.below(k))
            if stream.below(2)
            else (tested, stream.choice("<>"), stream.between(8, 60))
        )
        made = Function(module, name, parameters, condition, ways)
        made.passage.text = made.text()
        module.functions.append(made.passage)
        return made

    def leaf(self, module: Module) -> Function:
        """A function that calls nothing."""
        parameters = self.parameters()
        if not self.computes:
            return self.function(module, parameters, (Way(_number(self._stream)), Way(_number(self._stream))))
        a, b = parameters
        ways = []
        for _ in range(2):
            factor = self._stream.between(2, 9)
            added = self.constant(module) if self._stream.below(2) else self._stream.between(1, 40)
            first, second = (a, b) if self._stream.below(2) else (b, a)
            ways.append(
                Way(self._stream.choice([((first, "*", factor), "+", second), ((first, "+", added), "*", factor)]))
            )
        return self.function(module, parameters, (ways[0], ways[1]))

    def caller(self, module: Module, callees: Sequence[tuple[Function, str]]) -> Function:
        """A function that calls one of two others, which go by a local name each."""
        stream = self._stream
        a, b = parameters = self.parameters()
        ways = []
        for callee, local in callees:
            if not self.computes:
                ways.append(Way(0, callee, local, (a, b) if stream.below(2) else (b, a)))
                continue
            added = self.constant(module) if stream.below(2) else stream.between(1, 20)
            first, second = (a, b) if stream.below(2) else (b, a)
            forms: list[tuple[Expression, Expression]] = [
                ((first, "+", added), second),
                (first, (second, "//", 2)),
                (first, (second, "+", added)),
            ]
            arguments = stream.choice(forms)
            ways.append(Way(stream.choice([0, stream.between(1, 50)]), callee, local, arguments))
        return self.function(module, parameters, (ways[0], ways[1]))

    def body(self) -> list[Passage]:
        """All passages, once all functions are drawn."""
        for module in self.order:
            module.write_head()
        return [passage for module in self.order for passage in (module.head, *module.functions)]

    def offers(self, stream: Stream) -> list[Callable[[], Offer | None]]:
        """A function that nobody calls, then a comment, behind any function."""
        places = [passage for module in self.modules for passage in module.functions]

        def helper() -> str:
            name, (a, b) = self.fresh(), self.parameters()
            value = f"{a} * {stream.between(2, 9)} + {b}" if self.computes else str(_number(stream))
            return f"{opening(name, f'{a}, {b}')}    return {value}\n\n\n"

        def comment() -> str:
            return f"# {stream.choice(_words('comments.txt'))}\n\n\n"

        def offer(text: str) -> Offer:
            passage = stream.choice(places)
            return Offer([text], [], lambda: passage.followers.append(text))

        return [lambda: offer(helper()), lambda: offer(comment())]

    def _paths(self, size: int) -> list[str]:
        paths: dict[str, None] = {}
        while len(paths) < size:
            file = self.stream_choice("files.txt")
            if len(paths) >= 200:  # there are not many more of them
                file = f"{self.stream_choice('adjectives.txt')}_{file}"
            if len(paths) >= 5_000:
                file = f"{self.stream_choice('adjectives.txt')}_{file}"
            paths[f"{self.stream_choice('folders.txt')}/{file}"] = None
        return list(paths)


def _number(stream: Stream) -> int:
    """A number that is rarely written twice."""
    return stream.between(100, 999)


def opening(name: str, parameters: str) -> str:
    """The first lines of a function."""
    return f'def {name}({parameters}):\n    """{name.replace("_", " ").capitalize()}."""\n'


@cache
def _words(name: str) -> list[str]:
    return [word for (word,) in read_lexicon(files(__package__) / "lexicon" / name)]
