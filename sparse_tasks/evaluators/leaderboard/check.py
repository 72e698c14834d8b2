"""Checks a submission for a keeper who trusts nothing: all that can be computed again is, and the rest has bounds.

Only the submission and the data sets that the keeper names are opened. Nothing in a submission is executed, and no
path or address in it is followed.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from sparse_tasks import __version__
from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.dataset import Dataset, Selection
from sparse_tasks.evaluators.engines.engine import UNKNOWN_ATTENTION
from sparse_tasks.evaluators.leaderboard.echoes import Echoes, too_many
from sparse_tasks.evaluators.leaderboard.plausible import foreign, implausible
from sparse_tasks.evaluators.leaderboard.submission import (
    Reason,
    Submission,
    SubmissionError,
    SubmittedRun,
    clash,
    compared,
    dense_partner,
    parse_submission,
    plain,
    read_file,
)
from sparse_tasks.evaluators.records import ConfigResult, Outcome, Prediction, Result, ScoredSample
from sparse_tasks.evaluators.results import Gold, config_result, run_result, scored_sample

__all__ = ["CODES", "WARNINGS", "Reason", "Verdict", "check"]

CODES: Final = {
    "file": "it is a link, a folder or a device",
    "size": "something is larger, longer or deeper than it may be",
    "json": "it is no JSON, or has a number that is none or a name twice",
    "schema": "it does not have the form of a submission",
    "text": "a text has characters that cannot be shown",
    "samples": "it does not hold so many predictions as were asked for",
    "predictions": "the predictions cannot be unpacked, or are not what their hash says",
    "run_twice": "a run is there twice, or has two dense runs to be compared with",
    "dense_differs": "the dense run is of another model",
    "dataset_unknown": "a run is over none of the data sets that are checked against",
    "dataset_differs": "the settings say of the data set what it is not",
    "sample_missing": "a sample has no prediction",
    "sample_unknown": "a prediction is for no sample that was asked for",
    "sample_twice": "a sample has two predictions",
    "order": "predictions are in another order than the samples",
    "sample_differs": "task, index or length are not those of the sample",
    "tokens": "a prompt or an answer cannot have so many tokens",
    "finish_reason": "an answer ended in a way that is none",
    "settings_differ": "the result is of another run than the settings",
    "scores_differ": "a score is not what the predictions are worth",
    "measures_differ": "a mean of sparsity, tokens or bytes is not that of the predictions",
    "comparison_differs": "the comparison with the dense run is not what the scores give",
    "dense_sparse": "a dense run left something out",
    "sparsity_implausible": "the method cannot have left so much out, or so little",
    "echo": "answers hold the golds of other samples, which their own prompts do not tell",
}
"""Why a submission is refused: every code, and what it means."""

WARNINGS: Final = {
    "version": "another version wrote it",
    "partial": "a run answered a part of the data set",
    "no_dense": "a sparse run has no dense one to be compared with",
    "prompt_differs": "a run and its dense one were not given the same prompts, or not by the same engine",
    "attention_unknown": "an engine ran somewhere else, with who knows what attention",
    "echo": "an answer or two hold the gold of another sample, which may be by chance",
    "method_unknown": "the method is another package's, so that its sparsity has general bounds alone",
    "unmeasured": "the sparsity of a sparse run was not measured on every sample",
}
"""What a keeper may want to know of a submission that is accepted: every code, and what it means."""

_MOST: Final = 20  # reasons, after which nothing more is looked for
_AT_ONCE: Final = 8  # runs that are scored beside each other while the data set is read once
_TOLERANCE: Final = 1e-9
_ENDS: Final = (None, "stop", "length", "content_filter", "tool_calls", "function_call", "repetition")
_OTHER_TOKENIZER: Final = 10  # times as many or as few tokens as another tokenizer may make of a text
_SAMPLE: Final = ("id", "task", "index", "length", "input_tokens", "max_new_tokens")
_GOLD: Final = ("id", "task", "index", "length", "metric", "answers", "answer_prefix")
_ASKED: Final = (*_GOLD, "prompt")
_LONGEST_TOKEN: Final = 256  # characters; vocabularies have runs of 128 blanks
_MEASURES: Final = ("input_tokens", "output_tokens", "sparsity", "sparsity_spread", "kv_bytes_per_step")
_OF_SETTINGS: Final = ("dataset_sha256", "model", "attention", "query_aware", "format", "schema_version", "average_is")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        sha256: Of the file; None where it could not be read.
        name: Of the submission; None where it is none.
        runs: How many runs it holds.
        samples: How many predictions were scored again.
        reasons: Why it is refused, one a run and code, at most some twenty; none where it is accepted.
        warnings: What else a keeper may want to know.
    """

    sha256: str | None
    name: str | None
    runs: int
    samples: int
    reasons: tuple[Reason, ...]
    warnings: tuple[Reason, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """What is written as JSON, by the schema ``verdict-1.0``."""
        return {
            "format": "sparse-tasks-verdict",
            "schema_version": "1.0",
            "accepted": self.accepted,
            "file_sha256": self.sha256,
            "name": self.name,
            "runs": self.runs,
            "samples": self.samples,
            "reasons": [asdict(reason) for reason in self.reasons],
            "warnings": [asdict(warning) for warning in self.warnings],
            "sparse_tasks": __version__,
        }


def check(path: Path, datasets: Sequence[Dataset]) -> Verdict:
    """Check a submission against the data sets that a keeper has.

    Args:
        path: The file.
        datasets: Its runs have to be over one of these.

    Raises:
        UsageError: There is no such file, no data set was named, or one that was is damaged.
    """
    if not datasets:
        raise UsageError("data", "", "names none; name the data sets that submissions may be over")
    sha256 = None
    try:
        content = read_file(path)
        sha256 = hashlib.sha256(content).hexdigest()
        submission = parse_submission(content, path)
        del content
    except SubmissionError as error:
        return Verdict(sha256, None, 0, 0, (error.reason,), ())
    check = _Check(submission, datasets)
    check.all()
    return Verdict(
        sha256,
        submission.name,
        len(submission.runs),
        check.samples,
        check.reasons.listed(),
        check.warnings.listed(),
    )


class _Findings:
    """One finding a run and code: the first of them, and how many more there are."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], Reason] = {}
        self._times: Counter[tuple[str, str]] = Counter()

    def add(self, code: str, run: str, message: str, place: str = "") -> None:
        key = code, run
        if key not in self._first:
            self._first[key] = Reason(code, plain(run + place), plain(message))
        self._times[key] += 1

    @property
    def full(self) -> bool:
        return len(self._first) >= _MOST

    def of(self, run: str) -> bool:
        """Whether there is one of a run."""
        return any(name == run for _, name in self._first)

    def listed(self) -> tuple[Reason, ...]:
        """In the order in which they were found."""
        return tuple(
            Reason(
                one.code, one.where, one.message + (f" (and {more:,} more)" if (more := self._times[key] - 1) else "")
            )
            for key, one in self._first.items()
        )


@dataclass
class _Answered:
    """A run whose predictions are for the right samples, while it is scored.

    Attributes:
        samples: Those it answered, in the data set's order.
        configs: As ``result.json`` has them.
        scores: Of each sample.
        parsed: Whether each had an answer, 0 or 1.
        echoes: A line a sample whose answer holds golds of others.
    """

    run: SubmittedRun
    selection: Selection
    samples: list[dict[str, Any]]
    predictions: Iterator[Prediction]
    configs: list[ConfigResult] = field(default_factory=list)
    scores: array[float] = field(default_factory=lambda: array("d"))
    parsed: bytearray = field(default_factory=bytearray)
    echoes: list[str] = field(default_factory=list)
    _rows: list[ScoredSample] = field(default_factory=list)
    _took: list[Prediction] = field(default_factory=list)

    @property
    def echoing(self) -> bool:
        """Whether there are more echoes than chance explains."""
        return too_many(len(self.echoes), len(self.samples))

    def is_next(self, row: Row) -> bool:
        """Whether this sample of the data set is the one to be scored next."""
        at = len(self.scores)
        return at < len(self.samples) and self.samples[at]["id"] == row["id"]

    def score(self, row: dict[str, Any], prediction: Prediction) -> None:
        """Score a sample; with the first of another task or length, those before it are complete."""
        if self._rows and (self._rows[0].length, self._rows[0].task) != (row["length"], row["task"]):
            self.finish()
        gold = Gold(**{name: row[name] for name in _GOLD}, evidence=[])  # where the evidence lies is in no result
        found = scored_sample(gold, prediction)
        self._rows.append(found)
        self._took.append(msgspec.structs.replace(prediction, text=""))  # texts are long
        self.scores.append(found.score)
        self.parsed.append(found.parsed)

    def finish(self) -> None:
        """All of a task and length was scored."""
        self.configs.append(config_result(self._rows, self._took))
        self._rows, self._took = [], []

    def result(self) -> Result:
        """What ``result.json`` has to be."""
        return run_result(self.run.settings, self.selection, self.configs)

    def rows(self) -> list[Outcome]:
        """As ``compare`` takes them."""
        return [
            Outcome(id=row["id"], task=row["task"], length=row["length"], score=score, parsed=bool(parsed))
            for row, score, parsed in zip(self.samples, self.scores, self.parsed, strict=True)
        ]


class _Check:
    """The check of one submission."""

    def __init__(self, submission: Submission, datasets: Sequence[Dataset]) -> None:
        self.submission = submission
        self.datasets = {dataset.sha256: dataset for dataset in datasets}
        self.reasons, self.warnings = _Findings(), _Findings()
        self.samples = 0
        self._listed: dict[tuple[str, Selection], list[dict[str, Any]]] = {}
        self._golds: dict[str, Echoes] = {}
        self._answered: dict[str, _Answered] = {}

    def all(self) -> None:
        """Every step; a run that fails in one is not looked at in the next."""
        runs = self.submission.runs
        if self.submission.sparse_tasks != __version__:
            self.warnings.add(
                "version", "file", f"sparse-tasks {self.submission.sparse_tasks} wrote it; this is {__version__}"
            )
        if (wrong := clash(runs)) is not None:
            self.reasons.add(wrong.code, wrong.where, wrong.message)
        for run in runs:
            if self.reasons.full:
                return
            self._answers(run)
        for sha256, dataset in self.datasets.items():
            answered = [one for one in self._answered.values() if one.run.settings.dataset.sha256 == sha256]
            for start in range(0, len(answered), _AT_ONCE):
                if self.reasons.full:
                    return
                self._score(dataset, answered[start : start + _AT_ONCE])
        for run in runs:
            if self.reasons.full:
                return
            self._compare(run)

    # --- the right samples ----------------------------------------------------------------------------------

    def _answers(self, run: SubmittedRun) -> None:
        """Whether a run is over a data set that is known, and answered its samples, each once and in order."""
        dataset = self.datasets.get(run.settings.dataset.sha256)
        if dataset is None:
            known = ", ".join(dataset.name for dataset in self.datasets.values())
            self.reasons.add(
                "dataset_unknown", run.name, f"is over a data set that is not {known}", ".settings.dataset"
            )
            return
        selection = self._selection(run, dataset)
        if selection is None:
            return
        asked = run.settings.attention
        if run.dense and (asked.sparsity or asked.arguments):
            self.reasons.add(
                "dense_sparse", run.name, "says that attention was dense, and sparse", ".settings.attention"
            )
            return
        samples = self._samples(dataset, selection)
        self._warn(run, dataset, selection)
        if self._same_samples(run, samples):
            self._answered[run.name] = _Answered(run, selection, samples, run.predictions())

    def _selection(self, run: SubmittedRun, dataset: Dataset) -> Selection | None:
        """What a run was asked for; None where its settings say what the data set is not."""
        said, request, prompt = run.settings.dataset, dataset.manifest["request"], run.settings.prompt
        for part, there in (("tasks", list(request["tasks"])), ("lengths", request["lengths"])):
            # In another order, they would be another run's.
            named = getattr(said, part)
            if named != [one for one in there if one in named]:
                listed = ", ".join(map(str, there))
                message = f"has {part} {named}; choose from {listed}, in this order"
                self.reasons.add("dataset_differs", run.name, message, f".settings.dataset.{part}")
                return None
        selection = Selection(tuple(said.tasks), tuple(said.lengths), said.limit)
        of_each = min(request["samples"], selection.limit or request["samples"])
        facts: list[tuple[str, Any, Any]] = [
            ("dataset.samples", said.samples, len(selection.tasks) * len(selection.lengths) * of_each),
            ("dataset.fingerprint", said.fingerprint, dataset.manifest["fingerprint"]),
            ("query_aware", run.settings.query_aware, request["question_position"] == "both"),
        ]
        if prompt.as_generated:
            template = dataset.manifest["chat_template"]
            facts += [
                ("prompt.tokenizer_sha256", prompt.tokenizer_sha256, dataset.manifest["tokenizer"]["sha256"]),
                ("prompt.chat_template_sha256", prompt.chat_template_sha256, template and template["sha256"]),
            ]
        for place, says, is_ in facts:
            if says != is_:
                self.reasons.add(
                    "dataset_differs", run.name, f"is {says!r}; by the data set {is_!r}", f".settings.{place}"
                )
                return None
        return selection

    def _samples(self, dataset: Dataset, selection: Selection) -> list[dict[str, Any]]:
        """The samples of a selection, without what is long."""
        key = dataset.sha256, selection
        if key not in self._listed:
            rows = list(_rows(dataset, selection, _SAMPLE))
            if len({row["id"] for row in rows}) < len(rows):
                raise UsageError("data", dataset.name, "has an id twice; run sparse-tasks validate")
            self._listed[key] = rows
        return self._listed[key]

    def _warn(self, run: SubmittedRun, dataset: Dataset, selection: Selection) -> None:
        request, method = dataset.manifest["request"], run.settings.attention.method
        whole = _whole(dataset)
        if selection.limit is not None and selection.limit < request["samples"]:
            self.warnings.add("partial", run.name, f"answered {selection.limit} of {request['samples']} samples a task")
        elif (selection.tasks, selection.lengths) != (whole.tasks, whole.lengths):
            tasks = f"{len(selection.tasks)} of {len(whole.tasks)} tasks"
            self.warnings.add(
                "partial", run.name, f"answered {tasks}, {len(selection.lengths)} of {len(whole.lengths)} lengths"
            )
        if method == UNKNOWN_ATTENTION.method:
            self.warnings.add("attention_unknown", run.name, f"was made by {run.settings.engine.name}")
        elif not run.dense:
            if others := foreign(method):
                self.warnings.add("method_unknown", run.name, f"has the method {others[0]!r}, which is not ours")
            dense = dense_partner(run, self.submission.runs)
            if dense is None:
                self.warnings.add("no_dense", run.name, "has no dense run of its model and sampling beside it")
            elif any(
                getattr(dense.settings, part) != getattr(run.settings, part) for part in ("prompt", "query_aware")
            ) or (dense.settings.engine.name != run.settings.engine.name):
                self.warnings.add("prompt_differs", run.name, f"and {dense.name} differ in engine or prompt")

    def _same_samples(self, run: SubmittedRun, samples: list[dict[str, Any]]) -> bool:
        """Whether the predictions are for these samples; all that can be said of one without its prompt is said."""
        by_id = {row["id"]: row for row in samples}
        ids: dict[str, None] = {}
        place = ".predictions"
        try:
            for prediction in run.predictions():
                name = prediction.id
                if name not in by_id:
                    self.reasons.add("sample_unknown", run.name, f"{name!r} is no sample that was asked for", place)
                elif name in ids:
                    self.reasons.add("sample_twice", run.name, f"{name!r} is there twice", place)
                else:
                    ids[name] = None
                    self._one(run, to_builtins(prediction), by_id[name])
        except SubmissionError as error:
            self.reasons.add(
                error.reason.code, run.name, error.reason.message, error.reason.where.removeprefix(run.name)
            )
            return False
        if missing := [name for name in by_id if name not in ids]:
            more = f", nor have {len(missing) - 1:,} more" if len(missing) > 1 else ""
            self.reasons.add("sample_missing", run.name, f"{missing[0]!r} has no prediction{more}", place)
        elif (at := next((i for i, (a, b) in enumerate(zip(ids, by_id, strict=True)) if a != b), None)) is not None:
            wanted = next(islice(by_id, at, None))
            self.reasons.add("order", run.name, f"line {at + 1} is not {wanted!r}, as in the data set", place)
        return not self.reasons.of(run.name)

    def _one(self, run: SubmittedRun, prediction: Row, row: Row) -> None:
        """What can be said of a prediction without what was asked."""
        settings, place = to_builtins(run.settings), ".predictions"
        name = row["id"]
        for part in ("task", "index", "length"):
            if prediction[part] != row[part]:
                what = f"{name!r} has {part} {prediction[part]!r}, and the sample {row[part]!r}"
                self.reasons.add("sample_differs", run.name, what, place)
        if prediction["finish_reason"] not in _ENDS:
            what = f"{name!r} ended with {prediction['finish_reason']!r}; known are stop, length and a few more"
            self.reasons.add("finish_reason", run.name, what, place)
        if wrong := _wrong_tokens(settings, prediction, row):
            self.reasons.add("tokens", run.name, f"{name!r} {wrong}", place)
        measured = prediction["sparsity"]
        if run.dense and any((measured or {}).values()):
            self.reasons.add(
                "dense_sparse", run.name, f"{name!r} has sparsity {measured}, and attention was dense", place
            )
        elif wrong := implausible(settings, prediction, row):
            self.reasons.add("sparsity_implausible", run.name, f"{name!r} {wrong}", place)
        if not run.dense and measured is None and settings["attention"]["method"] != UNKNOWN_ATTENTION.method:
            self.warnings.add("unmeasured", run.name, f"{name!r} has no measured sparsity", place)

    # --- the right scores -----------------------------------------------------------------------------------

    def _score(self, dataset: Dataset, answered: Sequence[_Answered]) -> None:
        """Score runs beside each other, so that the prompts are read once for all of them."""
        selection = _union(dataset, [one.selection for one in answered])
        echoes = self._echoes(dataset)
        for row in _rows(dataset, selection, _ASKED):
            for one in answered:
                if one.is_next(row):
                    prediction = next(one.predictions)
                    one.score(row, prediction)
                    self.samples += 1
                    # Where there are too many already, no more are looked for.
                    if not one.echoing and (golds := echoes.look(row, prediction.text)):
                        one.echoes.append(f"{row['id']!r} says {golds[0]!r}, which is of another sample")
        for one in answered:
            one.finish()
            self._same_result(one)
            if one.echoes:
                findings = self.reasons if one.echoing else self.warnings
                for echo in one.echoes:
                    findings.add("echo", one.run.name, echo, ".predictions")

    def _echoes(self, dataset: Dataset) -> Echoes:
        """The golds of a data set, all of them: a run over a part may hold those of another."""
        if dataset.sha256 not in self._golds:
            self._golds[dataset.sha256] = Echoes(_rows(dataset, _whole(dataset), ("id", "answers")))
        return self._golds[dataset.sha256]

    def _same_result(self, one: _Answered) -> None:
        for path, says, is_ in _differences(to_builtins(one.run.result), to_builtins(one.result())):
            head, _, last = path.rpartition(".")
            code = (
                "settings_differ"
                if path.partition(".")[0] in _OF_SETTINGS
                else "measures_differ"
                if last in _MEASURES or head.endswith(("sparsity", "sparsity_spread"))
                else "scores_differ"
            )
            self.reasons.add(code, one.run.name, f"is {says!r}; by the predictions {is_!r}", f".result.{path}")

    def _compare(self, run: SubmittedRun) -> None:
        """Whether the comparison with the dense run is what both runs' scores give."""
        dense = dense_partner(run, self.submission.runs)
        found: dict[str, Any] | None = None
        if dense is not None:
            a, b = self._answered.get(dense.name), self._answered.get(run.name)
            if a is None or b is None:
                return  # refused for that already
            found = compared(a.rows(), b.rows(), run.settings.dataset.sha256)
        if (run.comparison is None) != (found is None):
            what = "is missing" if run.comparison is None else "is there, and no dense run that it could be with"
            self.reasons.add("comparison_differs", run.name, what, ".comparison")
            return
        for path, says, is_ in _differences(run.comparison, found):
            place = f".comparison.{path}" if path else ".comparison"
            self.reasons.add("comparison_differs", run.name, f"is {says!r}; by the scores {is_!r}", place)


# --- the pieces ---------------------------------------------------------------------------------------------


def _rows(dataset: Dataset, selection: Selection, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a selection; that the keeper's own data set is damaged is no fault of the submission."""
    try:
        yield from dataset.rows(selection, columns)
    except DataError as error:
        raise UsageError("data", dataset.name, f"cannot be checked against: {error}") from error


def _whole(dataset: Dataset) -> Selection:
    """All of a data set; ``Dataset.select`` knows groups of tasks, and loads every task for it."""
    request = dataset.manifest["request"]
    return Selection(tuple(request["tasks"]), tuple(request["lengths"]), None)


def _union(dataset: Dataset, selections: Sequence[Selection]) -> Selection:
    """The least selection that holds all of several."""
    whole = _whole(dataset)
    limits = [selection.limit for selection in selections if selection.limit is not None]
    return Selection(
        tuple(task for task in whole.tasks if any(task in one.tasks for one in selections)),
        tuple(length for length in whole.lengths if any(length in one.lengths for one in selections)),
        max(limits) if len(limits) == len(selections) else None,
    )


def _wrong_tokens(settings: Mapping[str, Any], prediction: Row, row: Row) -> str | None:
    """What a prediction says of tokens that cannot be."""
    read, written = prediction["input_tokens"], prediction["output_tokens"]
    if read is not None:
        if settings["prompt"]["as_generated"] and read != row["input_tokens"]:
            return f"has a prompt of {read:,} tokens, and the sample {row['input_tokens']:,}"
        if not row["input_tokens"] / _OTHER_TOKENIZER <= read <= row["input_tokens"] * _OTHER_TOKENIZER:
            return f"has a prompt of {read:,} tokens, and by the data set's tokenizer {row['input_tokens']:,}"
    budget = settings["sampling"]["max_new_tokens"] or row["max_new_tokens"]
    if written is not None:
        if written > budget:
            return f"has an answer of {written:,} tokens, and {budget:,} were asked for at most"
        if (characters := len(prediction["text"])) > _LONGEST_TOKEN * written:
            return f"has an answer of {written:,} tokens, and {characters:,} characters"
    return None


def _differences(says: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ, numbers by more than rounding: the place, and both."""
    if isinstance(says, dict) and isinstance(found, dict):
        for name in dict.fromkeys([*found, *says]):
            inner = f"{path}.{name}" if path else name
            yield from _differences(says.get(name), found.get(name), inner)
    elif isinstance(says, list) and isinstance(found, list) and len(says) == len(found):
        for number, (one, other) in enumerate(zip(says, found, strict=True)):
            yield from _differences(one, other, f"{path}[{number}]")
    elif _is_number(says) and _is_number(found):
        if not math.isclose(says, found, rel_tol=_TOLERANCE, abs_tol=1e-12):
            yield path, says, found
    elif says != found or type(says) is not type(found):
        yield path, says, found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
