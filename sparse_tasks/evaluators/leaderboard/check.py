"""Check of an untrusted submission: it recomputes what it can, and bounds the rest.

Only the submission and the data sets that the maintainer names are opened; without them, those of the submission are
generated again. Nothing in a submission is executed, and no path or address in it is followed.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from sparse_tasks import __version__
from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.beginning import ANSWER
from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.records import Description, Record, to_builtins
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.evaluators.ability import ABLE, describe_places, unable
from sparse_tasks.evaluators.dataset import Dataset, Selection
from sparse_tasks.evaluators.leaderboard.echoes import Echoes, too_many
from sparse_tasks.evaluators.leaderboard.plausible import contradiction, foreign, implausible
from sparse_tasks.evaluators.leaderboard.reading import (
    SubmissionError,
    SubmissionFile,
    SubmittedRun,
    entry,
    parse_submission,
    plain,
    read_file,
)
from sparse_tasks.evaluators.leaderboard.regenerated import (
    FromManifest,
    Regenerated,
    Watch,
    described,
    refused,
    regenerated,
)
from sparse_tasks.evaluators.leaderboard.submission import clash, compared, dense_partner
from sparse_tasks.evaluators.records import (
    Comparison,
    ConfigResult,
    Outcome,
    Prediction,
    PublicSettings,
    Reason,
    ScoredSample,
    Verdict,
)
from sparse_tasks.evaluators.results import Gold, Opened, config_result, run_result, scored_sample
from sparse_tasks.evaluators.thinking import FAMILIES, opened_by
from sparse_tasks.generators.again import Means
from sparse_tasks.generators.dataset import fingerprint

_MOST: Final = 20  # reasons, after which the check stops
_AT_ONCE: Final = 8  # runs scored together in one pass over the data set
_TOLERANCE: Final = 1e-9
_FINISH_REASONS: Final = (None, "stop", "length", "content_filter", "tool_calls", "function_call", "repetition")
_OTHER_TOKENIZER: Final = 10  # factor by which token counts of another tokenizer may differ
_LONGEST_TOKEN: Final = 256  # characters; vocabularies have runs of 128 blanks
_MEASURES: Final = (
    *("input_tokens", "output_tokens", "thinking_tokens", "answer_tokens"),
    *("sparsity", "sparsity_spread", "kv_bytes_per_step"),
)
# Fields that results of older versions lack.
_NOT_IN_OLDER: Final = ("ambiguous", "read_by", "thinking_tokens", "answer_tokens", "cut_thinking")
_OF_SETTINGS: Final = (
    "dataset_sha256",
    "model",
    "attention",
    "query_aware",
    "compress",
    "begin_answer",
    "format",
    "schema_version",
    "average_is",
)

R = TypeVar("R", bound=Record)


class _Sample(Record, frozen=True, kw_only=True):
    """A sample without its texts."""

    id: str
    task: str
    index: int
    length: int
    input_tokens: int
    max_new_tokens: int


class _Golds(Record, frozen=True, kw_only=True):
    """The gold answers of a sample."""

    id: str
    answers: list[str]


class _Question(Gold, frozen=True, kw_only=True):
    """The gold of a sample with its prompt."""

    prompt: str


def check(
    path: Path, datasets: Sequence[Dataset | FromManifest] = (), means: Means | None = None, watch: Watch | None = None
) -> Verdict:
    """Check a submission against a maintainer's data sets, or else against those that it describes.

    Args:
        path: The file.
        datasets: Its runs must be over one of these; none: their data sets are generated again.
        means: What is available for that; None: what is in the caches.
        watch: Is notified of the samples that are generated.

    Raises:
        UsageError: The file does not exist, or a data set is damaged.
        OutputError: There is no space for the generated data sets.
    """
    sha256 = None
    try:
        content = read_file(path)
        sha256 = hashlib.sha256(content).hexdigest()
        submission = parse_submission(content, path)
        del content
    except SubmissionError as error:
        return Verdict(
            format="sparse-tasks-verdict",
            schema_version="1.0",
            accepted=False,
            file_sha256=sha256,
            name=None,
            runs=0,
            samples=0,
            reasons=[error.reason],
            warnings=[],
            sparse_tasks=__version__,
        )
    with nullcontext() if datasets else regenerated(submission, means or Means(), watch or Watch()) as made:
        check = _checked(submission, datasets, made)
    reasons = check.reasons.listed()
    return Verdict(
        format="sparse-tasks-verdict",
        schema_version="1.0",
        accepted=not reasons,
        file_sha256=sha256,
        name=submission.content.name,
        runs=len(submission.runs),
        samples=check.samples,
        reasons=reasons,
        warnings=check.warnings.listed(),
        sparse_tasks=__version__,
    )


def foreseen(content: bytes, path: Path, datasets: Sequence[Dataset]) -> list[Reason]:
    """Reasons for which every check would refuse a submission that is about to be made.

    Args:
        content: The submission.
        path: The file that it will be.
        datasets: The available ones; for runs over others, only the settings are checked.

    Raises:
        UsageError: A data set is damaged.
        SubmissionError: It is not a submission.
    """
    reasons = _checked(parse_submission(content, path), datasets).reasons.listed()
    return [reason for reason in reasons if reason.code != "dataset_unknown"]


def _checked(
    submission: SubmissionFile, datasets: Sequence[Dataset | FromManifest], made: Regenerated | None = None
) -> _Check:
    check = _Check(submission, datasets, made)
    check.all()
    return check


class _Findings:
    """Findings by run and code: the first of each, and how many more there are."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], Reason] = {}
        self._times: Counter[tuple[str, str]] = Counter()

    def add(self, code: str, run: str, message: str, place: str = "") -> None:
        key = code, run
        if key not in self._first:
            where = f"{run}: {place}" if place else run
            self._first[key] = Reason(code=code, where=plain(where), message=plain(message))
        self._times[key] += 1

    @property
    def full(self) -> bool:
        return len(self._first) >= _MOST

    def of(self, run: str) -> bool:
        """Whether a run has findings."""
        return any(name == run for _, name in self._first)

    def listed(self) -> list[Reason]:
        """In the order of discovery."""
        return [
            msgspec.structs.replace(first, message=f"{first.message} (and {more:,} more)") if more else first
            for key, first in self._first.items()
            for more in [self._times[key] - 1]
        ]


