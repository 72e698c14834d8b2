"""A run's folder: settings, predictions, scores.

``predictions.jsonl`` grows line by line while the engine works, so a run can be killed at any moment and loses only
unfinished answers; at the end it is sorted into the data set's order.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import msgspec

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import DataError, OutputError, SparseTasksError, UsageError, note_kept
from sparse_tasks.core.files import LOCK, PARTIAL_PREFIX, hold, write_whole
from sparse_tasks.core.json import parse_json, read_json, to_json
from sparse_tasks.core.records import Record, convert, to_builtins
from sparse_tasks.evaluators.records import Answered, Prediction, RunSettings

R = TypeVar("R", bound=Record)
P = TypeVar("P", Prediction, Answered)

SETTINGS = "run.json"
PREDICTIONS = "predictions.jsonl"
SCORES = "scores.parquet"
RESULT = "result.json"
COMPARISON = "comparison.json"
"""Of the sparse runs of a sweep: their comparison with dense attention."""

# Identity of a run; the rest of run.json (versions, hardware, times) may differ when it is resumed.
_ATTENTION = ("attention.method", "attention.sparsity", "attention.arguments")
_IDENTITY = (
    *("dataset.sha256", "dataset.tasks", "dataset.lengths", "dataset.limit"),
    *("model.name", "model.revision", "model.config_sha256", "model.sha256"),  # from which its shape follows
    *("engine.name", "engine.arguments", *_ATTENTION, "compress", "sampling", "prompt", "thinking"),
)


class Run:
    """A run's folder, locked by one process at a time: ``with Run(path) as run``.

    Args:
        path: The folder; it need not exist.

    Raises:
        OutputError: Another process holds it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Run:
        self._held = hold(self.path)
        self._held.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk was reported by the write
            if self._file is not None:
                self._file.close()
        if error is not None and (answers := self._kept()):
            note_kept(error, self.path, answers)
        self._held.__exit__(kind, error, trace)

    @property
    def settings(self) -> RunSettings | None:
        """Content of ``run.json``; None before it is written.

        Raises:
            DataError: It cannot be read.
        """
        return read_record(self.path / SETTINGS, RunSettings) if (self.path / SETTINGS).exists() else None

    def _kept(self) -> str:
        """The number of answers, in words; "" if there are none."""
        try:
            if (settings := self.settings) is None:
                return ""
            with (self.path / PREDICTIONS).open("rb") as file:
                answers = sum(line.endswith(b"\n") for line in file)
        except (SparseTasksError, OSError):
            return ""
        return f"{answers:,} of {settings.dataset.samples:,} answers" if answers else ""

    def check(self, settings: RunSettings) -> None:
        """Check that the folder is empty, or contains a run with these settings or without predictions.

        Raises:
            UsageError: It contains another run; the first setting that differs is named.
        """
        recorded = self.settings
        if recorded is None:
            if any(path.name != LOCK and not path.name.startswith(PARTIAL_PREFIX) for path in self.path.iterdir()):
                raise UsageError("output", str(self.path), "holds other files; name an empty or a new folder")
            return
        if not self._has_predictions():
            return
        if (found := difference(recorded, settings)) is not None:
            raise self._other(found)

    def _other(self, found: str) -> UsageError:
        return UsageError("output", str(self.path), f"holds another run ({found}; name another folder with --output)")

    def begin(self, settings: RunSettings) -> None:
        """Write the settings; a resumed run keeps its own and adds the environment if it changed.

        Raises:
            UsageError: The started engine runs with another attention than before.
        """
        recorded = self.settings
        if recorded is None or not self._has_predictions():
            write_whole(self.path / SETTINGS, to_json(checked(settings, SETTINGS)))
            return
        if recorded.attention != settings.attention:
            raise self._other(_difference("attention", *map(to_builtins, (recorded.attention, settings.attention))))
        if settings.environment not in [recorded.environment, *recorded.other_environments]:
            environments = [*recorded.other_environments, settings.environment]
            settings = msgspec.structs.replace(recorded, other_environments=environments)
            write_whole(self.path / SETTINGS, to_json(checked(settings, SETTINGS)))

    def _has_predictions(self) -> bool:
        path = self.path / PREDICTIONS
        return path.exists() and path.stat().st_size > 0

    def repair(self) -> None:
        """Remove the remains of a killed process: a partial line of predictions, unfinished files.

        Raises:
            OutputError: The folder cannot be written.
        """
        path = self.path / PREDICTIONS
        try:
            for unfinished in self.path.glob(f"{PARTIAL_PREFIX}*"):
                unfinished.unlink()
            if not path.exists():
                return
            with path.open("rb+") as file:
                size = file.seek(0, os.SEEK_END)
                if (end := _end_of_last_line(file, size)) < size:
                    file.truncate(end)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error

    def finished(self) -> set[str]:
        """Ids of the predictions, after a repair.

        Raises:
            DataError: A line is damaged.
            OutputError: The folder cannot be written.
        """
        self.repair()
        path = self.path / PREDICTIONS
        if not path.exists():
            return set()
        ids: set[str] = set()
        for number, prediction in enumerate(self.predictions(), start=1):
            if prediction.id in ids:
                raise DataError(f"{path}, line {number}: {prediction.id} occurs twice")
            ids.add(prediction.id)
        return ids

    def add(self, prediction: Prediction) -> None:
        """Append a prediction; it is flushed to the operating system on return.

        Raises:
            DataError: It is not a valid prediction.
            OutputError: It cannot be written.
        """
        plain = to_builtins(checked(prediction, PREDICTIONS))
        try:
            line = json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:
            raise DataError(f"{PREDICTIONS}: {prediction.id}: {error}") from error
        try:
            if self._file is None:
                self._file = (self.path / PREDICTIONS).open(
                    "a",
                    encoding="utf-8",
                    errors="replace",  # a lone surrogate, which JSON can escape and UTF-8 cannot encode
                    newline="\n",
                )
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.path / PREDICTIONS}: {error.strerror or error}") from error

    def predictions(self) -> Iterator[Prediction]:
        """Predictions in the file's order.

        Raises:
            DataError: A line is damaged; it is named.
        """
        path = self.path / PREDICTIONS
        try:
            file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        with file:
            for number, line in enumerate(file, start=1):
                yield parse_line(line, Prediction, f"{path}, line {number}")

    def put_in_order(self, ids: Sequence[str]) -> None:
        """Reduce the predictions to ``ids``, in this order.

        Raises:
            DataError: A prediction is missing, occurs twice, or is for another sample.
        """
        if self._file is not None:
            self._file.close()
            self._file = None
        path = self.path / PREDICTIONS
        places = self._places(frozenset(ids))
        if missing := [identifier for identifier in ids if identifier not in places]:
            raise DataError(incomplete(self.path, len(missing), len(ids), self.settings))
        ordered = [places[identifier] for identifier in ids]
        if ordered == sorted(ordered):
            return
        with path.open("rb") as file:
            content = bytearray()
            for start, length in ordered:
                file.seek(start)
                content += file.read(length)
        write_whole(path, bytes(content))

    def _places(self, ids: frozenset[str]) -> dict[str, tuple[int, int]]:
        """Offset and length in bytes of each prediction's line."""
        path, places, start = self.path / PREDICTIONS, dict[str, tuple[int, int]](), 0
        if not path.exists():
            return places
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    identifier = parse_json(line)["id"]
                except (KeyError, TypeError, ValueError, RecursionError) as error:
                    raise DataError(f"{path}, line {number}: is not a prediction: {error!r}") from error
                if not isinstance(identifier, str):
                    raise DataError(f"{path}, line {number}: its id is not a text")
                if identifier not in ids or identifier in places:
                    problem = "occurs twice" if identifier in ids else "is not a sample of the run's selection"
                    raise DataError(f"{path}, line {number}: {identifier} {problem}")
                places[identifier] = (start, len(line))
                start += len(line)
        return places


