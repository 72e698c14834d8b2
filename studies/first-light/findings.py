"""The paper's findings, tested on runs: each statement with the interval that decides it.

Methods are compared at the same measured sparsity, not target: between a method's neighbouring sparsities each sample's
score is interpolated, with dense attention at sparsity 0. All intervals and p-values are those of
``sparse_tasks.evaluators.statistics``, at 95%, of differences on the same samples; tasks that the model cannot do are
excluded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sparse_tasks.attention.method import METHODS
from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.table import Runs
from sparse_tasks.evaluators.statistics import (
    Interval,
    difference_intervals,
    holm,
    macro,
    precise_mean,
    relative_error_interval,
    sign_flip_p_value,
)
from sparse_tasks.generators.task import TASKS

Verdict: TypeAlias = Literal["true", "false", "undecided"]
Scores: TypeAlias = npt.NDArray[np.float64]  # of the samples of a place, in their order
Place: TypeAlias = tuple[str, int, str]  # model, length, task

TOLERATED = 0.1  # loss of a mean that may seem tolerable
NEAR = 0.005  # difference in sparsity below which a run is used without interpolation
LEVEL = 0.95


@dataclass(frozen=True)
class Finding:
    """A statement of the paper, and what these runs say about it."""

    statement: str
    verdict: Verdict
    sentence: str  # what was measured, with its interval
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Estimate:
    """A difference with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"

    @property
    def verdict(self) -> Verdict:
        """Whether it is above 0."""
        return "true" if self.low > 0 else "false" if self.high < 0 else "undecided"


@dataclass(frozen=True)
class Cells:
    """Scores of methods at one measured sparsity."""

    at: float
    dense: Mapping[Place, Scores]
    methods: Mapping[str, Mapping[Place, Scores]]
    passed: Sequence[tuple[str, Mapping[Place, Scores]]]  # each sparse run, uninterpolated, with its label

    def of(self, model: str) -> Cells:
        """The cells of a model, with the methods that were measured on it."""

        def its(scores: Mapping[Place, Scores]) -> dict[Place, Scores]:
            return {place: values for place, values in scores.items() if place[0] == model}

        methods = {name: its(scores) for name, scores in self.methods.items()}
        passed = [(name, its(scores)) for name, scores in self.passed]
        return Cells(
            self.at,
            its(self.dense),
            {name: scores for name, scores in methods.items() if scores},
            [(name, scores) for name, scores in passed if scores],
        )

    @cached_property
    def prefill(self) -> list[str]:
        return [name for name in self.methods if phase(name) == "prefill"]

    @cached_property
    def decoding(self) -> list[str]:
        """Methods of decoding, including those that evict."""
        return [name for name in self.methods if phase(name) != "prefill"]

    def places(self, names: Iterable[str], keep: Callable[[Place], bool] = lambda place: True) -> list[Place]:
        """Places that all these methods have."""
        found = set(self.dense)
        for name in names:
            found &= set(self.methods[name])
        return sorted(place for place in found if keep(place))

    def mean(self, names: Sequence[str], place: Place) -> Scores:
        """Scores of the samples of a place, averaged over methods."""
        mean: Scores = np.mean([self.methods[name][place] for name in names], axis=0)
        return mean


def phase(name: str) -> str:
    """The phase of a method; that of a composition is ``composed``."""
    if "+" in name:
        return "composed"
    return str(METHODS.get(name).phase.value)


