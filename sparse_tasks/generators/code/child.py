"""A process that runs checked code and nothing else: reads files and requests as JSON, writes results as JSON.

It is started with ``python -I -S child.py``, imports no module of the package, and gives the code no builtin but an
exception. ``running.py`` lets only arithmetic, conditions and calls reach it; what that allows still, endless
recursion, ends with its processor time.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

_SECONDS = 2
_BYTES = 2**29


def main() -> None:
    """Answer the requests on standard input."""
    try:
        import resource
    except ImportError:  # not on this system; whoever started the process stops it after a while
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    asked = json.load(sys.stdin)
    modules: dict[str, dict[str, Any]] = {}

    def load(name: str, *_: object) -> SimpleNamespace:
        if name not in modules:
            modules[name] = {"__name__": name, "__builtins__": {"__import__": load, "ValueError": ValueError}}
            exec(compile(asked["files"][name], name, "exec"), modules[name])  # noqa: S102  checked, and alone here
        return SimpleNamespace(**modules[name])

    json.dump([_answer(vars(load(module))[name], arguments) for module, name, arguments in asked["calls"]], sys.stdout)


def _answer(function: Any, arguments: list[int] | None) -> list[object]:
    """The value that a call returns, or that it raised a ValueError; without arguments where a function is defined."""
    if arguments is None:
        return ["defined", function.__module__, function.__name__]
    try:
        return ["returned", function(*arguments)]
    except ValueError:
        return ["raised"]


if __name__ == "__main__":
    main()
