"""A cheap regression check of a method: the probe answers a few short samples, and its scores are compared.

Dense attention answers first, and must be able to do the tasks. Then the method answers the same samples at three
sparsities. A method with a stored reference curve is compared with it; any other is compared with chance, the control
that reads as much, but blindly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from sparse_tasks.attention.attention import DENSE, Attention
from sparse_tasks.core.errors import BadFileError, DataError, EngineError, UsageError
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.json import parse_json, read_json
from sparse_tasks.core.length import label
from sparse_tasks.core.records import Count, Difference, JsonObject, Phase, Phases, Record, Sha256, Share, convert
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.engines.running import Engines
from sparse_tasks.evaluators.environment import environment
from sparse_tasks.evaluators.models import PROBE, find_model
from sparse_tasks.evaluators.predict import Progress, RunRequest, predict
from sparse_tasks.evaluators.records import EnvironmentRecord, SampleId, ScoredSample, Timestamp
from sparse_tasks.evaluators.results import read_scores, score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.evaluators.statistics import Interval, difference_interval, mean_interval, precise_mean

__all__ = ["ABLE", "CELLS", "SPARSITIES", "Cell", "Check", "Checked", "Reference", "Row", "allowed", "check",
           "reference_of", "stored"]  # fmt: skip

SPARSITIES: Final = (0.5, 0.7, 0.9)
ABLE: Final = 0.5
"""The least mean score of the probe under dense attention, in each cell."""
FLIPS: Final = 0.05
"""Probability, on the careful side, that rounding on another machine gives a sample another score."""
DRIFT: Final = 0.03
"""The most by which a measured sparsity may differ from its reference: what content, and so rounding, decides about."""
NEAR: Final = 0.15
"""The most by which a measured sparsity may miss its target where there is no reference: tiles take their part."""

_ENGINE: Final = "transformers"
_ARGUMENTS: Final[JsonObject] = {"device": "cpu", "dtype": "float32"}
_WEIGHTS: Final = ("sparse_tasks_probe", "probe.safetensors")

Verdict: TypeAlias = Literal["ok", "below", "above", "sparsity", "unproven"]
"""``sparsity``: the measured one is off; ``unproven``: not shown to be better than chance."""


@dataclass(frozen=True)
class Cell:
    """Samples of a task at a length.

    Attributes:
        task: Name.
        length: In tokens.
        samples: How many.
        settings: Parameters, ``TASK.PARAMETER`` to a value.
    """

    task: str
    length: int
    samples: int
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``ruler_niah_multikey_2 1k``."""
        return f"{self.task} {label(self.length)}"


CELLS: Final = (
    Cell("ruler_niah_multikey_2", 1024, 6),
    Cell("story_retrieval", 2304, 3, {"story_retrieval.questions": 4}),
)