def cells(runs: Runs, at: float) -> Cells:
    """Scores at measured sparsity ``at`` of all methods of some runs, without controls."""
    able = runs.able
    able = able[
        able["attention"].isin([name for name in able["attention"].unique() if name == "dense" or _plain(name)])
    ]
    dense: dict[Place, Scores] = {}
    order: dict[Place, list[str]] = {}
    levels: dict[str, dict[Place, list[tuple[float, Scores]]]] = {}
    passed: dict[str, dict[Place, Scores]] = {}
    for key, group in able.groupby(["model", "length", "task"], observed=True):
        place: Place = (str(key[0]), int(key[1]), str(key[2]))
        of_dense = group[group["attention"] == "dense"].sort_values("id")
        if of_dense.empty or of_dense["id"].duplicated().any():
            continue
        order[place], dense[place] = list(of_dense["id"]), of_dense["score"].to_numpy(dtype=np.float64)
        for (name, asked), rows in group[group["attention"] != "dense"].groupby(["attention", "asked"], observed=True):
            rows = rows.sort_values("id")
            if list(rows["id"]) != order[place]:
                continue
            scores = rows["score"].to_numpy(dtype=np.float64)
            passed.setdefault(f"{name} {asked:g}", {})[place] = scores
            kind = phase(str(name))
            if kind == "composed":
                continue
            measured = rows["prefill_sparsity" if kind == "prefill" else "decode_sparsity"].mean()
            if not math.isnan(measured):
                levels.setdefault(str(name), {}).setdefault(place, []).append((float(measured), scores))
    methods: dict[str, dict[Place, Scores]] = {}
    for method in METHODS:
        for place, points in levels.get(method.name, {}).items():
            if (scores := interpolated([(0.0, dense[place]), *points], at)) is not None:
                methods.setdefault(method.name, {})[place] = scores
    return Cells(at, dense, methods, sorted(passed.items()))


def _plain(name: str) -> bool:
    """Whether it consists of this package's methods, with parameters derived from the sparsity."""
    return all(part in METHODS and not METHODS.get(part).control for part in str(name).split("+"))


def interpolated(points: Sequence[tuple[float, Scores]], at: float) -> Scores | None:
    """Scores at a sparsity, interpolated between the two around it; None outside the measured range.

    A close run is used directly. Of several points at one sparsity, due to tiles, the first counts.
    """
    distance, nearest = min(((abs(sparsity - at), scores) for sparsity, scores in points), key=lambda point: point[0])
    if distance <= NEAR:
        return nearest
    known: dict[float, Scores] = {}
    for sparsity, scores in sorted(points, key=lambda point: point[0]):
        known.setdefault(round(sparsity, 6), scores)
    for (below, low), (above, high) in pairwise(known.items()):
        if below <= at <= above:
            share = (at - below) / (above - below)
            mixed: Scores = np.clip((1 - share) * low + share * high, 0, 1)
            return mixed
    return None


# --- estimates ----------------------------------------------------------------------------------------------


def difference(pairs: Sequence[tuple[Scores, Scores]], level: float = LEVEL) -> Estimate:
    """Mean over places of ``b - a`` on the same samples."""
    rows = [(b - a).tolist() for a, b in pairs]
    intervals = difference_intervals(rows, level)
    value, interval = macro([(_within(row, interval), interval) for row, interval in zip(rows, intervals, strict=True)])
    return Estimate(value, interval.low, interval.high)


def _within(row: Sequence[float], interval: Interval) -> float:
    return min(max(precise_mean(row), interval.low), interval.high)


def lost(places: Sequence[tuple[Scores, Scores]]) -> tuple[float, Interval]:
    """Share of the dense score that is lost, with its interval."""
    dense = math.fsum(precise_mean(a) for a, _ in places)
    interval = relative_error_interval([list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in places])
    value = (dense - math.fsum(precise_mean(b) for _, b in places)) / dense
    return min(max(value, interval.low), interval.high), interval


def less(a: tuple[float, Interval], b: tuple[float, Interval]) -> Estimate:
    """``a - b`` of two estimates from different samples: twice the mean of ``a`` and ``-b``."""
    mirrored = Interval(-b[1].high, -b[1].low, b[1].method)
    if not all(map(math.isfinite, (a[1].low, mirrored.high))):
        return Estimate(a[0] - b[0], -math.inf, math.inf)
    value, interval = macro([a, (-b[0], mirrored)])
    return Estimate(2 * value, 2 * interval.low, 2 * interval.high)


# --- the statements -----------------------------------------------------------------------------------------


def findings(found: Cells) -> list[Finding]:
    """The seven statements about a model, in the paper's order; see ``Cells.of``."""
    return [
        no_winner(found),
        single_needles(found),
        longer_inputs(found),
        decoding_tolerates(found),
        averages_hide(found),
        leaders(found),
        quest_even(found),
    ]


def _undecided(statement: str, why: str) -> Finding:
    return Finding(statement, "undecided", f"Not measured: {why}.")


