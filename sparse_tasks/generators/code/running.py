"""Modules read out of a text, checked to hold nothing but arithmetic, and run in a process of their own."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sparse_tasks.core.errors import DataError, quoted

_SECONDS: Final = 60  # of a machine that others use, too; the process has far less of processor time
_FILE: Final = re.compile(r"^# (\w+(?:/\w+)*)\.py\n", re.M)
_LINE: Final = re.compile(
    r"^from (?P<source>[\w.]+) import (?P<name>\w+)(?: as (?P<local>\w+))?\n"
    r"|^(?P<constant>[A-Z][A-Z_]*) = \d+\n"
    r"|^def (?P<function>\w+)\(.*\n(?:    .*\n)+",
    re.M,
)
_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_ALLOWED: Final = (
    *(ast.Module, ast.ImportFrom, ast.alias, ast.Assign, ast.FunctionDef, ast.arguments, ast.arg, ast.Expr),
    *(ast.If, ast.Return, ast.Raise, ast.Call, ast.Name, ast.Load, ast.Store, ast.Constant),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod),
    *(ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.BoolOp, ast.Or),
)
"""What code may hold: no loop, no attribute, no power, no text but docstrings."""

Call = tuple[str, str, list[int] | None]
"""Module, function and arguments; without arguments it is asked where the function is defined."""


@dataclass(slots=True)
class Source:
    """A module as told.

    Attributes:
        texts: Statements by the name that they bind.
        imports: Module and name there, of names that are imported.
        functions: Names that are defined here.
    """

    texts: dict[str, str] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)


class Sources:
    """The modules of a text.

    Args:
        text: Files, each of which begins with its path in a comment.

    Raises:
        DataError: A name is bound twice.
    """

    def __init__(self, text: str) -> None:
        self.modules: dict[str, Source] = {}
        starts = [*_FILE.finditer(text)]
        for match, end in zip(starts, [*(later.start() for later in starts[1:]), len(text)], strict=True):
            module = match[1].replace("/", ".")
            if module in self.modules:
                raise DataError(f"{match[1]}.py stands twice")
            self.modules[module] = _source(module, text[match.end() : end])

    def origin(self, module: str, name: str) -> tuple[str, str]:
        """Module and name of what a name of a module stands for.

        Raises:
            DataError: Nothing, or it leads in circles.
        """
        seen = set()
        while (module, name) not in seen and module in self.modules and name in self.modules[module].texts:
            if name not in self.modules[module].imports:
                return module, name
            seen.add((module, name))
            module, name = self.modules[module].imports[name]
        raise DataError(f"{name} of {module} is not defined")

    def mentions(self, module: str, name: str) -> Iterator[tuple[str, str]]:
        """Module and name of the functions that name a function of a module."""
        for where, source in self.modules.items():
            local = {other for other in (*source.imports, *source.functions) if self._is(where, other, module, name)}
            for function in source.functions if local else ():
                body = source.texts[function].partition("\n")[2]
                if not local.isdisjoint(_WORD.findall(body)):
                    yield where, function

    def run(self, calls: Sequence[Call]) -> list[list[object]]:
        """What calls return (``returned``, the value), or ``raised``; or ``defined``, module and name.

        Only what the calls need is run, in a process without builtins.

        Raises:
            DataError: The code holds more than arithmetic, or does not come to an end.
        """
        files = self._needed((module, name) for module, name, _ in calls)
        for module, text in files.items():
            _check(module, text)
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py"))]
        try:
            done = subprocess.run(  # noqa: S603  Python itself, and what it runs was checked
                command,
                input=json.dumps({"files": files, "calls": calls}),
                capture_output=True,
                text=True,
                check=True,
                timeout=_SECONDS,
            )
            results: list[list[object]] = json.loads(done.stdout)
        except subprocess.CalledProcessError as error:
            raise DataError(f"the code cannot be run: {(error.stderr.splitlines() or [str(error)])[-1]}") from error
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise DataError(f"the code cannot be run: {error}") from error
        return results

    def _is(self, where: str, local: str, module: str, name: str) -> bool:
        if local == name and where == module:
            return True
        return local in self.modules[where].imports and self.origin(where, local) == (module, name)

    def _needed(self, names: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The modules without what these names do not need."""
        needed: dict[tuple[str, str], None] = {}
        open_names = list(names)
        while open_names:
            module, name = key = open_names.pop()
            if key in needed:
                continue
            if module not in self.modules or name not in self.modules[module].texts:
                raise DataError(f"{name} of {module} is not defined")
            needed[key] = None
            source = self.modules[module]
            if name in source.imports:
                open_names.append(source.imports[name])
            else:
                open_names += [(module, word) for word in _WORD.findall(source.texts[name]) if word in source.texts]
        return {
            module: "".join(text for name, text in self.modules[module].texts.items() if (module, name) in needed)
            for module in dict.fromkeys(module for module, _ in needed)
        }


def _source(module: str, text: str) -> Source:
    source = Source()
    for match in _LINE.finditer(text):
        name = match["local"] or match["name"] or match["constant"] or match["function"]
        if name in source.texts:
            raise DataError(f"{module} binds {name} twice")
        source.texts[name] = match[0]
        if match["source"]:
            source.imports[name] = (match["source"], match["name"])
        elif match["function"]:
            source.functions.append(name)
    return source


def _check(module: str, text: str) -> None:
    """Make sure that code holds nothing but arithmetic.

    Raises:
        DataError: It does.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{module} is not Python: {error}") from error
    for node in ast.walk(tree):
        plain = isinstance(node, _ALLOWED)
        if isinstance(node, ast.FunctionDef):
            plain = not (node.decorator_list or node.returns)
        elif isinstance(node, ast.Name | ast.arg):
            plain = "__" not in (node.id if isinstance(node, ast.Name) else node.arg)
        elif isinstance(node, ast.Constant):
            plain = isinstance(node.value, int | str)
        elif isinstance(node, ast.Call):
            plain = isinstance(node.func, ast.Name) and not node.keywords
        elif isinstance(node, ast.BinOp):
            plain = plain and not any(_is_text(side) for side in (node.left, node.right))
        if not plain:
            what = quoted(ast.unparse(node))
            raise DataError(f"{module} holds more than arithmetic and calls, and is not run: {what}")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
