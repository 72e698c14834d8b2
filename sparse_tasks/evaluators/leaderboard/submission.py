"""Creates submissions: scored runs with all their predictions, in one JSON file.

The file is ASCII, the same bytes for the same runs, and names neither folders nor users. Predictions are JSON lines in
the data set's order, compressed (xz) and written as base64.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import lzma
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET

from sparse_tasks import __version__
from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.format import size
from sparse_tasks.core.json import to_json
from sparse_tasks.core.records import Description, Record
from sparse_tasks.evaluators.ability import dense_means, unable
from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun
from sparse_tasks.evaluators.compare import compare
from sparse_tasks.evaluators.exports.parts import dataset_id, json_bytes, model_id
from sparse_tasks.evaluators.leaderboard.reading import (
    LARGEST_FILE,
    LONGEST_LINE,
    SubmissionError,
    parse_submission,
    plain,
)
from sparse_tasks.evaluators.records import (
    Comparison,
    ModelRecord,
    Outcome,
    PackedPredictions,
    PublicSettings,
    Reason,
    Result,
    RunSettings,
    Submission,
    SubmissionRun,
    SubmittedPrediction,
)
from sparse_tasks.evaluators.results import read_outcomes, read_scores_table
from sparse_tasks.evaluators.runs import Run

_LONGEST_NAME: Final = 100
_LONGEST_CONTACT: Final = 200
_PRESET: Final = 6


def make_submission(runs: Runs, name: str | None = None, contact: str | None = None) -> bytes:
    """A submission of scored runs, the same bytes for the same runs, in whatever order they are named.

    Args:
        runs: The runs to submit; a sparse run is compared with the dense one of the same model among them.
        name: Name of the submission, up to 100 characters; None for the models' names.
        contact: Person to ask, up to 200 characters.

    Raises:
        UsageError: A name is not valid, a run is incomplete or occurs twice, or the file would be too large.
        DataError: A run's file cannot be read.
    """
    if (problem := clash(runs.runs)) is not None:
        raise UsageError("runs", problem.where, problem.message)
    models = ", ".join(sorted({run.model for run in runs.runs}))
    submission = Submission(
        format="sparse-tasks-submission",
        schema_version="1.0",
        name=_checked_name("name", name, _LONGEST_NAME) or plain(models, _LONGEST_NAME - 3),
        contact=_checked_name("contact", contact, _LONGEST_CONTACT),
        sparse_tasks=__version__,
        runs=_submitted(runs.runs),
        datasets=_datasets(runs.runs) or UNSET,
    )
    content = _sorted_json(submission)
    if len(content) > LARGEST_FILE:
        raise UsageError("runs", len(runs.runs), f"make {size(len(content))}, more than "
                         f"{size(LARGEST_FILE)}; submit fewer at once, each with its dense run")  # fmt: skip
    try:
        parse_submission(content, Path("submission.json"))
    except SubmissionError as error:
        raise UsageError("runs", error.reason.where, f"cannot be submitted: {error.reason.message}") from error
    return content


def _checked_name(field: str, text: str | None, most: int) -> str | None:
    if text is None:
        return None
    text = text.strip()
    if not text.isprintable():
        raise UsageError(field, text, "has characters that cannot be shown; write it in letters, digits and signs")
    if not 0 < len(text) <= most:
        raise UsageError(field, plain(text), f"has {len(text)} characters; write 1 to {most}")
    return text


def _submitted(runs: Sequence[ScoredRun]) -> list[SubmissionRun]:
    parts = [(run, _public_settings(run), _packed(run)) for run in runs]
    # Dense runs first; the hash breaks ties.
    parts.sort(key=lambda part: (*_place(part[0]), _sorted_json(part[1]), part[2].sha256))
    return [
        SubmissionRun(
            settings=settings,
            # The same as in the settings, unless the result was edited, which the check reports.
            result=msgspec.structs.replace(run.result, **_public(run.result)),
            comparison=_comparison(run, dense_partner(run, runs)),
            predictions=predictions,
        )
        for run, settings, predictions in parts
    ]


def _place(run: ScoredRun) -> tuple[bool, str, str, float]:
    return not run.dense, run.model, run.attention, -1.0 if run.target is None else run.target


def _datasets(runs: Sequence[ScoredRun]) -> list[Description]:
    """The descriptions of the runs' data sets; none for runs of older versions, which lack them."""
    made = (run.settings.made_from for run in runs if isinstance(run.settings, RunSettings))
    texts = {to_json(description): description for description in made if description is not UNSET}
    return [texts[text] for text in sorted(texts)]


def _sorted_json(value: Record) -> bytes:
    """JSON in ASCII with sorted names, except in descriptions, whose order the fingerprint covers."""
    document = msgspec.to_builtins(value, order="sorted")
    if isinstance(value, Submission) and value.datasets is not UNSET:
        document["datasets"] = msgspec.to_builtins(value.datasets)
    return json_bytes(document)