def no_winner(found: Cells) -> Finding:
    """For each method there is a task at which another method of its phase is significantly better."""
    statement = "No method wins everywhere."
    parts, verdicts, shown = [], [], []
    for kind, names in (("prefill", found.prefill), ("decoding", found.decoding)):
        if len(names) < 2 or not (places := found.places(names)):
            continue
        hardest: tuple[bool, str, str, Place, Estimate] | None = None
        winner: tuple[str, str, Place, Estimate] | None = None
        for name in names:
            # Each rival at each place; the p-values are adjusted for their number.
            rivals = [(rival, place) for rival in names if rival != name for place in places]
            rows = [(found.methods[rival][place] - found.methods[name][place]).tolist() for rival, place in rivals]
            means = [precise_mean(row) for row in rows]
            adjusted = holm([sign_flip_p_value(row) for row in rows])
            significant = [i for i, p in enumerate(adjusted) if p <= 1 - LEVEL and means[i] > 0]
            chosen = max(significant or range(len(rows)), key=lambda i: means[i])
            rival, place = rivals[chosen]
            estimate = difference([(found.methods[name][place], found.methods[rival][place])])
            case = (bool(significant), name, rival, place, estimate)
            if hardest is None or (case[0], estimate.value) < (hardest[0], hardest[4].value):
                hardest = case
            if all(interval.high < 0 for interval in difference_intervals(rows, LEVEL)):
                rival, place = rivals[max(range(len(rows)), key=lambda i: means[i])]
                winner = (name, rival, place, difference([(found.methods[rival][place], found.methods[name][place])]))
        assert hardest is not None
        beaten, name, rival, place, estimate = hardest
        if winner is not None:
            name, rival, place, estimate = winner
            verdicts.append("false")
            parts.append(
                f"in {kind}, {name} is significantly better than all others on every task at every length "
                f"({len(places)}); {rival} is closest, on {_place(place)}, where {name} is better by {estimate}"
            )
        else:
            verdicts.append("true" if beaten else "undecided")
            parts.append(
                f"in {kind}, {name} is the hardest of {len(names)} methods to beat; on {_place(place)}, {rival} "
                f"differs from it by {estimate}, which is {'' if beaten else 'not '}significant after correction for "
                "all rivals and tasks"
            )
        shown.append(estimate)
    if not shown:
        return _undecided(statement, "this needs two methods of a phase")
    verdict: Verdict = "false" if "false" in verdicts else "undecided" if "undecided" in verdicts else "true"
    worst = shown[verdicts.index(verdict)]
    return Finding(statement, verdict, _sentence("; ".join(parts)), worst.value, worst.low, worst.high)


def single_needles(found: Cells) -> Finding:
    """Share lost on single needles, minus that on tasks of high dispersion or scope."""
    statement = "Single-needle retrieval tolerates more than tasks of scope and dispersion."
    names = list(found.methods)
    easy = found.places(names, lambda place: single(place[2]))
    hard = found.places(names, lambda place: "high" in (TASKS.get(place[2]).dispersion, TASKS.get(place[2]).scope))
    if not names or not easy or not hard:
        return _undecided(statement, "this needs tasks of both kinds")
    losses = [lost([(found.dense[place], found.mean(names, place)) for place in places]) for places in (hard, easy)]
    estimate = less(*losses)
    text = (
        f"averaged over {_methods(names)}, {_share(losses[0])} of the dense score is lost on {_tasks(hard)} and "
        f"{_share(losses[1])} on {_tasks(easy)}: a difference of {estimate}"
    )
    return Finding(statement, estimate.verdict, _sentence(text), estimate.value, estimate.low, estimate.high)


def longer_inputs(found: Cells) -> Finding:
    """Share lost at the shortest length, minus that at the longest, on the same tasks."""
    statement = "Longer inputs tolerate more at equal sparsity."
    names = [name for name, scores in found.methods.items() if len({length for _, length, _ in scores}) > 1]
    places = found.places(names) if names else []
    tasks_at: dict[int, set[str]] = {}
    for _, length, task in places:
        tasks_at.setdefault(length, set()).add(task)
    ends = sorted({min(tasks_at), max(tasks_at)}) if tasks_at else []
    tasks = sorted(set.intersection(*(tasks_at[length] for length in ends))) if len(ends) == 2 else []
    if not tasks:
        return _undecided(statement, "this needs two lengths of a task")
    model = places[0][0]
    losses = [
        lost([(found.dense[model, length, task], found.mean(names, (model, length, task))) for task in tasks])
        for length in ends
    ]
    estimate = less(*losses)
    text = (
        f"under {_methods(names)}, {model} loses {_share(losses[0])} of the dense score at {label(ends[0])} and "
        f"{_share(losses[1])} at {label(ends[1])} on {len(tasks)} tasks, a difference of {estimate}"
    )
    return Finding(statement, estimate.verdict, _sentence(text), estimate.value, estimate.low, estimate.high)