@dataclass(frozen=True)
class _Samples:
    """The samples of a selection, without their prompts, in the data set's order."""

    selection: Selection
    rows: list[_Sample]
    numbers: dict[str, int]


@dataclass
class _Answered:
    """A run whose predictions are read and scored once, in step with the data set's rows.

    Attributes:
        numbers: Numbers of the samples that the predictions are for, in the predictions' order.
        read: Predictions read so far.
        damaged: Whether the predictions could not be read to their end.
        configs: Results of the tasks and lengths that are complete.
        scores: Of each sample.
        parsed: Whether each had an answer, 0 or 1.
        echoes: A line for each sample whose answer contains golds of others.
    """

    run: SubmittedRun
    dataset: Dataset
    samples: _Samples
    predictions: Iterator[Prediction]
    numbers: dict[int, None] = field(default_factory=dict)
    read: int = 0
    damaged: bool = False
    configs: list[ConfigResult] = field(default_factory=list)
    scores: array[float] = field(default_factory=lambda: array("d"))
    parsed: bytearray = field(default_factory=bytearray)
    echoes: list[str] = field(default_factory=list)
    _scored: list[ScoredSample] = field(default_factory=list)
    _predictions: list[Prediction] = field(default_factory=list)

    @property
    def echoing(self) -> bool:
        """Whether there are more echoes than chance explains."""
        return too_many(len(self.echoes), len(self.samples.rows))

    def expects(self, question: _Question) -> bool:
        """Whether this is the sample that the next prediction should be for."""
        return self.read < len(self.samples.rows) and self.samples.rows[self.read].id == question.id

    def score(self, question: _Question, prediction: Prediction) -> None:
        """Score a sample; with the first of another task or length, those before it are complete."""
        if self._scored and (self._scored[0].length, self._scored[0].task) != (question.length, question.task):
            self.finish_config()
        settings = self.run.settings
        opened = Opened(self.dataset.begins_answer, settings.begins_answer, settings.thoughts)
        scored = scored_sample(question, prediction, opened)
        self._scored.append(scored)
        self._predictions.append(msgspec.structs.replace(prediction, text=""))  # the measurements alone
        self.scores.append(scored.score)
        self.parsed.append(scored.parsed)

    def finish_config(self) -> None:
        """Compute the result of a task at a length, once all its samples were scored."""
        self.configs.append(config_result(self._scored, self._predictions))
        self._scored, self._predictions = [], []

    def outcomes(self) -> list[Outcome]:
        """Scores in the form for ``compare``."""
        return [
            Outcome(id=sample.id, task=sample.task, length=sample.length, score=score, parsed=bool(parsed))
            for sample, score, parsed in zip(self.samples.rows, self.scores, self.parsed, strict=True)
        ]