def describe_missing(name: object, missing: int, of: int) -> str:
    """What an incomplete run lacks, in words."""
    return f"{name}: {missing:,} of {of:,} predictions are missing"


def incomplete(folder: Path, missing: int, of: int, settings: RunSettings | None) -> str:
    """What a run lacks, and the command that completes it."""
    command = "evaluate() with the same arguments"
    if settings is not None and settings.command_line:
        command = shlex.join(["sparse-tasks", *_command(folder, settings)])
    return f"{describe_missing(folder, missing, of)}; complete the run: {command}"


def _command(folder: Path, settings: RunSettings) -> list[str]:
    """The command line of a run, for its present folder."""
    words, attention = settings.command_line, settings.attention
    if words[0] not in ("evaluate", "predict"):
        return words
    if any("," in value for value in _split_off(words, "-a", "--attention", "-s", "--sparsity")[1]):  # a run of a sweep
        words, _ = _split_off(words, "-a", "--attention", "-s", "--sparsity", "--set", "--attention-arg")
        words = [*words, "--attention", attention.method]
        if attention.sparse and attention.sparsity is not None:
            words += ["--sparsity", str(attention.sparsity)]
        for name, value in attention.arguments.items():
            words += ["--set", f"{name}={json.dumps(value)}"]
    return [*_split_off(words, "-o", "--output")[0], "-o", str(folder)]