def decoding_tolerates(found: Cells) -> Finding:
    """Scores under decoding methods minus those under prefill methods, on the same samples."""
    statement = "Decoding tolerates more than prefill."
    names = [*found.prefill, *found.decoding]
    places = found.places(names) if found.prefill and found.decoding else []
    if not places:
        return _undecided(statement, "this needs a method of each phase")
    estimate = difference([(found.mean(found.prefill, place), found.mean(found.decoding, place)) for place in places])
    text = (
        f"averaged over {len(places)} pairs of task and length, scores with sparse decoding "
        f"({_methods(found.decoding)}) differ from those with sparse prefill "
        f"({_methods(found.prefill)}) by {estimate}, on the same samples"
    )
    return Finding(statement, estimate.verdict, _sentence(text), estimate.value, estimate.low, estimate.high)


def averages_hide(found: Cells) -> Finding:
    """Runs whose mean over tasks loses little, but which lose significantly more on a task."""
    statement = "Averages hide failures on at least one task."
    cases: list[tuple[str, Place, float, Scores]] = []
    for name, of_run in found.passed:
        groups: dict[tuple[str, int], list[Place]] = {}
        for place in of_run:
            groups.setdefault(place[:2], []).append(place)
        for places in groups.values():
            changes = [precise_mean(of_run[place] - found.dense[place]) for place in places]
            if len(places) > 1 and precise_mean(changes) >= -TOLERATED:
                mean = precise_mean(changes)
                cases += [(name, place, mean, of_run[place] - found.dense[place]) for place in places]
    if not cases:
        return _undecided(statement, f"in no run does the mean over two or more tasks drop by {TOLERATED:g} or less")
    rows = [case[3].tolist() for case in cases]
    adjusted, intervals = holm([sign_flip_p_value(row) for row in rows]), difference_intervals(rows, LEVEL)
    significant = [i for i, p in enumerate(adjusted) if p <= 1 - LEVEL and intervals[i].high < -TOLERATED]
    worst = min(significant or range(len(rows)), key=lambda i: precise_mean(rows[i]))
    verdict: Verdict = "true" if significant else "undecided"
    if not significant and all(interval.low > -TOLERATED for interval in intervals):
        verdict = "false"
    name, place, mean, row = cases[worst]
    estimate = Estimate(_within(row, intervals[worst]), intervals[worst].low, intervals[worst].high)
    runs = len({(case[0], case[1][:2]) for case in cases})
    text = (
        f"of the runs whose mean over tasks drops by no more than {TOLERATED:g} ({runs}), {name} has the worst task: "
        f"its mean changes by {mean:+.3f}, and its score on {_place(place)} by {estimate}"
    )
    return Finding(statement, verdict, _sentence(text), estimate.value, estimate.low, estimate.high)


def leaders(found: Cells) -> Finding:
    """Vertical-Slash against the other prefill methods in retrieval, and Block-Sparse in scope."""
    statement = "Vertical-Slash leads in retrieval, Block-Sparse in scope."
    parts, verdicts, shown = [], [], []
    for name, kind, wanted in (
        ("vertical_slash", "retrieval", ("low", "low")),
        ("block_sparse", "scope", (None, "high")),
    ):
        rivals = [other for other in found.prefill if other != name]

        def fits(place: Place, wanted: tuple[str | None, str] = wanted) -> bool:
            task = TASKS.get(place[2])
            return task.scope == wanted[1] and wanted[0] in (None, task.dispersion)

        places = found.places([name, *rivals], fits) if name in found.methods and rivals else []
        if not places:
            parts.append(f"{name} has no measured rival in {kind}")
            verdicts.append("undecided")
            continue
        verdict, rival, estimate = _leads(found, name, rivals, places)
        verdicts.append(verdict)
        shown.append((verdict, estimate))
        parts.append(f"in {kind} ({_tasks(places)}), {name} differs from {rival}, its closest rival, by {estimate}")
    if not shown:
        return _undecided(statement, "this needs both methods, in tasks of both kinds")
    whole: Verdict = "false" if "false" in verdicts else "undecided" if "undecided" in verdicts else "true"
    estimate = next((estimate for verdict, estimate in shown if verdict == whole), shown[0][1])
    return Finding(statement, whole, _sentence("; ".join(parts)), estimate.value, estimate.low, estimate.high)


