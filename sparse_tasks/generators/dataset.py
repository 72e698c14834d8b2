"""A data set folder: what it should contain, what it contains, and how it is completed.

Shards are written one by one, atomically; a hidden record of them lets a later run resume. Card and manifest come last,
so a folder with a manifest is complete. The content does not depend on when, where or in how many runs it was made.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec

from sparse_tasks import __version__
from sparse_tasks.core.errors import OutputError, UsageError
from sparse_tasks.core.json import parse_json, to_json
from sparse_tasks.core.manifest import MANIFEST, PROGRESS
from sparse_tasks.core.records import JsonObject, Manifest, convert, to_builtins
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.shards import ShardPath
from sparse_tasks.core.stores import Store
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.table import rows_of, samples_sha256, shard_bytes, unpacked_bytes
from sparse_tasks.generators.task import Task

CARD = "README.md"
# Prefix of a run's own files: lock, record, unfinished files.
_HIDDEN = ".sparse_tasks"
# A shard holds about this many tokens, and at least one sample.
_SHARD_TOKENS = 2**22
# Seconds between two records of shards written by others.
_RECORD_SECONDS = 1.0
LIBRARIES = ("faker", "nltk", "tokenizers", "wonderwords")
"""What decides about the words of a sample besides our own code."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file: samples ``first`` to ``last - 1`` of a task at a length."""

    task: Task
    length: int
    first: int
    last: int
    path: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished shard.

    Attributes:
        entry: Its entry in the manifest.
        unpacked: Uncompressed bytes of its columns.
    """

    entry: dict[str, Any]
    unpacked: int


def shards(request: Request) -> Iterator[Shard]:
    """The files of a request, in order."""
    for length in request.lengths:
        rows = max(1, _SHARD_TOKENS // length)
        n = -(-request.samples // rows)
        for task in request.tasks:
            for k in range(n):
                path = ShardPath(length, task.name, k, n)
                yield Shard(task, length, k * rows, min((k + 1) * rows, request.samples), str(path))


class DatasetFolder:
    """The folder of a request.

    Args:
        store: The folder or remote location; it need not exist.
        request: The request for its content.
        tokenizer: The tokenizer of the request.
    """

    def __init__(self, store: Store, request: Request, tokenizer: PromptTokenizer) -> None:
        self.store = store
        self.request = request
        self.description = _describe(request, tokenizer)
        self.fingerprint = fingerprint(self.description)
        self.files: dict[str, dict[str, Any]] = {}
        self._unpacked: dict[str, int] = {}

    def open(self, overwrite: bool) -> None:
        """Open the folder and find what it already contains.

        Raises:
            UsageError: The folder contains something else, and ``overwrite`` is off.
            OutputError: It cannot be read.
        """
        records = self._records()
        if not records and (strangers := self._strangers()):
            raise UsageError(
                "output", self.store.name, f"holds other files ({strangers[0]}); name an empty or a new folder"
            )
        ours = not records or records[0]["fingerprint"] == self.fingerprint
        if not ours and not overwrite:
            raise UsageError(
                "output",
                self.store.name,
                "holds a data set that was made with other options; name another folder, or add --overwrite",
            )
        self.store.clean()
        if ours:
            self._take_over(records)
        else:
            self._clear(records)

    @property
    def missing(self) -> list[Shard]:
        """The shards still to be made."""
        return [shard for shard in shards(self.request) if shard.path not in self.files]

    def kept(self) -> str:
        """Describe the files of an incomplete data set; "" if there are none."""
        rows = [entry["rows"] for name, entry in self.files.items() if self.store.has(name)]
        of = list(shards(self.request))
        samples = sum(shard.last - shard.first for shard in of)
        return f"{len(rows):,} of {len(of):,} files ({sum(rows):,} of {samples:,} samples)" if rows else ""

    def add(self, shard: Shard, samples: Sequence[Sample], encoder: str | None = None) -> None:
        """Write a finished shard; ``encoder`` is the one that counted it, if not Hugging Face's."""
        content, finished = file_of(shard, samples, encoder)
        self._take(shard, finished)
        # The record comes first: it may name a missing file, but no file of ours is ever unrecorded.
        self.record()
        self.store.write(shard.path, content)

    def recorded(
        self, made: Iterable[tuple[Shard, Finished]], planned: Sequence[Shard]
    ) -> Iterator[tuple[Shard, Finished]]:
        """Record shards that others have written. Those in ``planned`` may appear at any time."""
        self.record(planned)
        written = time.monotonic()
        try:
            for shard, finished in made:
                self._take(shard, finished)
                yield shard, finished
                if time.monotonic() - written > _RECORD_SECONDS:
                    self.record(planned)
                    written = time.monotonic()
        finally:
            self.record(planned)

    def _take(self, shard: Shard, finished: Finished) -> None:
        self.files[shard.path], self._unpacked[shard.path] = finished.entry, finished.unpacked

    def unpacked_bytes(self, path: str) -> int:
        """Uncompressed bytes of a finished file's columns."""
        return self._unpacked[path]

    def discard(self, encoder: str) -> None:
        """Delete the shards counted by an encoder."""
        wrong = [path for path, entry in self.files.items() if entry.get("encoder") == encoder]
        for path in wrong:
            del self.files[path]
            self.store.delete(path)
        self.record()

    def finish(self, card: str) -> Manifest:
        """Write card and manifest, and return the manifest."""
        files = {shard.path: self.files[shard.path] for shard in shards(self.request)}
        text = card.encode()
        hashes = {"fingerprint": self.fingerprint, "card_sha256": hashlib.sha256(text).hexdigest()}
        manifest = convert(self.description | hashes | {"files": files}, Manifest, MANIFEST)
        self.store.write(CARD, text)
        self.store.write(MANIFEST, to_json(to_builtins(manifest)))
        self.store.delete(PROGRESS)
        return manifest

    def record(self, planned: Iterable[Shard] = ()) -> None:
        """Write the record of files; ``planned`` shards may be written by others at any time."""
        files: dict[str, dict[str, Any]] = {shard.path: {} for shard in planned} | self.files
        # Rewritten for each file, so without indentation, which would take a hundred times as long.
        self.store.write(PROGRESS, msgspec.json.encode({"fingerprint": self.fingerprint, "files": files}))

    def _records(self) -> list[dict[str, Any]]:
        """Records of earlier runs, the latest first; a finished run leaves only the manifest."""
        records = []
        for name in (PROGRESS, MANIFEST):
            try:
                record = parse_json(self.store.read(name))
            except FileNotFoundError:
                continue
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("files"), dict) or "fingerprint" not in record:
                path = f"{self.store.name}/{name}"
                raise OutputError(f"{path} is not a record of sparse-tasks; remove the folder or name another one")
            records.append(record)
        return records

    def _take_over(self, records: list[dict[str, Any]]) -> None:
        """Keep the shards that match their record, and delete damaged ones, so that no file of ours is unrecorded."""
        recorded = records[0]["files"] if records else {}
        for shard in shards(self.request):
            if shard.path in recorded:
                if (entry := self._intact(shard, recorded[shard.path])) is not None:
                    self.files[shard.path] = entry
                else:
                    self.store.delete(shard.path)
        if self.missing:
            self.record()

    def _intact(self, shard: Shard, recorded: object) -> dict[str, Any] | None:
        """The entry of a file that matches its record; older records have fewer fields."""
        try:
            content = self.store.read(shard.path)
        except (FileNotFoundError, OutputError):
            return None
        # Only files with the recorded hash are opened, and read as little as possible: there may be thousands.
        if not isinstance(recorded, dict) or recorded.get("sha256") != hashlib.sha256(content).hexdigest():
            return None
        tokens = sum(row["input_tokens"] for row in rows_of(content, ["input_tokens"]))
        hashed = recorded.get("samples_sha256") or samples_sha256(rows_of(content))
        self._unpacked[shard.path] = unpacked_bytes(io.BytesIO(content))
        entry = _entry(shard, content, tokens, hashed, recorded.get("encoder"))
        return entry if recorded.items() <= entry.items() else None

    def _strangers(self) -> list[str]:
        return [name for name in self.store.names() if not name.startswith(_HIDDEN)]

    def _clear(self, records: list[dict[str, Any]]) -> None:
        """Delete the other data set: its own files, nothing else. A record exists at every moment."""
        for path in {path for record in records for path in record["files"]}:
            if ShardPath.parse(path) is not None:
                self.store.delete(path)
        self.store.delete(CARD)
        self.record()
        self.store.delete(MANIFEST)