class _Check:
    """The check of one submission."""

    def __init__(
        self, submission: SubmissionFile, datasets: Sequence[Dataset | FromManifest], regenerated: Regenerated | None
    ) -> None:
        self.submission = submission
        self.datasets, self.regenerated = datasets, regenerated
        self.described = described(submission)
        self.reasons, self.warnings = _Findings(), _Findings()
        self.samples = 0
        self._selected: dict[tuple[str, Selection], _Samples] = {}
        self._golds: dict[str, Echoes] = {}
        self._answered: dict[str, _Answered] = {}

    def all(self) -> None:
        """Run every step; a run that fails one skips the next."""
        runs, version = self.submission.runs, self.submission.content.sparse_tasks
        if version != __version__:
            self.warnings.add("version", "file", f"sparse-tasks {version} wrote it; this is {__version__}")
        if (problem := clash(runs)) is not None:
            self.reasons.add(problem.code, problem.where, problem.message)
        started: list[_Answered] = []
        for run in runs:
            if self.reasons.full:
                return
            started += self._started(run)
        for dataset in {each.dataset.sha256: each.dataset for each in started}.values():
            of_dataset = [each for each in started if each.dataset.sha256 == dataset.sha256]
            for start in range(0, len(of_dataset), _AT_ONCE):
                if self.reasons.full:
                    return
                self._score(dataset, of_dataset[start : start + _AT_ONCE])
        for run in runs:
            if self.reasons.full:
                return
            self._compare(run)

    # --- the settings ---------------------------------------------------------------------------------------

    def _started(self, run: SubmittedRun) -> list[_Answered]:
        """The run, ready to be read; nothing if its settings are wrong or its data set is unknown."""
        settings = run.settings
        if run.dense and (settings.attention.sparsity or settings.attention.arguments):
            message = "says that attention was dense, and sparse"
            self.reasons.add("dense_sparse", run.name, message, "settings.attention")
            return []
        if controls := settings.attention.controls:
            message = f"is under {controls[0]}, a control for comparison, which a board does not rank"
            self.reasons.add("control", run.name, message, "settings.attention")
            return []
        if impossible := contradiction(settings):
            self.reasons.add("sparsity_implausible", run.name, impossible, "settings")
            return []
        try:
            # Cheap checks come before anything that needs generated data.
            selection = self._selection(run, self._description(run))
            if selection is None:
                return []
            dataset = self._dataset(run)
        except SubmissionError as error:
            self._refuse(run, error)
            return []
        self._warn(run, dataset, selection)
        return [_Answered(run, dataset, self._samples(dataset, selection), run.predictions())]

    def _description(self, run: SubmittedRun) -> Description:
        """The description of a run's data set.

        Raises:
            SubmissionError: It is unknown.
        """
        return self._named(run).manifest if self.regenerated is None else self.regenerated.description(run)

    def _dataset(self, run: SubmittedRun) -> Dataset:
        """The data set of a run with a description."""
        if self.regenerated is not None:
            return self.regenerated.dataset(run)
        found = self._named(run)
        return found.dataset if isinstance(found, FromManifest) else found

    def _named(self, run: SubmittedRun) -> Dataset | FromManifest:
        """The data set of a run, among those that the maintainer named."""
        found = next((each for each in self.datasets if each.is_called(run.settings.dataset.sha256)), None)
        if found is None:
            known = ", ".join(each.name for each in self.datasets)
            raise refused("dataset_unknown", run, f"is over a data set that is not {known}")
        return found

    def _selection(self, run: SubmittedRun, description: Description) -> Selection | None:
        """The samples that a run selects; None if its settings contradict the data set."""
        claimed, prompt, request = run.settings.dataset, run.settings.prompt, description.request
        begun = request.begin_answer is True
        for part, values, available in (
            ("tasks", claimed.tasks, list(request.tasks)),
            ("lengths", claimed.lengths, request.lengths),
        ):
            # Another order means another run.
            if values != [value for value in available if value in values]:
                message = f"has {part} {values}; choose from {', '.join(map(str, available))}, in this order"
                self.reasons.add("dataset_differs", run.name, message, f"settings.dataset.{part}")
                return None
        of_each = min(request.samples, claimed.limit or request.samples)
        facts: list[tuple[str, object, object]] = [
            ("dataset.samples", claimed.samples, len(claimed.tasks) * len(claimed.lengths) * of_each),
            ("dataset.fingerprint", claimed.fingerprint, self._fingerprint(claimed.fingerprint, description)),
            ("query_aware", run.settings.query_aware, request.question_position == "both"),
            # If the question also precedes the context, nothing can be chosen before it is seen.
            *([("compress", run.settings.compresses, "prompt")] if request.question_position == "both" else []),
        ]
        if prompt.as_generated:
            template = description.chat_template
            facts += [
                ("prompt.tokenizer_sha256", prompt.tokenizer_sha256, description.tokenizer.sha256),
                ("prompt.begin_answer", run.settings.begins_answer, begun),
                ("prompt.chat_template_sha256", prompt.chat_template_sha256, template and template.sha256),
            ]
            if run.settings.thinking is not msgspec.UNSET:
                thoughts = run.settings.thoughts
                facts.append(("thinking.opened", thoughts.opened, _opened(description, thoughts.tags)))
        for place, value, expected in facts:
            if value != expected:
                message = f"is {value!r}; by the data set {expected!r}"
                self.reasons.add("dataset_differs", run.name, message, f"settings.{place}")
                return None
        return Selection(tuple(claimed.tasks), tuple(claimed.lengths), claimed.limit)

    def _fingerprint(self, claimed: str, description: Description) -> str:
        """The fingerprint that a run over a data set has: also that of other libraries, which made the same of it."""
        other = self.described.get(claimed)
        same = other is not None and _asked(other) == _asked(description)
        return claimed if same else fingerprint(to_builtins(description))

    def _samples(self, dataset: Dataset, selection: Selection) -> _Samples:
        key = dataset.sha256, selection
        if key not in self._selected:
            rows = list(_read(dataset, selection, _Sample))
            numbers = {row.id: number for number, row in enumerate(rows)}
            if len(numbers) < len(rows):
                raise UsageError("data", dataset.name, "has an id twice; run sparse-tasks validate")
            self._selected[key] = _Samples(selection, rows, numbers)
        return self._selected[key]

    def _warn(self, run: SubmittedRun, dataset: Dataset, selection: Selection) -> None:
        request, settings = dataset.manifest.request, run.settings
        whole = _whole(dataset)
        if others := [name for name in FAMILIES if name not in settings.thoughts.tags]:
            message = f"does not take marks of {', '.join(others)} for thought, so that a draft may count there"
            self.warnings.add("thinking_tags", run.name, message)
        if selection.limit is not None and selection.limit < request.samples:
            self.warnings.add("partial", run.name, f"answered {selection.limit} of {request.samples} samples a task")
        elif (selection.tasks, selection.lengths) != (whole.tasks, whole.lengths):
            tasks = f"{len(selection.tasks)} of {len(whole.tasks)} tasks"
            lengths = f"{len(selection.lengths)} of {len(whole.lengths)} lengths"
            self.warnings.add("partial", run.name, f"answered {tasks}, {lengths}")
        if _unknown(settings):
            self.warnings.add("attention_unknown", run.name, f"was made by {settings.engine.name}")
        elif not run.dense:
            if others := foreign(settings.attention.method):
                self.warnings.add("method_unknown", run.name, f"has the method {others[0]!r}, which is not ours")
            dense = dense_partner(run, self.submission.runs)
            if dense is None:
                self.warnings.add("no_dense", run.name, "has no dense run of its model and sampling beside it")
            elif _prompting(dense.settings) != _prompting(settings):
                self.warnings.add("prompt_differs", run.name, f"and {dense.name} differ in engine or prompt")

    # --- the predictions ------------------------------------------------------------------------------------

    def _score(self, dataset: Dataset, batch: Sequence[_Answered]) -> None:
        """Read and score runs together, so that prompts are read only once."""
        echoes = self._echoes(dataset)
        for question in _read(dataset, _union(dataset, [each.samples.selection for each in batch]), _Question):
            for answered in batch:
                if answered.expects(question):
                    self._take(answered, question, echoes)
        for answered in batch:
            self._finish(answered)

    def _take(self, answered: _Answered, question: _Question, echoes: Echoes) -> None:
        """Read a run's next prediction, which should be for this sample, and score it if it is."""
        run, number = answered.run, answered.read
        answered.read += 1
        if (prediction := self._next(answered)) is None:
            return
        of = answered.samples.numbers.get(prediction.id)
        if of is None:
            message = f"{prediction.id!r} is not a sample that the run selects"
            self.reasons.add("sample_unknown", run.name, message, "predictions")
        elif of in answered.numbers:
            self.reasons.add("sample_twice", run.name, f"{prediction.id!r} occurs twice", "predictions")
        else:
            answered.numbers[of] = None
            self._check_prediction(run, prediction, answered.samples.rows[of])
            answers = 0 if prediction.turns is msgspec.UNSET else len(prediction.turns)
            if of == number and answers != len(question.turns):
                message = f"{prediction.id!r} answers {max(1, answers)} questions of {max(1, len(question.turns))}"
                self.reasons.add("turns", run.name, message, "predictions")
            if of == number and not self.reasons.of(run.name):
                answered.score(question, prediction)
                # Stop searching once there are too many.
                if not answered.echoing and (golds := echoes.look(question, prediction.text)):
                    answered.echoes.append(f"{prediction.id!r} says {golds[0]!r}, which is of another sample")

    def _next(self, answered: _Answered) -> Prediction | None:
        try:
            return next(answered.predictions, None)
        except SubmissionError as error:
            self._refuse(answered.run, error)
            answered.damaged = True
            return None  # as for all later ones: a generator that has raised is exhausted

    def _refuse(self, run: SubmittedRun, error: SubmissionError) -> None:
        reason = error.reason
        self.reasons.add(reason.code, run.name, reason.message, reason.where.removeprefix(f"{run.name}: "))

    def _check_prediction(self, run: SubmittedRun, prediction: Prediction, sample: _Sample) -> None:
        """All checks of a prediction that do not need its prompt."""
        settings, name, place = run.settings, prediction.id, "predictions"
        for part in ("task", "index", "length"):
            if (value := getattr(prediction, part)) != (expected := getattr(sample, part)):
                message = f"{name!r} has {part} {value!r}, and the sample {expected!r}"
                self.reasons.add("sample_differs", run.name, message, place)
        if prediction.finish_reason not in _FINISH_REASONS:
            message = f"{name!r} has finish reason {prediction.finish_reason!r}; known are stop, length and a few more"
            self.reasons.add("finish_reason", run.name, message, place)
        if problem := _wrong_tokens(settings, prediction, sample):
            self.reasons.add("tokens", run.name, f"{name!r} {problem}", place)
        if run.dense and any((prediction.sparsity or {}).values()):
            message = f"{name!r} has sparsity {prediction.sparsity}, and attention was dense"
            self.reasons.add("dense_sparse", run.name, message, place)
        elif problem := implausible(settings, prediction, sample):
            self.reasons.add("sparsity_implausible", run.name, f"{name!r} {problem}", place)
        if not run.dense and prediction.sparsity is None and not _unknown(settings):
            self.warnings.add("unmeasured", run.name, f"{name!r} has no measured sparsity", place)

    def _finish(self, answered: _Answered) -> None:
        """Finish a run: check that its predictions were complete and in order, and its result."""
        run, rows = answered.run, answered.samples.rows
        self._next(answered)  # number and hash are checked at the end
        if not answered.damaged:
            self._check_complete(run, rows, list(answered.numbers))
        if self.reasons.of(run.name):
            return
        answered.finish_config()
        self.samples += len(answered.scores)
        self._answered[run.name] = answered
        self._check_result(answered)
        means = {(config.length, config.task): config.mean for config in answered.configs}
        if run.dense and (failed := unable(means)):
            places = describe_places(failed)
            message = f"scores below {ABLE:g} with dense attention: {places}; nothing is concluded from these"
            self.warnings.add("unable", run.name, message)
        findings = self.reasons if answered.echoing else self.warnings
        for echo in answered.echoes:
            findings.add("echo", run.name, echo, "predictions")

    def _check_complete(self, run: SubmittedRun, rows: Sequence[_Sample], numbers: Sequence[int]) -> None:
        missing = [rows[number].id for number in sorted(set(range(len(rows))).difference(numbers))]
        at = next((i for i, number in enumerate(numbers) if number != i), None)
        if missing:
            more = f", nor have {len(missing) - 1:,} more" if len(missing) > 1 else ""
            self.reasons.add("sample_missing", run.name, f"{missing[0]!r} has no prediction{more}", "predictions")
        elif at is not None:
            message = f"line {at + 1} is not {rows[at].id!r}, as in the data set"
            self.reasons.add("order", run.name, message, "predictions")

    def _echoes(self, dataset: Dataset) -> Echoes:
        """All golds of a data set: a run over a part may contain those of another part."""
        if dataset.sha256 not in self._golds:
            self._golds[dataset.sha256] = Echoes(
                (row.id, row.answers) for row in _read(dataset, _whole(dataset), _Golds)
            )
        return self._golds[dataset.sha256]

    # --- the scores -----------------------------------------------------------------------------------------

    def _check_result(self, answered: _Answered) -> None:
        run = answered.run
        expected = run_result(run.settings, answered.samples.selection, answered.configs)
        for path, value, right in _differences(run.result, expected):
            head, _, last = path.rpartition(".")
            if value is None and last in _NOT_IN_OLDER:
                continue
            if path.partition(".")[0] in _OF_SETTINGS:
                code = "settings_differ"
            elif last in _MEASURES or head.endswith(("sparsity", "sparsity_spread")):
                code = "measures_differ"
            else:
                code = "scores_differ"
            self.reasons.add(code, run.name, f"is {value!r}; by the predictions {right!r}", f"result.{path}")

    def _compare(self, run: SubmittedRun) -> None:
        """Check that the comparison with the dense run follows from both runs' scores."""
        dense = dense_partner(run, self.submission.runs)
        expected: Comparison | None = None
        if dense is not None:
            a, b = self._answered.get(dense.name), self._answered.get(run.name)
            if a is None or b is None:
                return  # already refused
            expected = compared(a.outcomes(), b.outcomes(), run.settings.dataset.sha256)
        if run.comparison is None or expected is None:
            if run.comparison is not expected:
                message = "is missing" if expected is not None else "is there, without a dense run to compare with"
                self.reasons.add("comparison_differs", run.name, message, "comparison")
            return
        for path, value, right in _differences(run.comparison, expected):
            message = f"is {value!r}; by the scores {right!r}"
            self.reasons.add("comparison_differs", run.name, message, f"comparison.{path}")


