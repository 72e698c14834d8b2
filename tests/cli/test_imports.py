"""Starting is cheap: heavy modules are imported when they are used, and torch only by what runs models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.program import ABSENT, ROOT
from tests.cli.test_help import COMMANDS

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


def test_help_and_lists_load_nothing_heavy() -> None:
    names = ("story.aggregation", "qa.biographies", "ruler.niah")
    script = (
        "from sparse_tasks.generators.task import TASKS; import sys; TASKS.get('story_retrieval'); "
        f"assert not {{'sparse_tasks.generators.' + name for name in {names}}} & set(sys.modules)"
    )
    commands = [[], ["--version"], *(command.split() for command in COMMANDS if not command.startswith("attention"))]
    for arguments in (["list"], *([*command, "-h"] for command in commands)):
        script += CALL.format(arguments=arguments)
    assert loaded(script) == set()


def test_data_and_runs_need_no_torch(
    data: Path, gold: Path, tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    made, result, tokenizer = tmp_path / "made", tmp_path / "run", ["--tokenizer", tokenizer_folders["byte_level"]]
    script = ABSENT
    for arguments in (
        ["generate", "-l", "12k", "-t", "all", "-n", "1", "-w", "1", "-o", made, *tokenizer],
        ["validate", made, "-w", "1", *tokenizer],
        ["publish", made, "org/name", "--dry-run", "-w", "1", *tokenizer],
        ["show", made, "ruler_niah", "0"],
        ["list"],
        ["evaluate", data, "--engine", "replay", "-m", gold, "-o", result],
        ["score", result],
        ["compare", result, result],
        ["export", result, "--to", "lm_eval"],
        ["submit", result, "-o", tmp_path / "submission.json"],
    ):
        if arguments[0] == "evaluate":
            script += "\nassert not {'nltk', 'pandas', 'scipy'} & set(sys.modules)"
        script += CALL.format(arguments=[str(argument) for argument in arguments])
    assert not loaded(script) & {"torch", "datasets", "transformers", "matplotlib", "vllm", "openai"}
