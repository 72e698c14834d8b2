"""Runs as the repository keeps them: submissions, and the golds that score them again.

``submissions/DATA/manifest.json`` and ``golds.parquet`` are of the data set; each other ``*.json`` there is a
submission. A submission has the outputs and no scores of single samples. They are computed here as ``score`` does it,
and every mean has to be that of the submission, so that golds cannot be those of other data.
"""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.json import to_json
from sparse_tasks.core.records import Description, Manifest, convert
from sparse_tasks.evaluators.analyses.table import Runs, read_runs
from sparse_tasks.evaluators.dataset import Selection, open_dataset
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.leaderboard.reading import SubmittedRun, read_submission
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.records import PublicSettings, RunSettings
from sparse_tasks.evaluators.results import Gold, Opened, config_result, run_result, scored_sample, scores_table
from sparse_tasks.evaluators.runs import COMPARISON, PREDICTIONS, RESULT, SCORES, SETTINGS

MANIFEST, GOLDS = "manifest.json", "golds.parquet"


def keep_golds(data: Path, target: Path) -> None:
    """Write manifest and golds of a data set."""
    target.mkdir(parents=True, exist_ok=True)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_gold_rows(data)), sink, compression="zstd", compression_level=19)
    write_whole(target / GOLDS, sink.getvalue())
    write_whole(target / MANIFEST, (data / "sparse_tasks.json").read_bytes())


def same_golds(data: Path, kept: Path) -> bool:
    """Whether a data set has the golds that a folder of submissions keeps."""
    table = pq.read_table(kept / GOLDS)  # which may be from before a column
    return table.to_pylist() == [{name: row[name] for name in table.column_names} for row in _gold_rows(data)]


def _gold_rows(data: Path) -> list[dict[str, Any]]:
    dataset = open_dataset(str(data))
    return list(dataset.rows(dataset.select(), list(Gold.__struct_fields__)))


def golds_of(folder: Path) -> tuple[dict[str, Gold], bool]:
    """Golds of the data set beside submissions, and whether its prompts begin the answer."""
    golds = {row["id"]: msgspec.convert(row, Gold) for row in pq.read_table(folder / GOLDS).to_pylist()}
    return golds, read_manifest(folder).request.begin_answer is True


def keep_runs(runs: Sequence[Path], target: Path, name: str) -> None:
    """Write a submission of runs."""
    write_whole(target, make_submission(read_runs(runs), name))


def checked(submission: Path, data: Path) -> set[str]:
    """Codes of the reasons for which ``leaderboard check`` refuses it; none where it is accepted."""
    return {reason.code for reason in check(submission, [open_dataset(str(data))]).reasons}


def read_manifest(folder: Path) -> Manifest:
    """What the data set of a folder of submissions was made with."""
    path = folder / MANIFEST
    return convert(msgspec.json.decode(path.read_bytes()), Manifest, path)


def depth(folder: Path) -> str:
    """Where the evidence of its data set stands, as in ``--depth``."""
    return next(iter(read_manifest(folder).request.tasks.values())).depth


def unpack(submissions: Sequence[Path], target: Path) -> Runs:
    """The runs of submissions, scored again; a dense run that several have counts once.

    Raises:
        DataError: A mean is not that of the submission.
    """
    folders: list[Path] = []
    seen: set[tuple[str, str]] = set()
    for number, path in enumerate(submissions):
        kept = _Kept.read(path)
        for run in kept.runs:
            key = run.packed.sha256, repr(run.pairing)
            if run.dense and key in seen:
                continue
            seen.add(key)
            folder = target / f"{path.parent.name}-{number}-{run.name}"
            kept.put(run, folder)
            folders.append(folder)
    return read_runs(folders)


def restore(submission: Path, places: Mapping[str, Sequence[Path]], others: Path) -> None:
    """Put the runs of a submission back into folders, as a sweep leaves them; a finished run there stays.

    Args:
        submission: The file; there need be none.
        places: Folders of a run by its attention's label.
        others: Folder for the rest, by label.

    Raises:
        DataError: A mean is not that of the submission.
    """
    if not submission.is_file():
        return
    kept = _Kept.read(submission)
    for run in kept.runs:
        label = run.settings.attention.label
        for folder in places.get(label, [others / label]):
            if not (folder / RESULT).is_file():
                kept.put(run, folder)
                if run.comparison is not None:
                    (folder / COMPARISON).write_bytes(to_json(run.comparison))


def rescore(submission: Path) -> bool:
    """Write a submission again with the results that the outputs have today; whether they differ.

    Scoring rules change, and a maintainer accepts submissions whose scores are reproducible.
    """
    kept = _Kept.read(submission)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(number) for number in range(len(kept.runs))]
        for run, folder in zip(kept.runs, folders, strict=True):
            kept.put(run, folder, changed=True)
        content = make_submission(read_runs(folders), kept.name)
    if content == submission.read_bytes():
        return False
    write_whole(submission, content)
    return True


@dataclass(frozen=True)
class _Kept:
    """A submission with the golds beside it."""

    name: str
    runs: Sequence[SubmittedRun]
    made_from: Description | UnsetType
    golds: Mapping[str, Gold]
    begun: bool  # whether prompts begin the answer

    @classmethod
    def read(cls, path: Path) -> _Kept:
        file = read_submission(path)
        described = file.content.datasets  # of the one data set, where it was known
        made_from = UNSET if described is UNSET else described[0]
        return cls(file.content.name, file.runs, made_from, *golds_of(path.parent))

    def put(self, run: SubmittedRun, folder: Path, *, changed: bool = False) -> None:
        """Write a run as ``evaluate`` does, scored by its golds; ``changed`` where its means may be others by now."""
        folder.mkdir(parents=True, exist_ok=True)
        predictions = list(run.predictions())
        opened = Opened(self.begun, run.settings.begins_answer)
        rows = [scored_sample(self.golds[prediction.id], prediction, opened) for prediction in predictions]
        pairs = groupby(zip(rows, predictions, strict=True), lambda pair: (pair[0].length, pair[0].task))
        configs = [config_result(*map(list, zip(*group, strict=True))) for _, group in pairs]
        means = {(config.length, config.task): config.mean for config in run.result.configs}
        for config in configs:
            said = means[config.length, config.task]
            if not changed and not math.isclose(config.mean, said, abs_tol=1e-9):
                raise DataError(
                    f"{run.path}, {run.name}: {config.task} scores {config.mean:.4f} with the golds beside it, and "
                    f"{said:.4f} in the submission; they are of other data, or scored by other rules (see rescore)"
                )
        data = run.settings.dataset
        result = run_result(run.settings, Selection(tuple(data.tasks), tuple(data.lengths), data.limit), configs)
        settings = {name: getattr(run.settings, name) for name in PublicSettings.__struct_fields__}
        settings |= {"command_line": [], "made_from": self.made_from}
        (folder / SETTINGS).write_bytes(to_json(RunSettings(**settings)))
        (folder / RESULT).write_bytes(to_json(result))
        (folder / PREDICTIONS).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in predictions))
        pq.write_table(scores_table(rows), folder / SCORES)


def digest(submissions: Path) -> str:
    """SHA-256 of the names and bytes of all files in a folder of submissions."""
    total = hashlib.sha256()
    for path in sorted(path for path in submissions.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(submissions).as_posix()}\n".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def kept(submissions: Path) -> Iterator[Path]:
    """Submissions in a folder, in order."""
    for folder in sorted(path for path in submissions.iterdir() if path.is_dir()):
        yield from sorted(path for path in folder.glob("*.json") if path.name != MANIFEST)