# --- the pieces ---------------------------------------------------------------------------------------------


def _read(dataset: Dataset, selection: Selection, kind: type[R]) -> Iterator[R]:
    """The samples of a selection; damage to the maintainer's own data set does not refuse the submission."""
    try:
        yield from dataset.samples(selection, kind)
    except DataError as error:
        raise UsageError("data", dataset.name, f"cannot be used for the check: {error}") from error


def _whole(dataset: Dataset) -> Selection:
    """A selection of the whole data set, without ``Dataset.select``, which loads every task."""
    request = dataset.manifest.request
    return Selection(tuple(request.tasks), tuple(request.lengths), None)


def _union(dataset: Dataset, selections: Sequence[Selection]) -> Selection:
    """The smallest selection that contains several others."""
    whole = _whole(dataset)
    limits = [selection.limit for selection in selections if selection.limit is not None]
    return Selection(
        tuple(task for task in whole.tasks if any(task in selection.tasks for selection in selections)),
        tuple(length for length in whole.lengths if any(length in selection.lengths for selection in selections)),
        max(limits) if len(limits) == len(selections) else None,
    )


def _asked(description: Description) -> tuple[object, ...]:
    """The part of a description that determines the samples, whatever made them."""
    template = description.chat_template
    return description.request, description.tokenizer.sha256, template and template.sha256


