"""Steps of tasks on code: the path from file to file, with the values of names."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sparse_tasks.generators.code.running import Sources
from sparse_tasks.generators.code.task import asked, dotted, file_of

Sample = Mapping[str, Any]


def _value(sample: Sample) -> list[str]:
    """Each call with its condition and the call that it makes, then their results, from the last one back."""
    found = asked(r"What does (\w+)\((\d+), (\d+)\) of (\S+\.py) return\?", sample["question"])
    sources, module, name = Sources(sample["prompt"]), dotted(found[4]), found[1]
    arguments, added, lines = [int(found[2]), int(found[3])], list[int](), list[str]()
    while True:
        module, name = sources.origin(module, name)
        (function,) = ast.parse(sources.modules[module].texts[name]).body
        if not isinstance(function, ast.FunctionDef):
            raise ValueError(f"{name} is no function")
        numbers = _Numbers(sources, module, dict(zip((a.arg for a in function.args.args), arguments, strict=True)))
        head, way = f"{file_of(module)}: {name}({', '.join(map(str, arguments))})", function.body[-1]
        for statement in function.body:
            if isinstance(statement, ast.If):
                true = bool(numbers.value(statement.test))
                head += f", {numbers.worked(statement.test)} is {true}"
                way = statement.body[0] if true else way
        if not isinstance(way, ast.Return) or way.value is None:
            raise ValueError(f"{name} returns nothing")
        call, more = way.value, 0
        if isinstance(call, ast.BinOp) and isinstance(call.left, ast.Call):
            call, more = call.left, numbers.value(call.right)
        if not isinstance(call, ast.Call):
            value = numbers.value(call)
            worked = numbers.worked(call)
            lines.append(f"{head}: {value}" if worked == str(value) else f"{head}: {worked} = {value}")
            break
        arguments = [numbers.value(argument) for argument in call.args]
        said = ", ".join(map(numbers.said, call.args))
        lines.append(f"{head}: {ast.unparse(call.func)}({said})" + (f" + {more}" if more else ""))
        name = ast.unparse(call.func)
        added += [more] if more else []
    for more in reversed(added):
        lines.append(f"{value} + {more} = {value + more}")
        value += more
    return lines


class _Numbers(ast.NodeTransformer):
    """Replaces names by numbers."""

    def __init__(self, sources: Sources, module: str, arguments: dict[str, int]) -> None:
        self._sources, self._module, self._arguments = sources, module, arguments

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        if node.id in self._arguments:
            return ast.Constant(self._arguments[node.id])
        return ast.Constant(constant(self._sources, self._module, node.id))

    def said(self, expression: ast.expr) -> str:
        return ast.unparse(self.visit(ast.parse(ast.unparse(expression), mode="eval").body))

    def worked(self, expression: ast.expr) -> str:
        """The expression, and before it, if it has an inner operation, that one with its result."""
        inner = expression.left if isinstance(expression, (ast.BinOp, ast.Compare)) else None
        if not isinstance(inner, ast.BinOp):
            return self.said(expression)
        result = ast.Constant(self.value(inner))
        if isinstance(expression, ast.Compare):
            outer: ast.expr = ast.Compare(result, expression.ops, expression.comparators)
        elif isinstance(expression, ast.BinOp):
            outer = ast.BinOp(result, expression.op, expression.right)
        return f"{self.said(inner)} = {result.value}, {self.said(outer)}"

    def value(self, expression: ast.expr) -> int:
        return int(eval(self.said(expression), {"__builtins__": {}}))  # only numbers, written by the generator


def constant(sources: Sources, module: str, name: str) -> int:
    """The value of a name in a module."""
    module, name = sources.origin(module, name)
    return int(sources.modules[module].texts[name].partition(" = ")[2])


def _definition(sample: Sample) -> list[str]:
    """Each import on the path."""
    found = asked(r"In (\S+\.py), the function \w+ calls (\w+)\. In which file", sample["question"])
    sources, module, name, lines = Sources(sample["prompt"]), dotted(found[1]), found[2], list[str]()
    while name in sources.modules[module].imports:
        there, known = sources.modules[module].imports[name]
        lines.append(f"{file_of(module)}: {name} is {known} of {file_of(there)}")
        module, name = there, known
    return lines


def _calls(sample: Sample) -> list[str]:
    """The numbers that the function accepts, and the number in each call."""
    found = asked(r"The function (\w+) of (\S+\.py) is called", sample["question"])
    sources, module = Sources(sample["prompt"]), dotted(found[2])
    least, most = map(int, re.findall(r"[<>] (\d+)", sources.modules[module].texts[found[1]]))
    lines = [f"{found[1]}: {least} to {most}"]
    for where, name in sources.mentions(module, found[1]):
        ((local, more),) = re.findall(r"\w+\((\w+) \+ (\d+)\)", sources.modules[where].texts[name])
        first = constant(sources, where, local)
        number = first + int(more)
        verdict = "taken" if least <= number <= most else "refused"
        lines.append(f"{file_of(where)}: {name}: {first} + {more} = {number}, {verdict}")
    return lines


STEPS: Final[dict[str, Callable[[Sample], list[str]]]] = {
    "code_value": _value,
    "code_definition": _definition,
    "code_calls": _calls,
}
