"""Strict reading of submissions: nothing in one is trusted.

Sizes are checked first, then the form (``records.Submission``); predictions are unpacked piece by piece.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import lzma
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.format import size
from sparse_tasks.core.json import finite, small
from sparse_tasks.core.length import label
from sparse_tasks.core.records import Record, located
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.records import (
    Comparison,
    PackedPredictions,
    Prediction,
    Reason,
    Submission,
    SubmissionRun,
    SubmittedPrediction,
)

LARGEST_FILE: Final = 64 * 2**20
"""Bytes of a submission."""

LONGEST_LINE: Final = 256 * 2**10
"""Bytes of a prediction."""

_DEEPEST: Final = 64
_MOST_VALUES: Final = 500_000  # commas and opening brackets; 200 runs of 40 configurations have fewer
_LONGEST_TEXT: Final = 200
_MOST_ENTRIES: Final = 100
_LARGEST_FREE: Final = 16 * 2**10  # characters of the arguments of an engine, a method or a task, as JSON
_FREE: Final = ("arguments", "details", "parameters")
_WORDS: Final = ("chat_template", "template")  # may contain any characters; they are never shown
_LONGEST_WORDS: Final = 64 * 2**10
_LIMITS: Final[Mapping[str, int]] = {
    "runs": 200,
    "configs": 5000,
    "rows": 5000,
    "gpus": 64,
    "data": LARGEST_FILE,
    **dict.fromkeys(_FREE, _LARGEST_FREE),
    **dict.fromkeys(_WORDS, _LONGEST_WORDS),
}
"""Entries of arrays and characters of texts by the field's name; others have ``_MOST_ENTRIES``, ``_LONGEST_TEXT``."""

_MEAN_LINE: Final = 64 * 2**10  # bytes per prediction, on average
_CHUNK: Final = 64 * 2**10
_UNPACKING: Final = 64 * 2**20  # bytes of memory that xz may take
_OF_RUN: Final = re.compile(r"runs\[(?P<run>[0-9]{1,3})\]\.?(?P<rest>.*)", re.DOTALL)
_STEP: Final = re.compile(r"\[[0-9]+\]|\.?[^.\[]+|[.\[]")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*+={0,2}")

R = TypeVar("R", bound=Record)


class SubmissionError(DataError):
    """A file is not a submission, or contradicts itself.

    Attributes:
        reason: The reason to refuse it.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(f"{reason.where}: {reason.message}")

    def __reduce__(self) -> tuple[type[SubmissionError], tuple[Reason]]:
        """Errors cross process borders, so they have to unpickle from their own arguments."""
        return type(self), (self.reason,)


@dataclass(frozen=True)
class SubmittedRun(ScoredRun):
    """A run of a submission; ``name`` gives model, method and sparsity, ``path`` is the submission.

    Attributes:
        comparison: With the dense run of the same submission; None for a dense run, or if there is none.
        packed: The predictions, compressed.
    """

    comparison: Comparison | None
    packed: PackedPredictions

    def predictions(self) -> Iterator[Prediction]:
        """The predictions in the file's order, unpacked one at a time; their timings are None.

        Raises:
            SubmissionError: They differ from the submission's claims, or are too large. Their hash is known only at the
                end, so earlier predictions may be invalid, too.
        """
        where, said = f"{self.name}: predictions", self.packed
        digest, lines = hashlib.sha256(), 0
        for line in _lines(_unpacked(said, where), where):
            digest.update(line)
            lines += 1
            if lines > said.lines:
                raise _refusal("predictions", where, f"hold more than the {said.lines:,} lines that it says")
            place = f"{where}, line {lines}"
            found = _converted(_parsed(line, "utf-8", place), SubmittedPrediction, place, "predictions")
            try:
                found.text.encode()
            except UnicodeEncodeError as error:  # a lone surrogate, which JSON can escape and UTF-8 cannot encode
                raise _refusal("predictions", f"{place}.text", f"cannot be written as UTF-8: {error}") from error
            yield Prediction(**msgspec.structs.asdict(found), seconds_to_first_token=None, seconds=None)
        if lines != said.lines:
            raise _refusal("predictions", where, f"hold {lines:,} lines, not the {said.lines:,} that it says")
        if digest.hexdigest() != said.sha256:
            raise _refusal("predictions", where, "do not have the sha256 that it says")


@dataclass(frozen=True)
class SubmissionFile:
    """A submission as read.

    Attributes:
        sha256: Hash of the file.
        content: Its content.
        runs: Its runs, at least one.
    """

    sha256: str
    content: Submission
    runs: tuple[SubmittedRun, ...]


def plain(value: object, most: int = 200) -> str:
    """A text of unknown origin as one short line that is safe to print: invisible characters are escaped."""
    text = str(value)
    if len(text) > most:
        text = text[: most * 2 // 3] + " … " + text[-(most // 3) :]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_submission(path: Path) -> SubmissionFile:
    """Read a submission, its predictions still packed.

    Raises:
        UsageError: The file does not exist or cannot be read.
        SubmissionError: It is not a regular file, too large, or not a submission.
    """
    return parse_submission(read_file(path), path)


def read_file(path: Path) -> bytes:
    """The bytes of a regular file; pipes and devices are refused without waiting for them.

    Raises:
        UsageError: The file does not exist or cannot be read.
        SubmissionError: It is not a regular file, or too large.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_dir():
            raise UsageError("file", str(path), "is a folder; name a submission, a file written by submit")
        if path.is_symlink():
            raise _refusal("file", "file", "is a link; name the file itself")
        if not stat.S_ISREG(path.stat().st_mode):
            raise _refusal("file", "file", "is not a regular file")
        descriptor = os.open(path, flags)  # even if it was replaced meanwhile
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _refusal("file", "file", "is not a regular file")
            if status.st_size > LARGEST_FILE:
                raise _refusal("size", "file", f"is larger than {size(LARGEST_FILE)}")
            return file.read(status.st_size)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError("file", str(path), f"cannot be read: {reason}") from error