def _opened(description: Description, tags: tuple[str, ...]) -> str | None:
    """The block of thought that the prompts of a data set open."""
    recorded = description.chat_template
    template = None if recorded is None else ChatTemplate(recorded.source, recorded.special_tokens)
    return opened_by(template, tags, ANSWER if description.request.begin_answer is True else "")


def _unknown(settings: PublicSettings) -> bool:
    """Whether the answers were made elsewhere, with attention that is unknown or nominal."""
    return settings.attention.method == Attention.UNKNOWN.method or settings.attention.nominal is True


def _prompting(settings: PublicSettings) -> tuple[object, ...]:
    return settings.prompt, settings.query_aware, settings.compress, settings.engine.name


def _wrong_tokens(settings: PublicSettings, prediction: Prediction, sample: _Sample) -> str | None:
    """Impossible numbers of tokens, in words; None if they are possible."""
    read, written, expected = prediction.input_tokens, prediction.output_tokens, sample.input_tokens
    if read is not None:
        if settings.prompt.as_generated and read != expected:
            return f"has a prompt of {read:,} tokens, and the sample {expected:,}"
        if not expected / _OTHER_TOKENIZER <= read <= expected * _OTHER_TOKENIZER:
            return f"has a prompt of {read:,} tokens, and by the data set's tokenizer {expected:,}"
    thought, most = prediction.thinking_tokens or 0, settings.thoughts.budget
    questions = 1 if prediction.turns is msgspec.UNSET else len(prediction.turns)
    budget = questions * ((settings.sampling.max_new_tokens or sample.max_new_tokens) + (most or 0))
    if most is not None and thought > questions * most:
        return f"has {thought:,} tokens of thought, more than the budget of {questions * most:,}"
    if written is not None:
        if thought > written:
            return f"has {thought:,} tokens of thought, and {written:,} altogether"
        if written > budget:
            return f"has an answer of {written:,} tokens, more than its budget of {budget:,}"
        if (characters := len(prediction.text)) > _LONGEST_TOKEN * written:
            return f"has an answer of {written:,} tokens, and {characters:,} characters"
    return None


def _differences(value: Any, expected: Any, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Places where two values differ, numbers by more than rounding, each with both values there."""
    value, expected = msgspec.to_builtins(value), msgspec.to_builtins(expected)
    if isinstance(value, dict) and isinstance(expected, dict):
        for name in dict.fromkeys([*expected, *value]):
            yield from _differences(value.get(name), expected.get(name), f"{path}.{name}" if path else name)
    elif isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        for number, (item, other) in enumerate(zip(value, expected, strict=True)):
            yield from _differences(item, other, f"{path}[{entry(other) or number}]")
    elif _is_number(value) and _is_number(expected):
        if not math.isclose(value, expected, rel_tol=_TOLERANCE, abs_tol=1e-12):
            yield path, value, expected
    elif value != expected or type(value) is not type(expected):
        yield path, value, expected


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