class ReferenceCell(Record, frozen=True, kw_only=True):
    """Scores of a task at a length and a sparsity.

    Attributes:
        task: Name.
        length: In tokens.
        sparsity: Target; 0 for dense attention.
        n: Number of samples.
        mean: Mean score.
        low: Lower end of its interval (``allowed``).
        high: Upper end.
        measured: Measured sparsity by phase; None for dense attention.
        samples: Their ids.
        scores: Their scores, in the same order.
    """

    task: str
    length: Count
    sparsity: Share
    n: Count
    mean: Share
    low: Share
    high: Share
    measured: Phases | None
    samples: Annotated[list[SampleId], Meta(min_length=1)]
    scores: Annotated[list[Share], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if not len(self.samples) == len(self.scores) == self.n:
            raise ValueError("`samples` and `scores` are not `n`")
        if not self.low <= self.mean <= self.high or abs(precise_mean(self.scores) - self.mean) > 1e-6:
            raise ValueError("`mean` is not that of `scores`, or not between `low` and `high`")


class Reference(Record, frozen=True, kw_only=True):
    """A method's curve: the scores that it had when the file was written.

    Attributes:
        format: Kind of file.
        method: Method, or composition.
        probe_sha256: Hash of the probe's weights, as its package has them.
        written: When.
        environment: Versions and hardware.
        cells: Dense attention first, then each sparsity.
    """

    format: Literal["sparse-tasks-reference"]
    method: str
    probe_sha256: Sha256
    written: Timestamp
    environment: EnvironmentRecord
    cells: Annotated[list[ReferenceCell], Meta(min_length=1)]

    def find(self, cell: Cell, sparsity: float) -> ReferenceCell | None:
        """The scores of a cell, if present."""
        wanted = (cell.task, cell.length, sparsity)
        return next((one for one in self.cells if (one.task, one.length, one.sparsity) == wanted), None)


class Row(Record, frozen=True, kw_only=True):
    """A score, and what it is compared with.

    Attributes:
        task: Name; None for all tasks and lengths together.
        length: In tokens; None for all.
        sparsity: Target; 0 for dense attention, None for all targets.
        n: Number of samples.
        measured: Measured sparsity by phase.
        score: Mean score.
        expected: Mean score in the reference, or of the random control; None for dense attention.
        low: Lower end of the interval: of the expected score, or, against the control, of the paired difference.
        high: Upper end.
        verdict: The conclusion.
    """

    task: str | None
    length: Count | None
    sparsity: Share | None
    n: Count
    measured: Phases | None
    score: Share
    expected: Share | None
    low: Difference | None
    high: Difference | None
    verdict: Verdict


class Checked(Record, frozen=True, kw_only=True):
    """Outcome of a check.

    Attributes:
        method: Method, or composition.
        against: ``reference``, or ``control``.
        opponent: The reference's date, or the control's name.
        seconds: Duration of the check.
        rows: Dense attention first.
        passed: Whether all verdicts are ``ok``.
    """

    method: str
    against: Literal["reference", "control"]
    opponent: str
    seconds: float
    rows: list[Row]
    passed: bool


@dataclass(frozen=True)
class _Answers:
    """Scores of a cell under one attention."""

    cell: Cell
    rows: Sequence[ScoredSample]

    @property
    def scores(self) -> list[float]:
        return [row.score for row in self.rows]

    @property
    def mean(self) -> float:
        return precise_mean(self.scores)

    @property
    def measured(self) -> dict[Phase, float] | None:
        by_phase: dict[Phase, list[float | None]] = {
            "prefill": [row.prefill_sparsity for row in self.rows],
            "decode": [row.decode_sparsity for row in self.rows],
        }
        known = {phase: [one for one in values if one is not None] for phase, values in by_phase.items()}
        return {phase: sum(values) / len(values) for phase, values in known.items() if values} or None


def allowed(scores: Sequence[float]) -> Interval:
    """The range of the mean of the same samples on other machines.

    The 95% interval of the mean, and at least the possible effect of rounding: the number of changed answers that is
    exceeded in one of a hundred cases, if each changes with probability ``FLIPS``.
    """
    n, mean, interval = len(scores), precise_mean(scores), mean_interval(scores)
    changed, below = 0, (1 - FLIPS) ** n
    while below < 0.99:
        changed += 1
        below += math.comb(n, changed) * FLIPS**changed * (1 - FLIPS) ** (n - changed)
    low, high = max(0.0, mean - changed / n), min(1.0, mean + changed / n)
    return Interval(min(interval.low, low), max(interval.high, high), interval.method)


def stored(method: str) -> Reference | None:
    """The reference curve of a method that comes with this package."""
    path = files("sparse_tasks.evaluators") / "references" / f"{method}.json"
    if not path.is_file():
        return None
    return convert(parse_json(path.read_bytes()), Reference, path)


def read_reference(path: Path) -> Reference:
    """A reference curve in a file.

    Raises:
        BadFileError: The file is not a reference curve.
    """
    try:
        return convert(read_json(path), Reference, path)
    except DataError as error:
        raise BadFileError(str(error)) from error


def probe_sha256() -> str:
    """Hash of the probe's weights, as its package has them.

    Raises:
        UsageError: The package is missing.
    """
    find_model(PROBE)  # raises with install instructions
    spec = find_spec(_WEIGHTS[0])
    if spec is None or spec.origin is None:
        raise UsageError("model", PROBE, "is not available")
    return sha256_of(Path(spec.origin).parent / _WEIGHTS[1])


class Check:
    """A check of a method, run by run.

    Args:
        method: Name of a method, or a composition.
        folder: Folder for data sets and runs; finished ones are reused.
        progress: Makes the receiver of a run's progress, from the run's name.
        samples: Maximum samples of each cell; None for all.
        sparsities: Targets, of ``SPARSITIES``.

    Raises:
        UsageError: The method is unknown, or a control; a setting is wrong; the probe is missing.
    """

    def __init__(
        self,
        method: str,
        folder: Path,
        progress: Callable[[str], AbstractContextManager[Progress]],
        samples: int | None = None,
        sparsities: Sequence[float] = SPARSITIES,
    ) -> None:
        if samples is not None and samples < 2:
            raise UsageError("samples", samples, "must be at least 2")
        for sparsity in sparsities:
            if sparsity not in SPARSITIES:
                known = ", ".join(f"{one:g}" for one in SPARSITIES)
                raise UsageError("sparsity", sparsity, f"is not checked; choose from {known}")
        if method == DENSE:
            raise UsageError("method", method, "is the baseline of the check; name a method, as in quest")
        self.attentions = [Attention.parse(method, sparsity=sparsity) for sparsity in sorted(set(sparsities))]
        self.method = self.attentions[0].method
        self.probe = probe_sha256()
        self._folder, self._progress, self._engines = folder, progress, Engines()
        self._limit = samples
        self._data: list[Dataset] = []
        self._began = time.monotonic()

    def __enter__(self) -> Check:
        return self

    def __exit__(self, *error: object) -> None:
        self._engines.__exit__(None, None, None)

    @property
    def phases(self) -> list[Phase]:
        """The phases in which the method acts."""
        attention = self.attentions[0]
        acts: dict[Phase, bool] = {"prefill": attention.prefill is not None, "decode": attention.decode is not None}
        return [phase for phase, acting in acts.items() if acting]

    @property
    def control(self) -> str:
        """The control with the method's budget, but blind selection."""
        return "+".join(f"random_{method.phase}" for method in self.attentions[0].methods)

    def answer(self, attention: Attention) -> list[_Answers]:
        """Answer and score all cells under an attention."""
        answers = []
        for cell, data in zip(CELLS, self._sets(), strict=True):
            request = RunRequest(
                dataset=data,
                selection=data.select(limit=self._limit),
                model=PROBE,
                engine=_ENGINE,
                engine_arguments=_ARGUMENTS,
                attention=attention,
            )
            with Run(self._folder / "runs" / data.path.name / attention.label) as run:
                with self._progress(f"{attention.label}, {cell.name}") as receiver:
                    predict(request, run, receiver, self._engines)
                score_run(run, data)
            answers.append(_Answers(cell, read_scores(run.path)))
        return answers

    def dense(self) -> list[_Answers]:
        """The answers under dense attention.

        Raises:
            EngineError: The probe cannot do a task.
        """
        answers = self.answer(Attention.DENSE)
        for of in answers:
            if of.mean < ABLE:
                raise EngineError(
                    f"dense attention scores {of.mean:.3f} on {of.cell.name}, and the probe has at least {ABLE:g}: the "
                    f"probe or its engine is wrong, and {self.method} was not checked"
                )
        return answers

    def write(self) -> Reference:
        """The method's current curve."""
        cells = [_reference_cell(of, 0.0) for of in self.dense()]
        for attention, sparsity in self._targets():
            cells += [_reference_cell(of, sparsity) for of in self.answer(attention)]
        return Reference(
            format="sparse-tasks-reference",
            method=self.method,
            probe_sha256=self.probe,
            written=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            environment=environment(),
            cells=cells,
        )

    def against(self, reference: Reference | None) -> Checked:
        """Compare the method with its reference or, without one, with its control.

        Raises:
            UsageError: The reference is of another method, another probe, or other samples.
        """
        if reference is None:
            return self._against_control()
        remedy = "write it again with --write-reference"
        if reference.method != self.method:
            raise UsageError("reference", reference.method, f"is not {self.method}; name its own")
        if reference.probe_sha256 != self.probe:
            raise UsageError("reference", self.method, f"was made with another probe; {remedy}")
        dense = self.dense()
        rows = [_row(of, 0.0, "ok") for of in dense]
        for attention, sparsity in self._targets():
            answers, all_then = self.answer(attention), list[float]()
            for of in answers:
                cell = reference.find(of.cell, sparsity)
                ids = [row.id for row in of.rows]
                if cell is None or cell.samples[: len(ids)] != ids:
                    where = f"{of.cell.name} at {sparsity:g}"
                    raise UsageError("reference", self.method, f"has other samples than the check, {where}; {remedy}")
                then = cell.scores[: len(ids)]
                interval = allowed(then)
                verdict = _within(of.mean, interval)
                if verdict == "ok" and _drifted(of.measured, cell.measured):
                    verdict = "sparsity"
                rows.append(_row(of, sparsity, verdict, precise_mean(then), interval))
                all_then += then
            score, interval = precise_mean([one for of in answers for one in of.scores]), allowed(all_then)
            verdict = _within(score, interval)
            rows.append(_pooled(sparsity, len(all_then), score, precise_mean(all_then), interval, verdict))
        return self._checked("reference", reference.written, rows)

    def _against_control(self) -> Checked:
        if self.attentions[0].controls:
            raise UsageError("method", self.method, "is a control, with which methods without a reference are compared")
        dense = self.dense()
        rows = [_row(of, 0.0, "ok") for of in dense]
        full = {row.id: row.score for of in dense for row in of.rows}
        gains: dict[str, list[float]] = {name: [] for name in full}
        random: list[float] = []
        for attention, sparsity in self._targets():
            answers = self.answer(attention)
            blind = Attention.parse(self.control, sparsity=sparsity)
            chance = {row.id: row.score for of in self.answer(blind) for row in of.rows}
            for of in answers:
                interval = difference_interval([row.score - chance[row.id] for row in of.rows])
                near = all(abs((of.measured or {}).get(phase, 0.0) - sparsity) <= NEAR for phase in self.phases)
                verdict: Verdict = "ok" if near else "sparsity"
                expected = precise_mean([chance[row.id] for row in of.rows])
                rows.append(_row(of, sparsity, verdict, expected, interval))
            scores = {row.id: row.score for of in answers for row in of.rows}
            for name, score in scores.items():
                gains[name].append(score - chance[name])
            interval = difference_interval([scores[name] - chance[name] for name in full])
            over = difference_interval([scores[name] - full[name] for name in full])
            verdict = "below" if interval.high < 0 else "above" if over.low > 0 else "ok"
            means = precise_mean(list(scores.values())), precise_mean(list(chance.values()))
            rows.append(_pooled(sparsity, len(full), *means, interval, verdict))
            random.append(means[1])
        # A sample counts once, with its mean over sparsities: its answers are not independent.
        interval = difference_interval([precise_mean(of) for of in gains.values()])
        chances = precise_mean(random)
        score = chances + precise_mean([precise_mean(of) for of in gains.values()])
        verdict = "ok" if interval.low > 0 else "below" if interval.high < 0 else "unproven"
        rows.append(_pooled(None, len(full), min(1.0, max(0.0, score)), chances, interval, verdict))
        return self._checked("control", self.control, rows)

    def _checked(self, against: Literal["reference", "control"], opponent: str, rows: list[Row]) -> Checked:
        return Checked(
            method=self.method,
            against=against,
            opponent=opponent,
            seconds=time.monotonic() - self._began,
            rows=rows,
            passed=all(row.verdict == "ok" for row in rows),
        )

    def _targets(self) -> list[tuple[Attention, float]]:
        return [(attention, attention.sparsity or 0.0) for attention in self.attentions]

    def _sets(self) -> list[Dataset]:
        """The data sets, one per cell, always complete, so that fewer samples are the first of them."""
        if not self._data:
            from sparse_tasks.generators.request import GenerateOptions, make_request
            from sparse_tasks.generators.run import generate_folder

            source = find_model(PROBE).tokenizer
            tokenizer = load_tokenizer(source)
            for cell in CELLS:
                options = GenerateOptions(
                    lengths=[cell.length],
                    tasks=[cell.task],
                    samples=cell.samples,
                    tokenizer=source,
                    settings=cell.settings,
                )
                path = self._folder / "data" / f"{cell.task}-{cell.length}"
                generate_folder(make_request(options), tokenizer, path)
                self._data.append(open_dataset(str(path)))
        return self._data


def check(
    method: str,
    folder: Path,
    progress: Callable[[str], AbstractContextManager[Progress]],
    *,
    reference: Path | None = None,
    samples: int | None = None,
    sparsities: Sequence[float] = SPARSITIES,
) -> Checked:
    """Check a method: against a reference in a file, that of the package, or else its control.

    Args:
        method: Name of a method, or a composition.
        folder: Where data sets and runs go.
        progress: Makes the receiver of a run's progress, from the run's name.
        reference: File; None for the package's.
        samples: Maximum samples of each cell; None for all.
        sparsities: Targets, of ``SPARSITIES``.

    Raises:
        UsageError: The method is unknown, or the probe is missing.
        EngineError: The probe cannot do a task, or the engine failed.
    """
    given = None if reference is None else read_reference(reference)
    with ExitStack() as held:
        running = held.enter_context(Check(method, folder, progress, samples, sparsities))
        return running.against(given or stored(running.method))


def reference_of(method: str, folder: Path, progress: Callable[[str], AbstractContextManager[Progress]]) -> Reference:
    """The current reference curve of a method; see ``check``."""
    with Check(method, folder, progress) as running:
        return running.write()


def _within(score: float, interval: Interval) -> Verdict:
    return "below" if score < interval.low - 1e-9 else "above" if score > interval.high + 1e-9 else "ok"


def _drifted(measured: dict[Phase, float] | None, expected: dict[Phase, float] | None) -> bool:
    now, then = measured or {}, expected or {}
    return now.keys() != then.keys() or any(abs(now[phase] - then[phase]) > DRIFT for phase in now)


def _row(
    of: _Answers, sparsity: float, verdict: Verdict, expected: float | None = None, interval: Interval | None = None
) -> Row:
    return Row(
        task=of.cell.task,
        length=of.cell.length,
        sparsity=sparsity,
        n=len(of.rows),
        measured=of.measured,
        score=of.mean,
        expected=expected,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        verdict=verdict,
    )


def _pooled(sparsity: float | None, n: int, score: float, expected: float, interval: Interval, verdict: Verdict) -> Row:
    return Row(
        task=None,
        length=None,
        sparsity=sparsity,
        n=n,
        measured=None,
        score=score,
        expected=expected,
        low=interval.low,
        high=interval.high,
        verdict=verdict,
    )


def _reference_cell(of: _Answers, sparsity: float) -> ReferenceCell:
    interval = allowed(of.scores)
    return ReferenceCell(
        task=of.cell.task,
        length=of.cell.length,
        sparsity=sparsity,
        n=len(of.rows),
        mean=of.mean,
        low=interval.low,
        high=interval.high,
        measured=of.measured,
        samples=[row.id for row in of.rows],
        scores=of.scores,
    )