def parse_submission(content: bytes, path: Path) -> SubmissionFile:
    """A submission from the bytes of its file.

    Args:
        content: What ``read_file`` has read.
        path: The file's path; nothing is read from it.

    Raises:
        SubmissionError: It is not a submission.
    """
    if not content.isascii():
        raise _refusal("json", "file", "is not ASCII; submit the file that sparse-tasks submit wrote, unchanged")
    # JSON can be small and yet large in memory.
    if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise _refusal("size", "file", f"holds more than {_MOST_VALUES:,} values")
    document = _parsed(content, "ascii", "file")
    try:
        _check_sizes(document)
        submission = _converted(document, Submission, "", "schema")
    except SubmissionError as error:
        raise _refusal(error.reason.code, named(error.reason.where, document), error.reason.message) from error
    runs = []
    for name, run in zip(_titles(document), submission.runs, strict=True):
        _check_run(name, run)
        runs.append(SubmittedRun(name, path, run.settings, run.result, run.comparison, run.predictions))
    return SubmissionFile(hashlib.sha256(content).hexdigest(), submission, tuple(runs))


def named(path: str, document: Any) -> str:
    """A path in a submission with names instead of numbers: titles of runs, task and length of results.

    Args:
        path: As in ``runs[1].result.configs[0].mean``.
        document: The submission as JSON, which may have any form.

    Returns:
        As in ``acme/small, quest 0.5: result.configs[ruler_vt 4k].mean``.
    """
    match, titles = _OF_RUN.match(path), _titles(document)
    if match is None or int(match["run"]) >= len(titles):
        return path
    value, written = document["runs"][int(match["run"])], ""
    for step in _STEP.findall(match["rest"]):
        number = step[1:-1] if step.startswith("[") else ""  # a long path has been shortened
        if number and isinstance(value, list) and int(number) < len(value):
            value = value[int(number)]
            written += f"[{entry(value)}]" if entry(value) else step
        else:
            value = value.get(step.removeprefix(".")) if isinstance(value, dict) else None
            written += step
    return ": ".join(filter(None, (titles[int(match["run"])], written)))


def entry(value: object) -> str | None:
    """The task and the length of an entry of a result, or only the length; None if it has neither."""
    if not isinstance(value, dict) or not isinstance(length := value.get("length"), int):
        return None
    task = value.get("task")
    return f"{task} {label(length)}" if isinstance(task, str) else label(length)


def _titles(document: Any) -> list[str]:
    """Model, method and sparsity of each run, with its number where that is not unique, as far as it says any."""
    runs = document.get("runs") if isinstance(document, dict) else None
    titles = [_title(run) for run in runs] if isinstance(runs, list) else []
    unique = len(set(titles)) == len(titles)
    numbered = [f"{title} (runs[{i}])" if title else f"runs[{i}]" for i, title in enumerate(titles)]
    return titles if unique and all(titles) else numbered


def _title(run: Any) -> str:
    try:
        model, attention = run["settings"]["model"]["name"], run["settings"]["attention"]
        method, sparsity = attention["method"], attention.get("sparsity")
    except (AttributeError, KeyError, TypeError):
        return ""
    return plain(
        f"{model}, {method}" + (f" {sparsity:g}" if sparsity and isinstance(sparsity, int | float) else ""), 60
    )


def _refusal(code: str, where: str, message: object) -> SubmissionError:
    return SubmissionError(Reason(code=code, where=plain(where, 120), message=plain(message)))


def _parsed(content: bytes, encoding: str, where: str) -> object:
    """JSON in which every number is finite and no object has a name twice.

    Raises:
        SubmissionError: It is not.
    """
    try:
        return _DECODER.decode(content.decode(encoding))
    except RecursionError as error:
        raise _refusal("size", where, f"is nested deeper than {_DEEPEST}") from error
    except ValueError as error:
        raise _refusal("json", where, f"is not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} occurs twice")
    return fields