def file_of(shard: Shard, samples: Sequence[Sample], encoder: str | None) -> tuple[bytes, Finished]:
    """The content of a shard's file, and its entry; ``encoder`` counted, if not Hugging Face's."""
    content = shard_bytes(samples)
    tokens, hashed = sum(sample.input_tokens for sample in samples), samples_sha256(s.row() for s in samples)
    return content, Finished(_entry(shard, content, tokens, hashed, encoder), unpacked_bytes(io.BytesIO(content)))


def _entry(shard: Shard, content: bytes, tokens: int, samples_sha256: str, encoder: str | None) -> dict[str, Any]:
    return {
        "bytes": len(content),
        "rows": shard.last - shard.first,
        "sha256": hashlib.sha256(content).hexdigest(),
        "tokens": tokens,
        "samples_sha256": samples_sha256,
        **({} if encoder is None else {"encoder": encoder}),
    }


def _describe(request: Request, tokenizer: PromptTokenizer) -> JsonObject:
    template = tokenizer.template
    return {
        "format": "sparse-tasks-dataset",
        "schema_version": "1.0",
        "generator": {"name": "sparse-tasks", "version": __version__},
        "libraries": {name: version(name) for name in LIBRARIES},
        **({"corpora": [corpus.describe() for corpus in request.corpora]} if request.corpora else {}),
        "request": request.describe(),
        "tokenizer": {"name": tokenizer.name, "sha256": tokenizer.sha256},
        "chat_template": None
        if template is None
        else {"sha256": template.sha256, "source": template.source, "special_tokens": template.special_tokens},
    }


def fingerprint(description: JsonObject) -> str:
    """Hash of a description, or of a manifest without the fields known only at the end."""
    content = {key: value for key, value in description.items() if key not in ("fingerprint", "card_sha256", "files")}
    return hashlib.sha256(to_json(content)).hexdigest()
