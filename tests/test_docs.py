"""What the documentation shows is what the program makes."""

from __future__ import annotations

from pathlib import Path

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