def _leads(found: Cells, name: str, rivals: Sequence[str], places: Sequence[Place]) -> tuple[Verdict, str, Estimate]:
    """Whether a method is better than each rival, and its difference to the closest.

    It leads if each interval is above 0, and does not if one is below, at a level corrected for their number.
    """
    pairs = {rival: [(found.methods[rival][place], found.methods[name][place]) for place in places] for rival in rivals}
    estimates = {rival: difference(rows) for rival, rows in pairs.items()}
    careful = {rival: difference(rows, 1 - (1 - LEVEL) / len(rivals)) for rival, rows in pairs.items()}
    closest = min(estimates, key=lambda rival: estimates[rival].value)
    verdict: Verdict = "undecided"
    if all(estimate.low > 0 for estimate in estimates.values()):
        verdict = "true"
    elif any(estimate.high < 0 for estimate in careful.values()):
        verdict = "false"
    return verdict, closest, estimates[closest]


def quest_even(found: Cells) -> Finding:
    """Change at the worst task under Quest, minus that under each other decoding method."""
    statement = "Quest is the most even in decoding."
    rivals = [name for name in found.decoding if name != "quest"]
    places = found.places(["quest", *rivals]) if "quest" in found.methods and rivals else []
    if len({place[2] for place in places}) < 2:
        return _undecided(statement, "this needs quest, another decoding method, and two tasks")

    def worst(name: str) -> Place:
        return min(places, key=lambda place: precise_mean(found.methods[name][place] - found.dense[place]))

    def contrast(rival: str, level: float) -> Estimate:
        ours, theirs = worst("quest"), worst(rival)
        if ours == theirs:
            return difference([(found.methods[rival][theirs], found.methods["quest"][ours])], level)
        pairs = (("quest", ours), (rival, theirs))
        rows = [(found.methods[name][place] - found.dense[place]).tolist() for name, place in pairs]
        of_each = difference_intervals(rows, level)
        return less(*((_within(row, interval), interval) for row, interval in zip(rows, of_each, strict=True)))

    estimates = {rival: contrast(rival, LEVEL) for rival in rivals}
    careful = [contrast(rival, 1 - (1 - LEVEL) / len(rivals)) for rival in rivals]
    verdict: Verdict = "undecided"
    if all(estimate.low > 0 for estimate in estimates.values()):
        verdict = "true"
    elif any(estimate.high < 0 for estimate in careful):
        verdict = "false"
    closest = min(estimates, key=lambda rival: estimates[rival].value)
    estimate, mine, other = estimates[closest], worst("quest"), worst(closest)
    text = (
        f"the worst task of quest is {_place(mine)}, whose score changes by {_change(found, 'quest', mine):+.3f}; that "
        f"of {closest}, its closest rival, is {_place(other)}, whose score changes by "
        f"{_change(found, closest, other):+.3f}: a difference of {estimate}"
    )
    return Finding(statement, verdict, _sentence(text), estimate.value, estimate.low, estimate.high)


def single(task: str) -> bool:
    """Whether a task asks for one needle."""
    return task.startswith(("ruler_niah_single", "ruler_niah_multikey"))


def _change(found: Cells, name: str, place: Place) -> float:
    return precise_mean(found.methods[name][place] - found.dense[place])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _share(loss: tuple[float, Interval]) -> str:
    return f"{loss[0]:.0%}"


def _place(place: Place) -> str:
    return f"{place[2]} at {label(place[1])}"


def _tasks(places: Iterable[Place]) -> str:
    return ", ".join(sorted({place[2] for place in places}))


def _methods(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{len(names)} methods"
