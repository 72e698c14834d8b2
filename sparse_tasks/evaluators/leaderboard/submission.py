"""A submission: scored runs and all that they predicted, in one JSON file (schema ``submission-1.0``).

The file is ASCII, the same bytes for the same runs, and names neither folders nor users. Predictions are JSON lines in
the data set's order, compressed (xz) and written as base64.

Reading trusts nothing: sizes come first, then the form, and what is compressed is unpacked piece by piece.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import lzma
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from sparse_tasks import __version__
from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.json import finite, small
from sparse_tasks.core.records import convert, to_builtins
from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun
from sparse_tasks.evaluators.compare import compare
from sparse_tasks.evaluators.exports.parts import dataset_id, json_bytes, model_id
from sparse_tasks.evaluators.leaderboard.form import Check, compiled
from sparse_tasks.evaluators.records import Outcome, Prediction, PublicSettings, Result
from sparse_tasks.evaluators.results import read_outcomes, read_scores_table
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.schemas import schema

__all__ = [
    "LARGEST_FILE",
    "LONGEST_LINE",
    "LONGEST_NAME",
    "Reason",
    "Submission",
    "SubmissionError",
    "SubmittedRun",
    "clash",
    "compared",
    "dense_partner",
    "make_submission",
    "parse_submission",
    "plain",
    "read_file",
    "read_submission",
]

LARGEST_FILE: Final = 64 * 2**20
"""Bytes of a submission."""

LONGEST_LINE: Final = 256 * 2**10
"""Bytes of a prediction."""

LONGEST_NAME: Final = 100
"""Characters of a submission's name."""

_LONGEST_CONTACT: Final = 200
_DEEPEST: Final = 64
_MOST_TOKENS: Final = 1_000_000  # brackets, commas and strings of the JSON; 200 runs of 40 configurations have less
_LONGEST_TEXT: Final = 64 * 2**10  # of a string that is not base64
_LARGEST_FREE: Final = 16 * 2**10  # of the arguments of an engine or a method, as JSON
_MEAN_LINE: Final = 64 * 2**10  # bytes a prediction, on average
_CHUNK: Final = 64 * 2**10
_UNPACKING: Final = 64 * 2**20  # bytes of memory that xz may take
_PRESET: Final = 6

