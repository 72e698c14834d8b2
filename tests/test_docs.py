"""What the documentation shows is what the program makes."""

from __future__ import annotations

import json
import re
import runpy
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.request import make_request
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS, parameters

ROOT = Path(__file__).parent.parent


def sample_text(tokenizer: PromptTokenizer) -> str:
    """The sample in the documentation: ``sparse-tasks generate --length 4k --task story_filtering``, index 0."""
    request = make_request(["4k"], ["story_filtering"])
    sample = make_sample(request, tokenizer, request.tasks[0], 4096, 0)
    return f"{sample.prompt}\n\n[gold answer]\n{sample.answer}\n"


def test_sample_is_what_generate_makes(qwen: PromptTokenizer) -> None:
    assert (ROOT / "docs" / "sample-4k.txt").read_text(encoding="utf-8") == sample_text(qwen)


def test_every_task_and_parameter_is_told_of() -> None:
    tasks = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for task in TASKS:
        assert f"`{task.name}`" in tasks
        assert f"`{task.name}`" in readme
        for p in parameters(task):
            assert f"`{p.name}`" in tasks, f"{task.name}.{p.name}"


def test_what_the_methods_page_does_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install '.[attention]'")
    from sparse_tasks.attention.kernels.dispatch import TwinWarning

    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "methods"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TwinWarning)
        for block in blocks:  # one goes on where the other ended
            if "transformers" not in block or find_spec("transformers"):
                exec(compile(block, "docs/methods.md", "exec"), space)
    assert (tmp_path / "pattern.png").is_file()


def test_every_method_and_parameter_is_told_of() -> None:
    pytest.importorskip("torch", reason="torch is not installed; pip install '.[attention]'")
    from sparse_tasks.attention.method import METHODS

    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", page, flags=re.MULTILINE | re.DOTALL))
    built_in = [m for m in METHODS if m.__module__.startswith("sparse_tasks.")]
    assert list(sections) == [method.name for method in built_in]
    for method in built_in:
        axes = (method.phase, method.unit, method.importance, method.budget, method.cache)
        met = "exact" if method.exact else "adaptive"
        assert " | ".join([f"| [`{method.name}`](#{method.name})", *axes, met]) + " |" in page.splitlines()
        section = sections[method.name]
        assert f"![{method.name}](methods/{method.name}.png)" in section
        assert (ROOT / "docs" / "methods" / f"{method.name}.png").is_file()
        assert f"- Source: {method.source}" in section
        for p in parameters(method):
            assert f"`{p.name}`" in section, f"{method.name}.{p.name}"


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    for package in ("torch", "matplotlib", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install '.[attention,transformers]'")
    make = runpy.run_path(str(ROOT / "docs" / "methods" / "make.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        book = make["notebook"]({'"demo", 1024': '"random", 700'})
    kept = json.loads((ROOT / "docs" / "methods.ipynb").read_text(encoding="utf-8"))
    for cell, as_kept in zip(book["cells"], kept["cells"], strict=True):
        kinds = [[output["output_type"] for output in c.get("outputs", [])] for c in (cell, as_kept)]
        assert kinds[0] == kinds[1], cell["source"]
