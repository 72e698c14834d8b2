"""Processes that try one architecture each, so that a crash costs one row."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from sparse_tasks.core.parents import environment
from tests.attention.vllm.test_engine import ENVIRONMENT
from tests.breadth.results import NO_CLASS

LIMIT: Final = 240
"""Seconds that an architecture may take."""


def try_one(name: str, source: str | None, logs: Path | None = None) -> dict[str, Any]:
    """The row of an architecture: in float32, or in bfloat16 where vLLM computes in nothing else."""
    if source is None:
        return {"stage": "checkpoint", "error": NO_CLASS}
    row = in_child(name, source, "float32", logs)
    if row["stage"] == "plain" and {"bf16", "bfloat16"} & set(re.findall(r"\w+", row["error"].lower())):
        row = in_child(name, source, "bfloat16", logs)
    return row


def in_child(name: str, source: str, dtype: str, logs: Path | None) -> dict[str, Any]:
    """The row that a process of its own leaves, with what ended it if that was no error."""
    children = multiprocessing.get_context("forkserver")
    children.set_forkserver_preload(["tests.breadth.attempt"])
    with tempfile.TemporaryDirectory() as folder:
        child = children.Process(target=_run, args=(name, source, dtype, folder))
        with environment(ENVIRONMENT):  # which the server takes over as it starts, with the first child
            child.start()
        child.join(LIMIT)
        if child.exitcode is None:
            child.kill()
            child.join()
            ended = {"error": f"ran past {LIMIT} seconds"}
        else:
            ended = {"error": f"ended with {child.exitcode}"} if child.exitcode else {}
        log, found = Path(folder) / "log", Path(folder) / "row.json"
        if logs and log.exists():
            logs.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, logs / f"{name}-{dtype}")
        row = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {"stage": "checkpoint"}
    return {"source": source, "dtype": dtype, **row, **ended}


def _run(name: str, source: str, dtype: str, folder: str) -> None:
    from tests.breadth.attempt import attempt

    attempt(name, source, dtype, Path(folder))
