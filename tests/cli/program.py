"""Runs the program: in this process where that is enough, in its own where signals, limits or imports matter."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.cli.main import main
from sparse_tasks.core import tokenizers
from sparse_tasks.core.records import Manifest
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.generators import api, validation

__all__ = ["ABSENT", "Finished", "contents", "keep_tokenizers", "process", "run", "start", "wait_for", "workers_of"]

ROOT = Path(__file__).parents[2]

# Every import of these fails, as if they were not installed.
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "matplotlib", "datasets", "vllm", "openai"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""

# One sample a file: many files to be killed between.
_SMALL_SHARDS = """
import sparse_tasks.generators.dataset as dataset
from sparse_tasks.cli.main import main
dataset._SHARD_TOKENS = 1
if __name__ == "__main__":
    main()
"""


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, which has to be JSON and nothing else."""
        return json.loads(self.out)

    def says(self, *words: str) -> bool:
        """Whether there is exactly one line on standard error, and it holds all ``words``."""
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        missing = [word for word in words if word not in lines[0]]
        assert not missing, f"{missing} not in {lines[0]}"
        return True


def run(*arguments: object) -> Finished:
    """The program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["sparse-tasks", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
    code = leaving.value.code or 0
    assert isinstance(code, int)
    return Finished(code, out.getvalue(), err.getvalue())


def start(
    folder: Path, *arguments: object, env: dict[str, str] | None = None, limit: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """The program in a process group of its own, with one sample a file; ``folder`` takes its script."""
    script = folder / "sparse-tasks"
    script.write_text(_SMALL_SHARDS, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**_environment(measured=limit is None), **(env or {})},
        start_new_session=True,
        preexec_fn=limit,
    )


def process(folder: Path, *arguments: object, timeout: float = 120, **options: Any) -> Finished:
    """``start``, and the end of it."""
    started = start(folder, *arguments, **options)
    out, err = started.communicate(timeout=timeout)
    return Finished(started.returncode, out, err)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Look until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


def workers_of(pid: int) -> list[int]:
    """Processes of the group that ``start`` gave the program, its own apart."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == pid and fields[0] != "Z" and path.parent.name != str(pid):
                found.append(int(path.parent.name))
    return found


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too, by path; a folder has no bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextlib.contextmanager
def keep_tokenizers() -> Iterator[None]:
    """Load each tokenizer once, not once a command: it is most of what a small command costs."""
    load = functools.cache(load_tokenizer)
    recorded: dict[str, PromptTokenizer] = {}
    find = validation._tokenizer

    def find_once(manifest: Manifest, source: str | None) -> PromptTokenizer:
        key = repr([manifest.tokenizer, manifest.chat_template, source])
        if key not in recorded:
            recorded[key] = find(manifest, source)
        return recorded[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (tokenizers, api, validation):
            patch.setattr(module, "load_tokenizer", load)
        patch.setattr(validation, "_tokenizer", find_once)
        yield


def _environment(measured: bool) -> dict[str, str]:
    """What the program sees; the measuring of coverage writes files itself, and a limit would meet it first."""
    unwanted = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERMINAL_WIDTH", "PYTHONUNBUFFERED")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in unwanted and (measured or not name.startswith("COVERAGE_PROCESS"))
    }
    return kept | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
