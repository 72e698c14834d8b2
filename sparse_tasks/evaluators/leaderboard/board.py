"""The board as a static site: pages of a folder of accepted submissions, which need no server.

    SITE/index.html                     the tables
    SITE/submissions/NAME-HASH.html     a page for each submission
    SITE/board.json                     the tables as data
    SITE/.sparse-tasks-board            the names of all these files, which the next build may replace

The same submissions give the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sparse_tasks.core.errors import DataError, OutputError, SparseTasksError, UsageError, quoted
from sparse_tasks.core.files import PARTIAL_PREFIX, WRITTEN
from sparse_tasks.core.records import JsonObject
from sparse_tasks.evaluators.leaderboard.pages import board_page, slug, submission_page
from sparse_tasks.evaluators.leaderboard.reading import SubmissionFile, read_submission
from sparse_tasks.evaluators.leaderboard.standings import Standing, Table, standing, tables, verdict
from sparse_tasks.evaluators.records import ComparedAverage
from sparse_tasks.evaluators.statistics import Rank

MARKER: Final = ".sparse-tasks-board"
"""The file that marks a folder as a board and lists its files."""

_DIGITS: Final = 8  # of a submission's hash in the name of its page
_LINE: Final = "made by sparse-tasks leaderboard build; these files may be replaced:"


@dataclass(frozen=True, slots=True)
class Built:
    """A board as built.

    Attributes:
        site: The folder.
        submissions: Number of submissions.
        runs: Number of rows in all tables.
        bytes: Size of the index page.
    """

    site: Path
    submissions: int
    runs: int
    bytes: int


def build(folder: Path, site: Path) -> Built:
    """Build the board of all submissions in a folder.

    The site appears only once it is complete. An older one is replaced as a whole, if it is a board and nothing else.

    Args:
        folder: Accepted submissions, ``*.json``; subfolders are not read. Only their form is checked here; ``check``
            says whether their numbers are right.
        site: The folder to make.

    Raises:
        UsageError: The folder cannot be read, or the site holds something other than a board.
        DataError: A file is not a submission, or occurs twice.
        OutputError: The site cannot be written.
    """
    paths = _submissions(folder)
    if site.name in ("", ".."):  # such as ".", which cannot be renamed
        site = Path(os.path.abspath(site))
    _check_replaceable(site)
    try:
        site.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=site.parent))
        try:
            built = _build(paths, work / "new", site)
            _put(work, site)
            WRITTEN.extend(path for path in site.rglob("*") if path.is_file())
        finally:
            if site.exists() or not (work / "old").exists():  # the older board is never lost
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {site}: {error.strerror or error}") from error
    return built


def _submissions(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError("folder", str(folder), f"cannot be read: {reason}; name the folder of submissions") from error
    return [folder / name for name in names]


# --- the files ----------------------------------------------------------------------------------------------


def _build(paths: list[Path], folder: Path, site: Path) -> Built:
    (folder / "submissions").mkdir(parents=True)
    rows: list[Standing] = []
    pages: set[str] = set()
    for path, submission in _read(paths):
        name, sha256 = submission.content.name, submission.sha256
        page = f"{slug(name)}-{sha256[:_DIGITS]}"
        if page in pages:  # a deliberate collision of the digits
            page = f"{slug(name)}-{sha256}"
        pages.add(page)
        try:
            rows += [standing(name, page, i, run) for i, run in enumerate(submission.runs, start=1)]
            _write(folder / "submissions" / f"{page}.html", submission_page(submission, path.name))
        except DataError as error:
            raise DataError(f"{quoted(path.name)}: {error}") from error
    board = tables(rows)
    index = board_page(board, submissions=len(paths), runs=len(rows))
    _write(folder / "index.html", index)
    _write(folder / "board.json", json.dumps(_data(board), separators=(",", ":"), allow_nan=False) + "\n")
    names = sorted(["index.html", "board.json", MARKER, *(f"submissions/{page}.html" for page in pages)])
    _write(folder / MARKER, "\n".join([_LINE, *names]) + "\n")
    return Built(site=site, submissions=len(paths), runs=len(rows), bytes=len(index.encode()))


def _read(paths: list[Path]) -> Iterator[tuple[Path, SubmissionFile]]:
    """The submissions, one at a time."""
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            submission = read_submission(path)
        except SparseTasksError as error:
            raise DataError(f"{quoted(path.name)}: {error}") from error
        if (other := seen.setdefault(submission.sha256, path)) is not path:
            raise DataError(f"{quoted(path.name)}: is the same as {quoted(other.name)}; remove one")
        yield path, submission


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _data(board: list[Table]) -> JsonObject:
    return {
        "format": "sparse-tasks-board",
        "schema_version": "1.0",
        "tables": [
            {
                "dataset": table.dataset,
                "sha256": table.sha256,
                "query_aware": table.query_aware,
                "compress": table.compress,
                "tasks": list(table.tasks),
                "samples": table.samples,
                "lengths": list(table.lengths),
                "rows": [_row(table, number) for number in range(len(table.rows))],
            }
            for table in board
        ],
    }


def _row(table: Table, number: int) -> JsonObject:
    row = table.rows[number]
    return {
        "submission": row.submission,
        "page": f"submissions/{row.page}.html#run-{row.number}",
        "model": row.model,
        "attention": row.attention,
        "asked": row.target,
        "prefill": row.prefill,
        "decode": row.decode,
        "scores": [
            {
                "length": length,
                "mean": score.average.mean,
                "low": score.average.low,
                "high": score.average.high,
                "n": score.average.n,
                "unable": list(score.unable),
                "against_dense": None if score.against_dense is None else _against(score.against_dense),
                "rank": _rank(table.ranks[number][length], table.runs[row.model, length]) if score.able else None,
            }
            for length, score in sorted(row.scores.items())
        ],
    }


def _against(average: ComparedAverage) -> JsonObject:
    interval = average.interval
    return {"mean": average.difference, "low": interval.low, "high": interval.high, "verdict": verdict(average)}


def _rank(rank: Rank, runs: int) -> JsonObject:
    return {"first": int(rank.low), "last": int(rank.high), "of": runs}


# --- the folder ---------------------------------------------------------------------------------------------


def _check_replaceable(site: Path) -> None:
    """Check that the site can be replaced without loss.

    Raises:
        UsageError: It is a file, or contains something that build did not write.
    """
    try:
        if site.is_symlink() or (site.exists() and not site.is_dir()):
            raise UsageError("output", str(site), "is a file or a link; name a folder")
        present = sorted(
            str(path.relative_to(site)) for path in site.rglob("*") if path.is_symlink() or not path.is_dir()
        )
        if not present:
            return
        lines = (site / MARKER).read_text(encoding="utf-8").splitlines() if (site / MARKER).is_file() else []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError("output", str(site), f"cannot be read: {reason}; name another folder") from error
    if lines[:1] != [_LINE]:
        raise UsageError("output", str(site), "holds other files than a board; name an empty or a new folder")
    if others := [name for name in present if name not in set(lines[1:])]:
        raise UsageError("output", str(site), f"holds {quoted(others[0])}, which is not part of the board and would be "
                         "lost; move it away")  # fmt: skip


def _put(work: Path, site: Path) -> None:
    """Move the new site from a working folder to its place; an older one is moved aside first, and back on failure."""
    if site.exists():
        site.rename(work / "old")
    try:
        (work / "new").rename(site)
    except BaseException:
        if (work / "old").exists():
            (work / "old").rename(site)
        raise
