"""The board as a static site: a folder of accepted submissions becomes pages that need no server.

    SITE/index.html                     the tables
    SITE/submissions/NAME-HASH.html     a page a submission
    SITE/board.json                     the tables as data
    SITE/.sparse-tasks-board            names of all of these: what may be replaced by the next build

The same submissions make the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sparse_tasks.core.errors import DataError, OutputError, SparseTasksError, UsageError, quoted
from sparse_tasks.core.files import PARTIAL_PREFIX
from sparse_tasks.evaluators.leaderboard.pages import board_page, slug, submission_page
from sparse_tasks.evaluators.leaderboard.standings import Rank, Standing, Table, standing, tables
from sparse_tasks.evaluators.leaderboard.submission import Submission, read_submission

__all__ = ["MARKER", "Built", "build"]

MARKER: Final = ".sparse-tasks-board"
"""The file by which a folder is known as a board, and which lists the files of it."""

_DIGITS: Final = 8  # of a submission's hash in the name of its page
_LINE: Final = "made by sparse-tasks leaderboard build; these files may be replaced:"


@dataclass(frozen=True, slots=True)
class Built:
    """What was built.

    Attributes:
        site: The folder.
        submissions: How many there are.
        runs: How many rows the tables have.
        bytes: Of the index page.
    """

    site: Path
    submissions: int
    runs: int
    bytes: int


def build(folder: Path, site: Path) -> Built:
    """Build the board of all submissions in a folder.

    The site appears when all of it is there. An older one is replaced as a whole, if it is a board and nothing else.

    Args:
        folder: Where the accepted submissions lie, as ``*.json``; what lies deeper is not read. They are read by
            their form only: whether their numbers are right is what ``check`` says.
        site: The folder to make.

    Raises:
        UsageError: The folder is none, or the site holds something else than a board.
        DataError: A file is no submission, or is there twice.
        OutputError: The site cannot be written.
    """
    paths = _submissions(folder)
    site = Path(os.path.abspath(site))
    _check_replaceable(site)
    try:
        site.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=site.parent))
    except OSError as error:
        raise OutputError(f"cannot write {site}: {error.strerror or error}") from error
    try:
        built = _build(paths, unfinished, site)
        _put(unfinished, site)
    except OSError as error:
        raise OutputError(f"cannot write {site}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
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
    (folder / "submissions").mkdir()
    found: list[Standing] = []
    pages: set[str] = set()
    for path, submission in _read(paths):
        page = f"{slug(submission.name)}-{submission.sha256[:_DIGITS]}"
        if page in pages:  # somebody tried until the digits were the same
            page = f"{slug(submission.name)}-{submission.sha256}"
        pages.add(page)
        found += [standing(submission.name, page, i, run) for i, run in enumerate(submission.runs, start=1)]
        _write(folder / "submissions" / f"{page}.html", submission_page(submission, path.name))
    board = tables(found)
    index = board_page(board, submissions=len(paths), runs=len(found))
    _write(folder / "index.html", index)
    _write(folder / "board.json", json.dumps(_data(board), separators=(",", ":"), allow_nan=False) + "\n")
    names = sorted(["index.html", "board.json", MARKER, *(f"submissions/{page}.html" for page in pages)])
    _write(folder / MARKER, "\n".join([_LINE, *names]) + "\n")
    return Built(site=site, submissions=len(paths), runs=len(found), bytes=len(index.encode()))


def _read(paths: list[Path]) -> Iterator[tuple[Path, Submission]]:
    """One submission after the other, so that no more than one is held."""
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            submission = read_submission(path)
        except SparseTasksError as error:
            raise DataError(f"{quoted(path.name)}: {error}") from error
        if (other := seen.setdefault(submission.sha256, path)) is not path:
            raise DataError(f"{quoted(path.name)}: is {quoted(other.name)} once more; take one away")
        yield path, submission


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _data(board: list[Table]) -> dict[str, Any]:
    return {
        "format": "sparse-tasks-board",
        "schema_version": "1.0",
        "tables": [
            {
                "dataset": table.dataset,
                "sha256": table.sha256,
                "tasks": list(table.tasks),
                "samples": table.samples,
                "lengths": list(table.lengths),
                "rows": [_row(row, ranks) for row, ranks in zip(table.rows, table.ranks, strict=True)],
            }
            for table in board
        ],
    }


def _row(row: Standing, ranks: Mapping[int, Rank]) -> dict[str, Any]:
    return {
        "submission": row.submission,
        "page": f"submissions/{row.page}.html#run-{row.number}",
        "model": row.model,
        "attention": row.attention,
        "asked": row.asked,
        "prefill": row.prefill,
        "decode": row.decode,
        "scores": [
            {
                "length": length,
                "mean": score.mean,
                "low": score.low,
                "high": score.high,
                "n": score.n,
                "against_dense": None
                if (against := score.against_dense) is None
                else {**dataclasses.asdict(against), "verdict": against.verdict},
                "rank": dataclasses.asdict(ranks[length]),
            }
            for length, score in sorted(row.scores.items())
        ],
    }


# --- the folder ---------------------------------------------------------------------------------------------


def _check_replaceable(site: Path) -> None:
    """Make sure that nothing is lost when the site is replaced.

    Raises:
        UsageError: It is a file, or holds what build did not write.
    """
    try:
        if site.is_symlink() or (site.exists() and not site.is_dir()):
            raise UsageError("output", str(site), "is a file or a link; name a folder")
        there = sorted(
            str(path.relative_to(site)) for path in site.rglob("*") if path.is_symlink() or not path.is_dir()
        )
        if not there:
            return
        lines = (site / MARKER).read_text(encoding="utf-8").splitlines() if (site / MARKER).is_file() else []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError("output", str(site), f"cannot be read: {reason}; name another folder") from error
    if lines[:1] != [_LINE]:
        raise UsageError("output", str(site), "holds other files than a board; name an empty or a new folder")
    if others := [name for name in there if name not in set(lines[1:])]:
        raise UsageError("output", str(site), f"holds {quoted(others[0])} beside the board, which would be lost; "
                         "move it away")  # fmt: skip


def _put(unfinished: Path, site: Path) -> None:
    """Put a finished site in its place; an older one is moved aside first, and back if that fails."""
    unfinished.chmod(0o755)
    if not site.exists():
        unfinished.rename(site)
        return
    aside = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=site.parent))
    try:
        site.rename(aside / "old")
        try:
            unfinished.rename(site)
        except BaseException:
            (aside / "old").rename(site)
            raise
    except BaseException:
        with suppress(OSError):  # never what is in it
            aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
