"""Starting is cheap: what is heavy comes when it is used, and torch never."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import ABSENT, ROOT

HEAVY = ("torch", "datasets", "transformers", "matplotlib", "pyarrow", "nltk", "numpy", "pandas", "tokenizers", "faker",
         "jinja2", "jsonschema", "huggingface_hub", "scipy", "statsmodels",
         "vllm", "openai")  # fmt: skip
CALL = """
import sys
sys.argv = ["sparse-tasks", *{arguments!r}]
from sparse_tasks.cli.main import main
try:
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
"""


def loaded(script: str) -> set[str]:
    """The heavy modules that a fresh process has loaded after a script."""
    script += f"\nimport sys; print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import sparse_tasks") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"], ["validate", "--help"],
                                       ["show", "-h"], ["list", "-h"], ["evaluate", "-h"],
                                       ["compare", "-h"], ["publish", "-h"], ["analyze", "-h"], ["report", "-h"],
                                       ["submit", "-h"], ["leaderboard", "check", "-h"]])  # fmt: skip
def test_asking_for_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded(CALL.format(arguments=arguments)) == set()


def test_generating_validating_publishing_and_showing_need_no_torch(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    script, tokenizer = ABSENT, ["--tokenizer", str(tokenizer_folders["byte_level"])]
    for arguments in (
        ["generate", "-l", "12k", "-t", "all", "-n", "1", "-w", "1", "-o", str(tmp_path), *tokenizer],
        ["validate", str(tmp_path), "-w", "1", *tokenizer],
        ["publish", str(tmp_path), "org/name", "--dry-run", "-w", "1", *tokenizer],
        ["show", str(tmp_path), "ruler_niah", "0"],
        ["list"],
    ):
        script += CALL.format(arguments=arguments)
    assert not loaded(script) & {"torch", "datasets", "transformers", "matplotlib", "nltk", "pandas", "scipy"}


def test_listing_loads_neither_tokenizers_nor_names() -> None:
    assert loaded(CALL.format(arguments=["list"])) == set()


def test_a_task_is_made_without_the_others() -> None:
    names = ("story.aggregation", "qa.biographies", "ruler.niah")
    script = (
        "from sparse_tasks.generators.task import TASKS; import sys; TASKS.get('story_retrieval'); "
        f"assert not {{'sparse_tasks.generators.' + name for name in {names}}} & set(sys.modules)"
    )
    assert loaded(script) == set()


def test_help_does_not_import_what_completion_needs() -> None:
    assert loaded("import sparse_tasks.cli.main") == set()