def _split_off(words: Sequence[str], *options: str) -> tuple[list[str], list[str]]:
    """The other words of a command line, and the values of these options: ``-o X``, ``-oX``, ``--output=X``."""
    others, values, left = list[str](), list[str](), iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if word in options:
            values.append(next(left, ""))
        elif equals and option in options and option.startswith("--"):
            values.append(value)
        elif word[:2] in options and not word.startswith("--"):
            values.append(word[2:])
        else:
            others.append(word)
    return others, values


def read_predictions(folder: Path, kind: type[P]) -> dict[str, P]:
    """Predictions of a run by id, or their ids alone; nothing is repaired, and a partial last line is ignored.

    Raises:
        DataError: A line is damaged, or a sample occurs twice.
    """
    path, predictions = folder / PREDICTIONS, dict[str, P]()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                prediction = parse_line(line, kind, f"{path}, line {number}")
                if prediction.id in predictions:
                    raise DataError(f"{path}, line {number}: {prediction.id} occurs twice")
                predictions[prediction.id] = prediction
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return predictions


def read_settings(folder: Path) -> RunSettings:
    """Read the ``run.json`` of a run.

    Raises:
        UsageError: There is none.
        DataError: The file cannot be read, or has another form.
    """
    if not os.path.isfile(folder / SETTINGS):  # of a path that is too long, Path.is_file raises
        raise UsageError("run", str(folder), f"holds no {SETTINGS}; name a folder written by evaluate")
    return read_record(folder / SETTINGS, RunSettings)


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record from a JSON file.

    Raises:
        DataError: The file cannot be read, or holds another kind of record; the message names the field.
    """
    return convert(read_json(path), kind, path)


def parse_line(line: bytes, kind: type[R], where: str) -> R:
    """A record from a line of JSON.

    Args:
        line: UTF-8, with or without its end.
        kind: Type of the record; its numbers have bounds, so that no other may be infinite or too large.
        where: File and line, for the error.

    Raises:
        DataError: The line is damaged, or holds another kind of record; the message names the field.
    """
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass  # parsed again below, to accept it after all or to include the value in the message
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not a line of JSON: {error}") from error
    return convert(value, kind, where)


def checked(record: R, where: object) -> R:
    """Check a record, since constructors check nothing.

    Raises:
        DataError: A field is not valid.
    """
    return convert(to_builtins(record), type(record), where)


def _end_of_last_line(file: IO[bytes], size: int) -> int:
    """Offset of the end of the last whole line, read backwards."""
    end = size
    while end > 0:
        start = max(0, end - 2**16)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def difference(recorded: RunSettings, settings: RunSettings) -> str | None:
    """The first setting, in words, in which two runs differ; None if all are the same.

    What a server runs is unknown until it is queried.
    """
    before, now = to_builtins(recorded), to_builtins(settings)
    unknown = settings.attention == Attention.UNKNOWN and recorded.attention.nominal is not True
    for name in _IDENTITY:
        if unknown and name in _ATTENTION:
            continue
        old, new = _part(before, name), _part(now, name)
        if old != new:
            return _difference(name, old, new)
    return None


def _part(settings: dict[str, Any], path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = value.get(name)  # some are omitted by default
    return value


def _difference(name: str, old: Any, new: Any) -> str:
    """The first difference of two settings."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return _difference(f"{name}.{key}", old.get(key), new.get(key))
    return f"{name} is {_short(old)} in it, {_short(new)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
