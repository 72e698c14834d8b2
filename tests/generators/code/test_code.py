"""Code: files written to disk and imported by Python itself, whatever the oracles read; and code that is not run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.code.running import Sources
from sparse_tasks.generators.task import Draft
from tests.generators.drafts import context_of, draft_of, fill, prompt_of, task_of

NAMES = ("code_value", "code_definition", "code_calls")
SCRIPT = """
import importlib, inspect, json, sys
sys.path.insert(0, sys.argv[1])
question = json.loads(sys.argv[2])
module = importlib.import_module(question["module"])
if question["kind"] == "value":
    print(getattr(module, question["name"])(*question["arguments"]))
elif question["kind"] == "definition":
    function = getattr(module, question["name"])
    print(f"{function.__module__.replace('.', '/')}.py: {function.__name__}")
else:
    target = getattr(module, question["name"])
    called = raised = 0
    for path in question["paths"]:
        other = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for name, function in vars(other).items():
            if inspect.isfunction(function) and function.__module__ == other.__name__:
                if target in [vars(other).get(word) for word in function.__code__.co_names]:
                    called += 1
                    try:
                        function()
                    except ValueError:
                        raised += 1
                        print(f"{path}: {name}")
    assert (called, raised) == (question["calls"], question["bad"])
"""


def files_of(draft: Draft) -> dict[str, str]:
    """The files of a repository, with their paths."""
    parts = re.split(r"^# (\S+\.py)$", context_of(draft), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def asked(draft: Draft) -> dict[str, object]:
    """What is asked, read by other means than the oracles'."""
    question = draft.question.split("\n\n")[1]
    (file, *_) = re.findall(r"\S+\.py", question)
    module = file.removesuffix(".py").replace("/", ".")
    if question.startswith("What does"):
        name, numbers = question.split()[2].rstrip(")").split("(")[0], re.findall(r"\d+", question)
        return {"kind": "value", "module": module, "name": name, "arguments": [int(number) for number in numbers]}
    if question.startswith("In "):
        return {"kind": "definition", "module": module, "name": question.split(" calls ")[1].split(".")[0]}
    calls, bad = map(int, re.findall(r"exactly (\d+)", question))
    return {"kind": "calls", "module": module, "name": question.split()[2], "calls": calls, "bad": bad}


def by_python(draft: Draft, folder: Path) -> str:
    """The answer, found by a fresh interpreter that imports the files."""
    files = files_of(draft)
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    question = asked(draft) | {"paths": list(files)}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", SCRIPT, str(folder), json.dumps(question)],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("code_value", {}),
        ("code_value", {"hops": 1}),
        ("code_value", {"hops": 9}),
        ("code_value", {"hops": 1, "kind": "written"}),
        ("code_value", {"kind": "written"}),
        ("code_definition", {}),
        ("code_definition", {"hops": 1}),
        ("code_definition", {"hops": 7}),
        ("code_calls", {}),
        ("code_calls", {"refused": 2, "accepted": 0}),
        ("code_calls", {"refused": 7, "accepted": 23}),
    ],
)
def test_gold_is_what_python_says(name: str, parameters: dict[str, int | str], seed: int, tmp_path: Path) -> None:
    size = task_of(name, **parameters).smallest() + 5 * seed
    draft = fill(draft_of(name, seed, size, None, **parameters), 3)
    assert draft.answer == "\n".join(draft.answers) == by_python(draft, tmp_path)
    assert task_of(name).oracle(prompt_of(draft)) == draft.answer


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(NAMES), st.integers(0, 12), st.integers(0, 2**32))
def test_the_oracle_finds_the_gold_answer_at_any_size(name: str, more: int, seed: int) -> None:
    draft = fill(draft_of(name, seed, task_of(name).smallest() + more), 2)
    assert task_of(name).oracle(prompt_of(draft)) == draft.answer
    compile("".join(files_of(draft).values()), "all", "exec")


def test_as_many_functions_are_called_as_hops_say() -> None:
    for hops in (1, 4, 11):
        draft = draft_of("code_value", hops, 30, hops=hops)
        functions = [mark for mark in draft.marks() if mark.first.text.startswith("def ")]
        assert len(functions) == hops + 1
        draft = draft_of("code_definition", hops, 30, hops=hops)
        assert len(draft.marks()) == hops + 2  # the call, an import a hop, the definition