_DECODER: Final = json.JSONDecoder(
    parse_float=finite, parse_int=small, parse_constant=finite, object_pairs_hook=_unique
)


def _check_sizes(value: object, place: str = "", name: str = "", depth: int = 0) -> None:
    """Check limits beyond the types: on texts, most of which must be printable, and on entries and depth.

    Raises:
        SubmissionError: One is exceeded.
    """
    if isinstance(value, str):
        _check_text(value, place, _LIMITS.get(name, _LONGEST_TEXT), shown=name not in _WORDS)
    elif isinstance(value, dict | list):
        most = _LIMITS.get(name, _MOST_ENTRIES) if isinstance(value, list) else _MOST_ENTRIES
        if len(value) > most:
            raise _refusal("size", place or "file", f"has {len(value):,} entries, more than {most:,}")
        if depth == _DEEPEST:
            raise _refusal("size", place, f"is nested deeper than {_DEEPEST}")
        if name in _FREE and len(json.dumps(value)) > _LARGEST_FREE:
            raise _refusal("size", place, f"takes more than {_LARGEST_FREE:,} characters")
        if isinstance(value, list):
            for number, inner in enumerate(value):
                _check_sizes(inner, f"{place}[{number}]", name, depth + 1)
            return
        for key, inner in value.items():
            _check_text(key, place or "file", _LONGEST_TEXT)
            if isinstance(inner, str | dict | list):  # most fields are numbers
                inherited = name in _FREE or name in _WORDS
                _check_sizes(inner, f"{place}.{key}" if place else key, name if inherited else key, depth + 1)


def _check_text(text: str, place: str, most: int, shown: bool = True) -> None:
    if len(text) > most:
        raise _refusal("size", place, f"has {len(text):,} characters, more than {most:,}")
    if shown and not text.isprintable():
        raise _refusal("text", place, f"has characters that cannot be shown: {text!r}")


def _converted(value: object, kind: type[R], where: str, code: str) -> R:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        place, problem = located(error, value, kind)
        raise _refusal(code, f"{where}.{place}".strip(".") or "file", problem) from error
    except UnicodeEncodeError as error:  # from msgspec, for a lone surrogate in place of a number
        raise _refusal(code, where or "file", f"holds a character that cannot be encoded: {error.object!r}") from error


def _check_run(name: str, run: SubmissionRun) -> None:
    """Checks of a run beyond its types."""
    samples, packed, where = run.settings.dataset.samples, run.predictions, f"{name}: predictions"
    try:
        datetime.fromisoformat(run.settings.started)
    except ValueError as error:
        raise _refusal("schema", f"{name}: settings.started", f"is not a time: {error}") from error
    if packed.bytes > samples * _MEAN_LINE + 2**20:
        raise _refusal("size", where, f"take {packed.bytes:,} bytes, too many for {samples:,} samples")
    if packed.lines != samples:
        raise _refusal("samples", where, f"are {packed.lines:,} lines, and the run selects {samples:,} samples")
    if len(packed.data) % 4 or not _BASE64.fullmatch(packed.data):
        raise _refusal("predictions", where, "are not base64")


# --- predictions --------------------------------------------------------------------------------------------


def _unpacked(packed: PackedPredictions, where: str) -> Iterator[bytes]:
    """The uncompressed predictions, in chunks; never more than declared.

    Raises:
        SubmissionError: They are damaged, truncated, longer than declared, or followed by other data.
    """
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACKING)
    total = 0
    try:
        for start in range(0, len(packed.data), _CHUNK):
            compressed = binascii.a2b_base64(packed.data[start : start + _CHUNK], strict_mode=True)
            if unpacker.eof:
                raise _refusal("predictions", where, "are followed by something")
            while True:
                piece = unpacker.decompress(compressed, max_length=_CHUNK)
                compressed = b""
                total += len(piece)
                if total > packed.bytes:
                    raise _refusal("predictions", where, f"unpack to more than the {packed.bytes:,} bytes that it says")
                if piece:
                    yield piece
                if unpacker.eof or unpacker.needs_input:
                    break
    except (lzma.LZMAError, binascii.Error) as error:
        raise _refusal("predictions", where, f"cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise _refusal("predictions", where, "are cut short")
    if unpacker.unused_data:
        raise _refusal("predictions", where, "are followed by something")
    if total != packed.bytes:
        raise _refusal("predictions", where, f"unpack to {total:,} bytes, not the {packed.bytes:,} that it says")


def _lines(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Lines with their line ends, of limited length."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if max(map(len, (*whole, rest))) >= LONGEST_LINE:
            raise _refusal("size", where, f"hold a line of more than {LONGEST_LINE:,} bytes")
        for line in whole:
            yield line + b"\n"
    if rest:
        raise _refusal("predictions", where, "do not end with a line")
