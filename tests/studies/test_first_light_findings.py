"""Each statement on synthetic runs of known truth: true, false, and undecided."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import findings as study
import numpy as np
import pytest
from findings import Cells, Finding

from sparse_tasks.evaluators.analyses.table import read_runs
from tests.evaluators.example_runs import made_run

N = 40
NEEDLE, CHAIN, WORDS = "ruler_niah_single_1", "ruler_vt", "ruler_fwe"
TASKS = (NEEDLE, CHAIN, WORDS)
MANY = (
    tuple(f"ruler_niah_{name}" for name in ("single_1", "single_2", "single_3", "multikey_1", "multikey_2")) + TASKS[1:]
)
Means = Mapping[tuple[str, int], float]


def samples(mean: float) -> list[float]:
    """Scores of 0 and 1 with that mean, in an order of their own."""
    scores = np.arange(N) < round(mean * N)
    return [float(score) for score in np.random.default_rng(round(mean * 1000)).permutation(scores)]


def cells(folder: Path, methods: Mapping[str, Means], dense: float = 1.0) -> Cells:
    """Runs of methods with these means, measured at .8 as well as targeted."""
    places = next(iter(methods.values()))
    made_run(folder / "dense", dict.fromkeys(places, samples(dense)))
    for name, means in methods.items():
        scores = {place: samples(mean) for place, mean in means.items()}
        made_run(folder / name, scores, attention=name, sparsity=0.8)
    return study.cells(read_runs([folder]), 0.8)


def means(*values: float, length: int = 4096, tasks: tuple[str, ...] = TASKS) -> dict[tuple[str, int], float]:
    return {(task, length): value for task, value in zip(tasks, values, strict=True)}


EVEN = means(0.6, 0.6, 0.6)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (means(1, 0.9, 0.2), means(0.3, 0.9, 1), "true"),
        (means(1, 1, 1), means(0.2, 0.2, 0.2), "false"),
        (EVEN, EVEN, "undecided"),
    ],
)
def test_no_method_wins_everywhere(tmp_path: Path, first: Means, second: Means, verdict: str) -> None:
    checked(study.no_winner(cells(tmp_path, {"vertical_slash": first, "block_sparse": second})), verdict)


@pytest.mark.parametrize(
    ("quest", "verdict"), [(means(1, 0.3, 0.2), "true"), (means(0.2, 0.9, 1), "false"), (EVEN, "undecided")]
)
def test_single_needles_tolerate_more(tmp_path: Path, quest: Means, verdict: str) -> None:
    checked(study.single_needles(cells(tmp_path, {"quest": quest})), verdict)


@pytest.mark.parametrize(
    ("short", "long", "verdict"), [(0.2, 0.9, "true"), (0.9, 0.2, "false"), (0.5, 0.5, "undecided")]
)
def test_longer_inputs_tolerate_more(tmp_path: Path, short: float, long: float, verdict: str) -> None:
    both = means(*[short] * 3) | means(*[long] * 3, length=8192)
    checked(study.longer_inputs(cells(tmp_path, {"quest": both})), verdict)


@pytest.mark.parametrize(
    ("decode", "prefill", "verdict"), [(0.9, 0.3, "true"), (0.3, 0.9, "false"), (0.5, 0.5, "undecided")]
)
def test_decoding_tolerates_more_than_prefill(tmp_path: Path, decode: float, prefill: float, verdict: str) -> None:
    methods = {"quest": means(*[decode] * 3), "snapkv": means(*[decode] * 3), "block_sparse": means(*[prefill] * 3)}
    checked(study.decoding_tolerates(cells(tmp_path, methods)), verdict)


@pytest.mark.parametrize(
    ("worst", "verdict"), [(0.4, "true"), (1.0, "false"), (0.85, "undecided")]
)  # of seven tasks, the others as dense
def test_averages_hide_failures(tmp_path: Path, worst: float, verdict: str) -> None:
    found = cells(tmp_path, {"quest": means(*[1.0] * 6, worst, tasks=MANY)})
    checked(study.averages_hide(found), verdict)


def test_an_average_that_shows_the_loss_hides_nothing(tmp_path: Path) -> None:
    finding = study.averages_hide(cells(tmp_path, {"quest": means(0.2, 0.2, 0.1)}))
    assert finding.verdict == "undecided"
    assert finding.sentence.startswith("Not measured")


@pytest.mark.parametrize(
    ("vertical", "block", "verdict"),
    [
        (means(1, 0.5, 0.2), means(0.3, 0.5, 1), "true"),
        (means(0.3, 0.5, 0.2), means(1, 0.5, 1), "false"),
        (EVEN, EVEN, "undecided"),
    ],
)
def test_leaders(tmp_path: Path, vertical: Means, block: Means, verdict: str) -> None:
    checked(study.leaders(cells(tmp_path, {"vertical_slash": vertical, "block_sparse": block})), verdict)


def test_a_third_method_may_lead(tmp_path: Path) -> None:
    methods = {
        "vertical_slash": means(0.6, 0.5, 0.2),
        "block_sparse": means(0.2, 0.5, 0.9),
        "xattention": means(1, 0.5, 0.2),
    }
    finding = study.leaders(cells(tmp_path, methods))
    checked(finding, "false")
    assert "from xattention" in finding.sentence


@pytest.mark.parametrize(
    ("quest", "rival", "verdict"),
    [
        (means(0.8, 0.8, 0.8), means(1, 1, 0.1), "true"),
        (means(1, 0.1, 1), means(0.8, 0.8, 0.8), "false"),
        (EVEN, EVEN, "undecided"),
    ],
)
def test_quest_is_even(tmp_path: Path, quest: Means, rival: Means, verdict: str) -> None:
    checked(study.quest_even(cells(tmp_path, {"quest": quest, "snapkv": rival})), verdict)


def test_unmeasured_findings_have_no_verdict(tmp_path: Path) -> None:
    found = cells(tmp_path, {"quest": means(0.5, 0.5, length=4096, tasks=TASKS[1:])})
    for finding in study.findings(found):
        assert finding.verdict == "undecided"
        assert finding.sentence.startswith("Not measured")
    assert len(study.findings(found)) == 7


def test_tasks_the_model_cannot_do_are_excluded(tmp_path: Path) -> None:
    found = cells(tmp_path, {"quest": means(0.0, 0.0, 0.0)}, dense=0.05)
    assert not found.dense


def test_scores_are_those_of_one_measured_sparsity() -> None:
    low, high = np.array([1.0, 1.0]), np.array([0.0, 1.0])
    half = study.interpolated([(0.0, np.ones(2)), (0.5, low), (0.9, high)], 0.7)
    assert half == pytest.approx([0.5, 1.0])
    assert study.interpolated([(0.0, low), (0.6, high)], 0.7) is None
    # A nearby run on either side is used directly, without interpolation.
    for near in (0.696, 0.704):
        assert study.interpolated([(0.0, low), (near, high)], 0.7) == pytest.approx(high)
    assert study.interpolated([(0.0, low), (0.6, low), (0.6, high)], 0.6) == pytest.approx(low)


def checked(finding: Finding, verdict: str) -> None:
    """The verdict, and that the interval says the same where it alone decides."""
    assert finding.verdict == verdict, finding
    assert finding.low <= finding.estimate <= finding.high
    assert f"{finding.estimate:+.3f}" in finding.sentence
    assert finding.sentence.endswith(".")