def test_names_and_constants_mislead() -> None:
    files = files_of(draft_of("code_value", "names", 60))
    defined = [name for text in files.values() for name in re.findall(r"^def (\w+)", text, re.M)]
    constants = [name for text in files.values() for name in re.findall(r"^([A-Z]+) = ", text, re.M)]
    assert len(set(defined)) < 0.9 * len(defined)
    assert len(set(constants)) < 0.5 * len(constants)
    assert any(" as " in text for text in files.values())


@pytest.mark.parametrize(
    ("refused", "accepted", "said", "version"),
    [
        (1, 0, ("in exactly 1 other function of", "Which function is it?"), 2),
        (1, 3, ("in exactly 4 other functions of", "Which function is it?"), 2),
        (3, 9, ("in exactly 12 other functions of", "Which functions are these?"), 1),
    ],
)
def test_one_call_is_asked_for_as_one(refused: int, accepted: int, said: tuple[str, str], version: int) -> None:
    draft = draft_of("code_calls", "number", 12, refused=refused, accepted=accepted)
    assert all(words in draft.question for words in said)
    assert task_of("code_calls", refused=refused, accepted=accepted).version == version
    assert task_of("code_calls").oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("bad", [3, 64])
def test_the_gold_answer_fits_into_the_budget(bad: int, qwen: PromptTokenizer) -> None:
    draft = draft_of("code_calls", "budget", 80, accepted=9, refused=bad)
    assert len(draft.answers) == bad
    assert len(qwen.ids(draft.answer)) + 512 <= task_of("code_calls", refused=bad).budget()


HOSTILE = {
    "an import": "def f(a, b):\n    import os\n    return a\n",
    "a builtin": "def f(a, b):\n    return __import__(a)\n",
    "an attribute": "def f(a, b):\n    return f.real\n",
    "a subclass": "def f(a, b):\n    return ().__class__\n",
    "a power": "def f(a, b):\n    return 9 ** 9 ** 9\n",
    "a shift": "def f(a, b):\n    return 1 << 99999999999\n",
    "a loop": "def f(a, b):\n    while a:\n        b = b\n",
    "a comprehension": "def f(a, b):\n    return [a for a in b]\n",
    "a lambda": "def f(a, b):\n    return lambda: a\n",
    "long text": 'def f(a, b):\n    return "a" * 99999999999\n',
    "a decorator": "def f(a, b):\n    @f\n    def g():\n        return a\n    return g\n",
    "no Python": "def f(a, b):\n    return (\n",
    "depth": f"def f(a, b):\n    return {'(' * 5000}a{')' * 5000}\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_more_than_arithmetic_is_not_run(what: str) -> None:
    sources = Sources(f"# a/b.py\n\n\n{HOSTILE[what]}\n\n")
    with pytest.raises(DataError, match=r"more than arithmetic|is not Python"):
        sources.run([("a.b", "f", [1, 2])])


@pytest.mark.parametrize(
    "text",
    [
        "def f(a, b):\n    return f(a, b) + f(b, a)\n",  # no end of calls
        "def f(a, b):\n    return f(a * a, b - 1) if b else a\n",
        "def f(a, b):\n    if b == 0:\n        return a\n    return f(a * a * a * a, b - 1)\n",  # a number without end
        "def f(a, b):\n    if b == 0:\n        return a\n    return f(a, b - 1) + f(a, b - 1)\n",  # an hour of it
        "def f(a, b):\n    return a + g(b)\n",
        "def f(a, b):\n    return a // 0\n",
        "def f(a, b):\n    return a(b)\n",
        "from os import path as f\n",
    ],
)
def test_code_that_comes_to_no_end_or_breaks_is_an_error_soon(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=r"cannot be run|more than arithmetic|is not defined"):
        Sources(f"# a/b.py\n\n\n{text}\n\n").run([("a.b", "f", [1000, 60])])
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# a/b.py\n\nRATE = 1\nRATE = 2\n", "binds RATE twice"),
        ("# a/b.py\n\nRATE = 1\n\n# a/b.py\n\nRATE = 2\n", "stands twice"),
        ("# a/b.py\nfrom a.c import f\n\n# a/c.py\nfrom a.b import f\n", "is not defined"),
    ],
)
def test_contradictions_are_noticed(text: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        Sources(text).origin("a.b", "f")


def test_a_repository_that_was_changed_is_noticed() -> None:
    draft = draft_of("code_calls", "changed", 12)
    prompt, site = prompt_of(draft), draft.marks()[1]
    with pytest.raises(DataError, match=r"11 functions call it"):
        task_of("code_calls").oracle(prompt.replace(site.first.text, "", 1))