_OF_A_SAMPLE: Final = (
    *("id", "task", "index", "length", "text", "finish_reason", "input_tokens", "output_tokens"),
    *("sparsity", "sparsity_spread", "kv_bytes_per_step"),
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a submission is not accepted.

    Attributes:
        code: What kind of reason, a word that stays the same.
        where: The place in the submission, such as ``runs[0].result``; "file" for all of it.
        message: What is wrong, in one line without control characters.
    """

    code: str
    where: str
    message: str


class SubmissionError(DataError):
    """A file is no submission, or part of it is not what it says.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(f"{reason.where}: {reason.message}")

    def __reduce__(self) -> tuple[type[SubmissionError], tuple[Reason]]:
        """Errors cross process borders, so they have to unpickle from their own arguments."""
        return type(self), (self.reason,)


@dataclass(frozen=True)
class SubmittedRun(ScoredRun):
    """A run of a submission; ``name`` is its place there, ``path`` the submission.

    Attributes:
        comparison: With the dense run of the same submission (``comparison-1.0``); None for a dense run, and where
            there is none to compare with.
        sha256: Of the predictions, uncompressed, as the submission says.
        size: Their bytes, as it says.
        lines: Their number, as it says.
        data: The predictions, compressed, in base64.
    """

    comparison: dict[str, Any] | None
    sha256: str
    size: int
    lines: int
    data: str = field(repr=False)

    def predictions(self) -> Iterator[Prediction]:
        """The predictions in the file's order, with the fields of ``prediction-1.0`` less the timings.

        They are unpacked as they are asked for, and never held all at once.

        Raises:
            SubmissionError: They are not what the submission says, or too large; what came before may be of no worth
                either, for their hash is known only at the end.
        """
        where = f"{self.name}.predictions"
        digest, lines, form = hashlib.sha256(), 0, _forms()[1]
        for line in _lines(_unpacked(self.data, self.size, where), where):
            digest.update(line)
            lines += 1
            place = f"{where}, line {lines}"
            if lines > self.lines:
                raise _refusal("predictions", where, f"hold more lines than the {self.lines:,} that it says")
            prediction = _parsed(line, "utf-8", place)
            if (wrong := form(prediction)) is not None:
                raise _refusal("predictions", f"{place}{wrong[0]}", wrong[1])
            _check_writable(prediction["text"], f"{place}.text")
            yield Prediction(**prediction, seconds_to_first_token=None, seconds=None)
        if lines != self.lines:
            raise _refusal("predictions", where, f"hold {lines:,} lines, not the {self.lines:,} that it says")
        if digest.hexdigest() != self.sha256:
            raise _refusal("predictions", where, "do not have the sha256 that it says")


@dataclass(frozen=True)
class Submission:
    """What was handed in.

    Attributes:
        name: Of the submission.
        contact: Whom to ask; None where nobody is named.
        sparse_tasks: Version that wrote it.
        sha256: Of the file.
        size: Bytes of the file.
        runs: At least one.
    """

    name: str
    contact: str | None
    sparse_tasks: str
    sha256: str
    size: int
    runs: tuple[SubmittedRun, ...]


def plain(value: object, most: int = 200) -> str:
    """A text of unknown origin as one short line that is safe to print: what cannot be seen is escaped."""
    text = str(value)
    if len(text) > most:
        text = text[: most * 2 // 3] + " … " + text[-(most // 3) :]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clash(runs: Sequence[ScoredRun]) -> Reason | None:
    """The first run that cannot stand beside the others; None where all can.

    One answers what another has answered in the same way; a second dense run could be what a sparse one is compared
    with; or the dense run of a sparse one is of another model, though of the same name.
    """
    before: dict[str, list[ScoredRun]] = {}
    for run in runs:
        alike = before.setdefault(_way(run), [])
        other = next((other for other in alike if run.dense or _share_samples(run, other)), None)
        if other is not None:
            what = f"is what {other.name} is: {run.model}, {run.label}; name one of them"
            return Reason("run_twice", run.name, plain(what))
        alike.append(run)
    for run in runs:
        dense = dense_partner(run, runs)
        if dense is not None and dense.settings.model != run.settings.model:
            what = f"is of another model than its dense run {dense.name}, though both are called {run.model}"
            return Reason("dense_differs", run.name, plain(what))
    return None


def _way(run: ScoredRun) -> str:
    """How a run was made; of dense ones, what decides which a sparse one is compared with."""
    settings = run.settings
    more = [] if run.dense else [settings.model, settings.attention, settings.engine.name]
    return json.dumps([run.dense, run.pairing, *more], default=to_builtins)


def _share_samples(a: ScoredRun, b: ScoredRun) -> bool:
    of_a, of_b = a.settings.dataset, b.settings.dataset
    return not (set(of_a.tasks).isdisjoint(of_b.tasks) or set(of_a.lengths).isdisjoint(of_b.lengths))


def dense_partner(run: ScoredRun, runs: Sequence[ScoredRun]) -> ScoredRun | None:
    """The dense run of the same model, data set and sampling; None for a dense run, and where there is none."""
    if run.dense:
        return None
    return next((other for other in runs if other.dense and other.pairing == run.pairing), None)


# --- making -------------------------------------------------------------------------------------------------


def make_submission(runs: Runs, name: str | None = None, contact: str | None = None) -> bytes:
    """A submission of scored runs, the same bytes for the same runs, in whatever order they are named.

    Args:
        runs: What to hand in; a sparse run is compared with the dense one of the same model among them.
        name: Of the submission, up to 100 characters; None for the models' names.
        contact: Whom to ask, up to 200 characters.

    Raises:
        UsageError: A name does not do, a run is not complete or is there twice, or the file would be too large.
        DataError: A run's file cannot be read.
    """
    if (wrong := clash(runs.runs)) is not None:
        raise UsageError("runs", wrong.where, wrong.message)
    models = ", ".join(sorted({run.model for run in runs.runs}))
    document = {
        "format": "sparse-tasks-submission",
        "schema_version": "1.0",
        "name": _name("name", name, LONGEST_NAME) or plain(models, LONGEST_NAME - 3),
        "contact": _name("contact", contact, _LONGEST_CONTACT),
        "sparse_tasks": __version__,
        "runs": _runs(runs.runs),
    }
    content = _sorted_json(document)
    if len(content) > LARGEST_FILE:
        raise UsageError("runs", len(runs.runs), f"make {len(content) / 2**20:,.0f} MiB, and {LARGEST_FILE // 2**20} "
                         "are taken; hand in fewer at once, each with its dense run")  # fmt: skip
    try:
        _document(content)
    except SubmissionError as error:
        raise UsageError("runs", error.reason.where, f"cannot be handed in: {error.reason.message}") from error
    return content


def _name(field: str, text: str | None, most: int) -> str | None:
    if text is None:
        return None
    text = text.strip()
    if not text.isprintable():
        raise UsageError(field, text, "has characters that cannot be shown; write it in letters, digits and signs")
    if not 0 < len(text) <= most:
        raise UsageError(field, plain(text), f"has {len(text)} characters; write 1 to {most}")
    return text


def _runs(runs: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    parts = [(run, _public_settings(run.settings), _packed(run)) for run in runs]
    # Dense runs first; the hash settles the order of what is else the same.
    parts.sort(key=lambda part: (*_place(part[0]), _sorted_json(part[1]), part[2]["sha256"]))
    submitted = []
    for run, settings, predictions in parts:
        # The same in both, but for a result that somebody changed; the check will say so.
        plain = to_builtins(run.result)
        result = {**plain, "model": _public_model(run.result), "attention": _public_attention(plain)}
        comparison = _comparison(run, dense_partner(run, runs))
        submitted.append({"settings": settings, "result": result, "comparison": comparison, "predictions": predictions})
    return submitted


def _place(run: ScoredRun) -> tuple[Any, ...]:
    return not run.dense, run.model, run.attention, -1.0 if run.asked is None else run.asked


def _public_settings(run: PublicSettings) -> dict[str, Any]:
    """``run.json`` without what says where its owner keeps things."""
    settings = to_builtins(run)
    engine = settings["engine"]
    return {
        **{name: value for name, value in settings.items() if name != "command_line"},
        "dataset": {**settings["dataset"], "name": dataset_id(run)},
        "model": _public_model(run),
        "engine": {**engine, **{name: _without_places(engine[name]) for name in ("arguments", "details")}},
        "attention": _public_attention(settings),
    }


def _public_model(of: PublicSettings | Result) -> dict[str, Any]:
    return {**to_builtins(of.model), "name": model_id(of)}


def _public_attention(of: Mapping[str, Any]) -> dict[str, Any]:
    return {**of["attention"], "arguments": _without_places(of["attention"]["arguments"])}


_PLACE: Final = re.compile(
    r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s"']+            # an address
    | (?<![\w.~/\\-]) (?:[A-Za-z]:|~[\w.-]*|\.{1,2})? [/\\]+ (?:[^\s"'/\\]+[/\\]+)*  # folders, before a last part""",
    re.VERBOSE,
)


def _without_places(value: Any) -> Any:
    """A value whose texts name no address, and of paths the last part alone."""
    if isinstance(value, str):
        return _PLACE.sub(lambda found: "(address)" if "://" in found[0] else "", value)
    if isinstance(value, dict):
        return {_without_places(name): _without_places(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return value


def _packed(run: ScoredRun) -> dict[str, Any]:
    """The predictions, once it is sure that they are those that were scored."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=_PRESET)
    digest, size, packed, ids = hashlib.sha256(), 0, bytearray(), []
    for prediction in map(to_builtins, Run(run.path).predictions()):
        line = _line(prediction)
        if len(line) > LONGEST_LINE:
            raise UsageError("runs", run.name, f"has a prediction of {len(line):,} bytes, {prediction['id']}, and "
                             f"{LONGEST_LINE:,} are taken; ask for fewer tokens with --max-new-tokens")  # fmt: skip
        digest.update(line)
        size += len(line)
        packed += compressor.compress(line)
        ids.append(prediction["id"])
    packed += compressor.flush()
    scored = read_scores_table(run.path, ["id"])["id"].to_pylist()
    asked = run.settings.dataset.samples
    if ids != scored or len(ids) != asked:
        raise UsageError("runs", run.name, f"is not complete: {len(ids):,} predictions, {len(scored):,} scores, "
                         f"{asked:,} asked; finish it with evaluate, then score it")  # fmt: skip
    return {
        "encoding": "xz+base64",
        "sha256": digest.hexdigest(),
        "bytes": size,
        "lines": len(ids),
        "data": binascii.b2a_base64(packed, newline=False).decode("ascii"),
    }


def _line(prediction: Mapping[str, Any]) -> bytes:
    of_it = {name: prediction[name] for name in _OF_A_SAMPLE}
    text = json.dumps(of_it, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


def _comparison(run: ScoredRun, dense: ScoredRun | None) -> dict[str, Any] | None:
    if dense is None:
        return None
    return compared(read_outcomes(dense.path), read_outcomes(run.path), run.settings.dataset.sha256)


def compared(dense: Sequence[Outcome], sparse: Sequence[Outcome], dataset_sha256: str) -> dict[str, Any] | None:
    """The comparison of a sparse run with a dense one, over the samples of both; None where they share none.

    Args:
        dense: Rows as ``compare`` takes them.
        sparse: The same.
        dataset_sha256: The data set of both.
    """
    if {row.id for row in dense}.isdisjoint(row.id for row in sparse):
        return None
    found = compare(dense, sparse, dataset_a=dataset_sha256, dataset_b=dataset_sha256, common=True)
    return to_builtins(found)


def _sorted_json(value: object) -> bytes:
    """JSON in ASCII, with its names in order."""
    return json_bytes(json.loads(json.dumps(value, sort_keys=True, allow_nan=False)))


# --- reading ------------------------------------------------------------------------------------------------


def read_submission(path: Path) -> Submission:
    """Read a submission, up to its predictions, which are unpacked when they are asked for.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        SubmissionError: It is no regular file, too large, or no submission.
    """
    return parse_submission(read_file(path), path)


def parse_submission(content: bytes, path: Path) -> Submission:
    """A submission, from the bytes of its file.

    Args:
        content: What ``read_file`` has read.
        path: Where; nothing is read there.

    Raises:
        SubmissionError: It is none.
    """
    document = _document(content)
    runs = tuple(_submitted(f"runs[{i}]", path, run) for i, run in enumerate(document["runs"]))
    sha256 = hashlib.sha256(content).hexdigest()
    return Submission(document["name"], document["contact"], document["sparse_tasks"], sha256, len(content), runs)


def _submitted(name: str, path: Path, run: Mapping[str, Any]) -> SubmittedRun:
    predictions = run["predictions"]
    return SubmittedRun(
        name,
        path,
        convert(run["settings"], PublicSettings, name),
        convert(run["result"], Result, name),
        run["comparison"],
        predictions["sha256"],
        predictions["bytes"],
        predictions["lines"],
        predictions["data"],
    )


def _refusal(code: str, where: str, message: object) -> SubmissionError:
    return SubmissionError(Reason(code, plain(where, 120), plain(message)))


def read_file(path: Path) -> bytes:
    """The bytes of a regular file; a pipe or a device is not even waited for.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        SubmissionError: It is something else, or too large.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            raise _refusal("file", "file", "is a link; name the file itself")
        if not stat.S_ISREG(path.stat().st_mode):
            raise _refusal("file", "file", "is no regular file")
        descriptor = os.open(path, flags)  # whatever has taken its place meanwhile
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _refusal("file", "file", "is no regular file")
            if found.st_size > LARGEST_FILE:
                raise _refusal("size", "file", f"is larger than {LARGEST_FILE // 2**20} MiB")
            return file.read(found.st_size)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError("file", str(path), f"cannot be read: {reason}") from error


def _document(content: bytes) -> dict[str, Any]:
    """The JSON of a submission, whose form is right.

    Raises:
        SubmissionError: It is none.
    """
    _scan(content)
    document: Any = _parsed(content, "ascii", "file")
    # The predictions' data has been looked at; what reads the rest need not carry it.
    runs = document.get("runs") if isinstance(document, dict) else None
    data = [_taken(run) for run in runs] if isinstance(runs, list) else []
    if (wrong := _forms()[0](document)) is not None:
        raise _refusal("schema", wrong[0].removeprefix(".") or "file", wrong[1])
    for number, (run, text) in enumerate(zip(document["runs"], data, strict=True)):
        run["predictions"]["data"] = text
        _check_run(f"runs[{number}]", run)
    if _ESCAPE.search(content):
        for place, text in _texts(document, ""):
            if not text.isprintable():
                raise _refusal("text", place.removeprefix("."), f"has characters that cannot be shown: {text!r}")
    return document  # type: ignore[no-any-return]


_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[][{},]', re.DOTALL)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*+={0,2}")
_BASE64_TOKEN: Final = re.compile(rb'"[A-Za-z0-9+/]*+={0,2}"')


_ESCAPE: Final = re.compile(rb"""\\[^"\\/]""")  # in ASCII, what cannot be shown has to be written so


def _scan(content: bytes) -> None:
    """Bounds that have to hold before anything is parsed: JSON can be small and yet large in memory."""
    if not content.isascii():
        raise _refusal("json", "file", "is not ASCII; hand in what sparse-tasks submit has written, as it is")
    depth = 0
    for tokens, token in enumerate(_TOKEN.finditer(content)):
        if tokens >= _MOST_TOKENS:
            raise _refusal("size", "file", f"holds more than {_MOST_TOKENS:,} values")
        first = content[token.start()]
        if first in b"[{":
            depth += 1
            if depth > _DEEPEST:
                raise _refusal("size", "file", f"is nested deeper than {_DEEPEST}")
        elif first in b"]}":
            depth -= 1
        elif first == 0x22 and token.end() - token.start() > _LONGEST_TEXT and not _BASE64_TOKEN.fullmatch(token[0]):
            raise _refusal("size", "file", f"holds a text of more than {_LONGEST_TEXT:,} characters")


def _parsed(content: bytes, encoding: str, where: str) -> Any:
    """JSON in which every number is finite and every name stands once.

    Raises:
        SubmissionError: It is none.
    """
    try:
        return _DECODER.decode(content.decode(encoding))
    except (ValueError, RecursionError) as error:
        raise _refusal("json", where, f"is no JSON that can be taken: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


_DECODER: Final = json.JSONDecoder(
    parse_float=finite, parse_int=small, parse_constant=finite, object_pairs_hook=_unique
)


def _taken(run: Any) -> str | None:
    """The text of a run's predictions, and in its place the first letters; None where there is none."""
    predictions = run.get("predictions") if isinstance(run, dict) else None
    data = predictions.get("data") if isinstance(predictions, dict) else None
    if not isinstance(data, str):
        return None
    predictions["data"] = data[:4]  # type: ignore[index]
    return data


@cache
def _forms() -> tuple[Check, Check]:
    """What is wrong with the form of a submission, and of a prediction."""
    loaded = schema("submission-1.0")
    return compiled(loaded), compiled(loaded["$defs"]["prediction"])


def _check_writable(text: str, where: str) -> None:
    """JSON can name half a surrogate, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refusal("predictions", where, f"cannot be written as UTF-8: {error}") from error


def _check_run(name: str, run: dict[str, Any]) -> None:
    """What the schema does not say of a run."""
    settings, predictions = run["settings"], run["predictions"]
    for part in ("dataset.tasks", "dataset.lengths"):
        values = settings["dataset"][part.partition(".")[2]]
        if len(set(values)) < len(values):
            raise _refusal("schema", f"{name}.settings.{part}", "names one twice")
    for part, free in (
        ("engine.arguments", settings["engine"]["arguments"]),
        ("engine.details", settings["engine"]["details"]),
        ("attention.arguments", settings["attention"]["arguments"]),
    ):
        if len(json.dumps(free)) > _LARGEST_FREE:
            raise _refusal("size", f"{name}.settings.{part}", f"take more than {_LARGEST_FREE:,} characters")
    try:
        datetime.fromisoformat(settings["started"])
    except ValueError as error:
        raise _refusal("schema", f"{name}.settings.started", f"is no time: {error}") from error
    where, data, samples = f"{name}.predictions", predictions["data"], settings["dataset"]["samples"]
    if predictions["bytes"] > samples * _MEAN_LINE + 2**20:
        raise _refusal("size", where, f"take {predictions['bytes']:,} bytes, too many for {samples:,} samples")
    if predictions["lines"] != samples:
        raise _refusal("samples", where, f"are {predictions['lines']:,} lines, and {samples:,} samples were asked")
    if len(data) % 4 or not _BASE64.fullmatch(data):
        raise _refusal("predictions", where, "are no base64")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, names of fields among them, and where it stands."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield path, name
            yield from _texts(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{number}]")


# --- predictions --------------------------------------------------------------------------------------------


def _unpacked(data: str, size: int, where: str) -> Iterator[bytes]:
    """What is compressed, piece by piece; never more than it says.

    Raises:
        SubmissionError: It is damaged, cut short, longer than it says, or followed by something.
    """
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACKING)
    total = 0
    try:
        for start in range(0, len(data), _CHUNK):
            packed = binascii.a2b_base64(data[start : start + _CHUNK], strict_mode=True)
            if unpacker.eof:
                raise _refusal("predictions", where, "are followed by something")
            while True:
                piece = unpacker.decompress(packed, max_length=_CHUNK)
                packed = b""
                total += len(piece)
                if total > size:
                    raise _refusal("predictions", where, f"unpack to more than the {size:,} bytes that it says")
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
    if total != size:
        raise _refusal("predictions", where, f"unpack to {total:,} bytes, not the {size:,} that it says")


def _lines(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Lines, each with its end, none of them too long."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if len(line) >= LONGEST_LINE:
                break
            yield line + b"\n"
        else:
            if len(rest) < LONGEST_LINE:
                continue
        raise _refusal("size", where, f"hold a line of more than {LONGEST_LINE:,} bytes")
    if rest:
        raise _refusal("predictions", where, "do not end with a line")