def _packed(run: ScoredRun) -> PackedPredictions:
    """The predictions, checked to be those that were scored."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=_PRESET)
    digest, size, packed, ids = hashlib.sha256(), 0, bytearray(), []
    for prediction in Run(run.path).predictions():
        fields = {name: getattr(prediction, name) for name in SubmittedPrediction.__struct_fields__}
        fields = {name: msgspec.to_builtins(value) for name, value in fields.items() if value is not msgspec.UNSET}
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        line = text.encode() + b"\n"
        if len(line) > LONGEST_LINE:
            raise UsageError("runs", run.name, f"has a prediction of {len(line):,} bytes, {prediction.id}, more than "
                             f"{LONGEST_LINE:,}; allow fewer tokens with --max-new-tokens")  # fmt: skip
        digest.update(line)
        size += len(line)
        packed += compressor.compress(line)
        ids.append(prediction.id)
    packed += compressor.flush()
    scored = read_scores_table(run.path, ["id"])["id"].to_pylist()
    expected = run.settings.dataset.samples
    if ids != scored or len(ids) != expected:
        raise UsageError("runs", run.name, f"is not complete: {len(ids):,} predictions and {len(scored):,} scores of "
                         f"{expected:,} samples; finish it with evaluate, then score it")  # fmt: skip
    return PackedPredictions(
        encoding="xz+base64",
        sha256=digest.hexdigest(),
        bytes=size,
        lines=len(ids),
        data=binascii.b2a_base64(packed, newline=False).decode("ascii"),
    )


def _comparison(run: ScoredRun, dense: ScoredRun | None) -> Comparison | None:
    if dense is None:
        return None
    return compared(read_outcomes(dense.path), read_outcomes(run.path), run.settings.dataset.sha256)


# --- what making and checking share -------------------------------------------------------------------------


def compared(dense: Sequence[Outcome], sparse: Sequence[Outcome], dataset_sha256: str) -> Comparison | None:
    """The comparison of a sparse run with a dense one, over the samples of both; None if they share none."""
    if {sample.id for sample in dense}.isdisjoint(sample.id for sample in sparse):
        return None
    sha256 = dataset_sha256
    return compare(dense, sparse, dataset_a=sha256, dataset_b=sha256, common=True, unable=unable(dense_means(dense)))


def dense_partner(run: ScoredRun, runs: Sequence[ScoredRun]) -> ScoredRun | None:
    """The dense run of the same model, data set and kind of prompt; None for a dense run, or if there is none."""
    if run.dense:
        return None
    return next((other for other in runs if other.dense and other.pairing == run.pairing), None)


def clash(runs: Sequence[ScoredRun]) -> Reason | None:
    """The first run that cannot be submitted with the others; None if all can.

    It duplicates another run's settings, is a second dense partner of a sparse run, or its dense run has another model
    of the same name.
    """
    before: dict[str, list[ScoredRun]] = {}
    for run in runs:
        alike = before.setdefault(_identity(run), [])
        other = next((other for other in alike if run.dense or _share_samples(run, other)), None)
        if other is not None:
            message = f"is the same as {other.name}, by model, method and samples; name one of them"
            return Reason(code="run_twice", where=run.name, message=plain(message))
        alike.append(run)
    for run in runs:
        dense = dense_partner(run, runs)
        if dense is not None and dense.settings.model != run.settings.model:
            message = f"is of another model than its dense run {dense.name}, though both are called {run.model}"
            return Reason(code="dense_differs", where=run.name, message=plain(message))
    return None


def _identity(run: ScoredRun) -> str:
    """Everything that determines a run; for dense runs, the key for pairing."""
    settings = run.settings
    more = () if run.dense else (settings.model, settings.attention, settings.engine.name)
    return repr(msgspec.to_builtins((run.dense, run.pairing, more)))


def _share_samples(a: ScoredRun, b: ScoredRun) -> bool:
    of_a, of_b = a.settings.dataset, b.settings.dataset
    return not (set(of_a.tasks).isdisjoint(of_b.tasks) or set(of_a.lengths).isdisjoint(of_b.lengths))


# --- what stays private -------------------------------------------------------------------------------------


def _public_settings(run: ScoredRun) -> PublicSettings:
    """``run.json`` without private paths and addresses."""
    settings = run.settings
    fields = {name: getattr(settings, name) for name in PublicSettings.__struct_fields__}
    arguments, details = (_without_places(part) for part in (settings.engine.arguments, settings.engine.details))
    fields |= {
        "dataset": msgspec.structs.replace(settings.dataset, name=dataset_id(settings)),
        "engine": msgspec.structs.replace(settings.engine, arguments=arguments, details=details),
        **_public(settings),
    }
    return PublicSettings(**fields)


def _public(of: PublicSettings | Result) -> dict[str, ModelRecord | Attention]:
    """Model and attention, without paths and addresses."""
    return {
        "model": msgspec.structs.replace(of.model, name=model_id(of)),
        "attention": msgspec.structs.replace(of.attention, arguments=_without_places(of.attention.arguments)),
    }


_PLACE: Final = re.compile(
    r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s"']+            # an address
    | (?<![\w.~/\\-]) (?:[A-Za-z]:|~[\w.-]*|\.{1,2})? [/\\]+ (?:[^\s"'/\\]+[/\\]+)*  # folders, before a last part""",
    re.VERBOSE,
)


def _without_places(value: Any) -> Any:
    """A value without addresses in its texts, and with only the last part of paths."""
    if isinstance(value, str):
        return _PLACE.sub(lambda match: "(address)" if "://" in match[0] else "", value)
    if isinstance(value, dict):
        return {_without_places(name): _without_places(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return value
