"""A data set folder: what it should hold, what it holds already, and how it becomes complete.

Shards appear one by one, each whole; a hidden record of them lets a later run go on. Card and manifest come last, so a
folder with a manifest is complete. Nothing in it depends on when, where or in how many runs it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparse_tasks import __version__
from sparse_tasks.core.errors import OutputError, UsageError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.files import remove_leftovers, sha256_of, write_whole
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.task import Task

__all__ = ["CARD", "LOCK", "MANIFEST", "DatasetFolder", "Shard", "shards"]

MANIFEST = "sparse_tasks.json"
CARD = "README.md"
LOCK = ".sparse_tasks.lock"
_PROGRESS = ".sparse_tasks.partial.json"
# Names that begin like this are a run's own: lock, record, unfinished files.
_HIDDEN = ".sparse_tasks"
# A shard holds about this many tokens, and at least one sample.
_SHARD_TOKENS = 2**22
# What decides about the words of a sample besides our own code.
_LIBRARIES = ("faker", "nltk", "tokenizers", "wonderwords")


@dataclass(frozen=True)
class Shard:
    """One Parquet file: samples ``first`` to ``last - 1`` of a task at a length."""

    task: Task
    length: int
    first: int
    last: int
    path: str


def shards(request: Request) -> Iterator[Shard]:
    """The files of a request, in order."""
    for length in request.lengths:
        rows = max(1, _SHARD_TOKENS // length)
        n = -(-request.samples // rows)
        for task in request.tasks:
            for k in range(n):
                # The word "test" in the name is how ``load_dataset(DIR, data_dir="65536")`` knows the split.
                path = f"{length}/{task.name}-test-{k:05d}-of-{n:05d}.parquet"
                yield Shard(task, length, k * rows, min((k + 1) * rows, request.samples), path)


class DatasetFolder:
    """The folder of a request.

    Args:
        path: The folder; it need not exist.
        request: What it holds or will hold.
        tokenizer: The tokenizer of the request.
    """

    def __init__(self, path: Path, request: Request, tokenizer: PromptTokenizer) -> None:
        self.path = path
        self.request = request
        self.description = _describe(request, tokenizer)
        self.fingerprint = hashlib.sha256(_json(self.description)).hexdigest()
        self.files: dict[str, dict[str, Any]] = {}

    def open(self, overwrite: bool) -> None:
        """Find out what is there already.

        Raises:
            UsageError: The folder holds something else, and ``overwrite`` is off.
            OutputError: It cannot be read.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("output", str(self.path), "is a file; name a folder")
        recorded = self._recorded()
        if recorded is None and (strangers := self._strangers()):
            raise UsageError(
                "output", str(self.path), f"holds other files ({strangers[0]}); name an empty or a new folder"
            )
        if recorded is not None and recorded["fingerprint"] != self.fingerprint:
            if not overwrite:
                raise UsageError(
                    "output",
                    str(self.path),
                    "holds a data set of another configuration; name another folder, or add --overwrite",
                )
            self._clear(recorded)
        elif recorded is not None:
            self.files = {path: entry for path, entry in recorded["files"].items() if self._intact(path, entry)}
        try:
            remove_leftovers(self.path)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self.missing:
            self._record()

    @property
    def missing(self) -> list[Shard]:
        """The shards still to be made."""
        return [shard for shard in shards(self.request) if shard.path not in self.files]

    def add(self, shard: Shard, content: bytes, tokens: int) -> None:
        """Put a finished shard into its place."""
        write_whole(self.path / shard.path, content)
        self.files[shard.path] = {
            "bytes": len(content),
            "rows": shard.last - shard.first,
            "sha256": hashlib.sha256(content).hexdigest(),
            "tokens": tokens,
        }
        self._record()

    def finish(self, card: str) -> dict[str, Any]:
        """Write card and manifest; returns the manifest."""
        files = {shard.path: self.files[shard.path] for shard in shards(self.request)}
        text = card.encode()
        manifest = self.description | {
            "fingerprint": self.fingerprint,
            "card_sha256": hashlib.sha256(text).hexdigest(),
            "files": files,
        }
        write_whole(self.path / CARD, text)
        write_whole(self.path / MANIFEST, _json(manifest))
        (self.path / _PROGRESS).unlink(missing_ok=True)
        return manifest

    def _record(self) -> None:
        write_whole(self.path / _PROGRESS, _json({"fingerprint": self.fingerprint, "files": self.files}))

    def _recorded(self) -> dict[str, Any] | None:
        """What an earlier run wrote down, finished or not."""
        for name in (_PROGRESS, MANIFEST):
            path = self.path / name
            if not path.exists():
                continue
            try:
                recorded = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise OutputError(f"cannot read {path}: {error}; remove it to start again") from error
            if not isinstance(recorded, dict) or not {"fingerprint", "files"} <= recorded.keys():
                raise OutputError(f"{path} is no record of sparse-tasks; remove it to start again")
            return recorded
        return None

    def _intact(self, path: str, entry: dict[str, Any]) -> bool:
        try:
            return bool(sha256_of(self.path / path) == entry["sha256"])
        except OSError:
            return False  # gone or unreadable: it is made again

    def _strangers(self) -> list[str]:
        if not self.path.exists():
            return []
        return sorted(p.name for p in self.path.iterdir() if not p.name.startswith(_HIDDEN))

    def _clear(self, recorded: dict[str, Any]) -> None:
        """Delete the other data set: its own files, nothing else."""
        known = {path.relative_to(self.path).as_posix() for path in self.path.glob("*/*.parquet")}
        for path in sorted(known & set(recorded["files"])):
            (self.path / path).unlink()
        for name in (CARD, MANIFEST, _PROGRESS):
            (self.path / name).unlink(missing_ok=True)
        for folder in [p for p in self.path.iterdir() if p.is_dir()]:
            if not any(folder.iterdir()):
                folder.rmdir()


def _describe(request: Request, tokenizer: PromptTokenizer) -> dict[str, Any]:
    template = tokenizer.template
    return {
        "format": "sparse-tasks-dataset",
        "schema_version": "1.0",
        "generator": {"name": "sparse-tasks", "version": __version__},
        "libraries": {name: version(name) for name in _LIBRARIES},
        "request": request.describe(),
        "tokenizer": {"name": tokenizer.name, "sha256": tokenizer.sha256},
        "chat_template": None
        if template is None
        else {"sha256": template.sha256, "source": template.source, "special_tokens": template.special_tokens},
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
