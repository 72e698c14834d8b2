"""The law is found in runs that were drawn from it, and a note tells what cannot be fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from msgspec import structs
from pandas.testing import assert_frame_equal
from scipy.special import expit

from sparse_tasks.core.shape import Shape
from sparse_tasks.evaluators.analyses.scaling import Scaling, scaling
from sparse_tasks.evaluators.analyses.table import Runs, read_runs
from sparse_tasks.evaluators.costs import parameters
from tests.evaluators.example_runs import LLAMA_8B, made_run

EPS, ALPHA, BETA, GAMMA = -16.92, 1.31, -1.15, -1.00  # those that the paper prints
DELTA = {"ruler_niah": 0.8, "ruler_vt": -0.3, "story_multihop": -0.5}
LENGTHS = (16_384, 32_768, 65_536)
SHAPES = {
    f"acme/{layers}-layers": structs.replace(LLAMA_8B, layers=layers, dense_layers=layers) for layers in (16, 32, 80)
}
N = 40
Scores = Callable[[np.ndarray], np.ndarray]


class Maker:
    """Writes runs drawn from the law; a sample is equally hard for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(7)
        self.hard: dict[tuple[str, int], np.ndarray] = {}

    def run(
        self,
        model: str,
        shape: Shape | None,
        phase: str | None = None,
        sparsity: float = 0.0,
        *,
        lengths: tuple[int, ...] = LENGTHS,
        tasks: Mapping[str, float] = DELTA,
        attention: str = "quest",
        measured: Mapping[str, float] | None = None,
        score: Scores = lambda scores: scores,
    ) -> None:
        size = parameters(LLAMA_8B if shape is None else shape)
        scores = {}
        for length in lengths:
            for task, delta in tasks.items():
                mean = expit(EPS + delta + ALPHA * np.log(size) + BETA * np.log(length) - GAMMA * np.log(1 - sparsity))
                hard = self.hard.setdefault((task, length), self.rng.random(N))
                luck = np.where(self.rng.random(N) < 0.6, hard, self.rng.random(N))
                scores[task, length] = score((luck < mean).astype(float)).tolist()
        kept = {phase: sparsity} if phase else {}
        made_run(
            self.folder / f"{model.replace('/', '-')}-{attention}-{phase}-{sparsity}",
            scores,
            attention=attention if phase or measured is not None else "dense",
            sparsity=sparsity,
            measured=kept if measured is None else measured,
            model=model,
            shape=shape,
        )

    def read(self) -> Runs:
        return read_runs([self.folder])


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "runs")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Three models, three lengths, three tasks, dense and four sparsities, both phases."""
    maker = Maker(tmp_path_factory.mktemp("scaling") / "runs")
    for model, shape in SHAPES.items():
        maker.run(model, shape)
        for sparsity in (0.5, 0.7, 0.9, 0.95):
            maker.run(model, shape, "decode", sparsity)
            maker.run(model, shape, "prefill", sparsity, attention="vertical_slash")
    return maker.read()


@pytest.fixture(scope="module")
def fitted(runs: Runs) -> Scaling:
    return scaling(runs)


def coefficient(found: Scaling, phase: str, name: str) -> pd.Series:
    table = found.coefficients
    (row,) = (row for _, row in table[(table["phase"] == phase) & (table["name"] == name)].iterrows())
    return row


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_papers_coefficients_are_found_in_parameters_and_tokens(fitted: Scaling, phase: str) -> None:
    truth = {"intercept": EPS, "size": ALPHA, "length": BETA, "compression": GAMMA}
    truth |= {f"task:{task}": delta for task, delta in DELTA.items()}
    names = fitted.coefficients.loc[fitted.coefficients["phase"] == phase, "name"]
    assert list(names) == list(truth)
    held = 0
    for name, true in truth.items():
        row = coefficient(fitted, phase, name)
        held += row["low"] <= true <= row["high"]
        assert abs(row["estimate"] - true) <= 1.5 * (row["high"] - row["low"]) / 2
    assert held >= 6  # of 7; how often each interval holds the truth, test_regression.py counts


def test_what_was_held_out_is_predicted(fitted: Scaling) -> None:
    assert [(row.phase, row.held_out) for row in fitted.held_out.itertuples()] == [
        (phase, name) for phase in ("prefill", "decode") for name in ("length", "size", "compression")
    ]
    # Five sparsities, three tasks, three sizes at the longest length; and so on.
    assert fitted.held_out["n"].tolist() == [45, 45, 27] * 2
    assert (fitted.held_out["r2"] > 0.6).all()
    assert (fitted.held_out["mae"] < 0.12).all()
    assert fitted.notes == ()


def test_fits_tell_what_went_into_them(fitted: Scaling) -> None:
    for _, row in fitted.fits.iterrows():
        assert (row["runs"], row["cells"], row["samples"]) == (15, 135, 9 * N)
        assert row["r2"] > 0.8
        assert 0.4 < row["scale"] < 1.6


def test_any_order_of_rows_gives_the_same(runs: Runs, fitted: Scaling) -> None:
    again = scaling(Runs(runs.runs[::-1], runs.samples.sample(frac=1, random_state=3)))
    for name in ("coefficients", "held_out", "fits"):
        assert_frame_equal(getattr(again, name), getattr(fitted, name), check_exact=True)


def test_one_model_at_one_length_gives_compression_alone_and_notes(maker: Maker) -> None:
    for sparsity in (0.0, 0.5, 0.9):
        maker.run("acme/small", LLAMA_8B, "decode" if sparsity else None, sparsity, lengths=(16_384,))
    found = scaling(maker.read())
    assert set(found.coefficients["phase"]) == {"decode"}
    assert list(found.coefficients["name"])[:2] == ["intercept", "compression"]
    row = coefficient(found, "decode", "compression")
    assert row["low"] <= GAMMA <= row["high"]
    assert list(found.held_out["held_out"]) == ["compression"]
    assert set(found.notes) == {
        "prefill: no run is sparse in this phase alone; nothing is fitted",
        "decode: size does not vary; left out",
        "decode: length does not vary; left out",
        "decode: no prediction for a held-out length or size: it takes three values of it, or more",
    }


def test_one_task_has_no_offset(maker: Maker) -> None:
    for sparsity in (0.0, 0.9):
        maker.run("acme/small", LLAMA_8B, "decode" if sparsity else None, sparsity, tasks={"ruler_vt": 0.0})
    names = scaling(maker.read()).coefficients["name"].tolist()
    assert names == ["intercept", "length", "compression"]


def test_runs_that_are_sparse_in_both_phases_are_left_out(maker: Maker) -> None:
    maker.run("acme/small", LLAMA_8B)
    maker.run("acme/small", LLAMA_8B, "decode", 0.5)
    before = scaling(maker.read()).coefficients
    both = {"prefill": 0.9, "decode": 0.9}
    maker.run("acme/small", LLAMA_8B, "both", 0.9, attention="vertical_slash+quest", measured=both)
    found = scaling(maker.read())
    assert_frame_equal(found.coefficients, before)
    assert any("both phases are sparse in acme-small-vertical_slash+quest-both-0.9; left out" in x for x in found.notes)


def test_models_of_unknown_size_are_left_out_beside_others_and_serve_alone(maker: Maker) -> None:
    for sparsity in (0.0, 0.9):
        maker.run("acme/unknown", None, "decode" if sparsity else None, sparsity)
    alone = scaling(maker.read())
    assert "compression" in set(alone.coefficients["name"])
    assert "decode: size does not vary; left out" in alone.notes
    maker.run("acme/small", LLAMA_8B)
    maker.run("acme/small", LLAMA_8B, "decode", 0.5)
    found = scaling(maker.read())
    assert "decode: the size is not known of acme/unknown; left out" in found.notes
    assert found.fits["runs"].tolist() == [2]


def test_tasks_whose_scores_are_all_the_same_are_left_out(maker: Maker) -> None:
    tasks = {"ruler_vt": 0.5, "story_multihop": -0.5}
    for sparsity in (0.0, 0.9):
        kind = "decode" if sparsity else None
        maker.run("acme/small", LLAMA_8B, kind, sparsity, tasks=tasks)
    before = scaling(maker.read()).coefficients
    for folder in sorted(maker.folder.iterdir()):
        dense = "None" in folder.name
        frame = pd.read_parquet(folder / "scores.parquet")
        scores = {key: part["score"].tolist() for key, part in frame.groupby(["task", "length"], sort=False)}
        made_run(
            folder,
            scores | {("ruler_cwe", length): [1.0] * 5 for length in LENGTHS},
            attention="dense" if dense else "quest",
            sparsity=0.0 if dense else 0.9,
            measured={} if dense else {"decode": 0.9},
        )
    found = scaling(maker.read())
    assert "decode: all scores are 1 in ruler_cwe; left out" in found.notes
    assert_frame_equal(found.coefficients, before)


def test_a_task_that_only_what_was_held_out_gets_wrong_is_not_predicted(maker: Maker) -> None:
    tasks = {"ruler_vt": 0.0, "story_multihop": 0.0}
    for sparsity in (0.0, 0.5, 0.9):
        maker.run("acme/small", LLAMA_8B, "decode" if sparsity else None, sparsity, tasks=tasks)
    runs = maker.read()
    right = (runs.samples["task"] == "ruler_vt") & (runs.samples["asked"] < 0.9)
    found = scaling(Runs(runs.runs, runs.samples.assign(score=runs.samples["score"].mask(right, 1.0))))
    assert "task:ruler_vt" in set(found.coefficients["name"])
    assert "decode: without the largest compression: ruler_vt cannot be fitted; not predicted" in found.notes
    assert found.held_out.set_index("held_out")["n"]["compression"] == len(LENGTHS)


def test_parts_of_a_run_that_were_not_measured_are_left_out(maker: Maker) -> None:
    for sparsity in (0.0, 0.5):
        maker.run("acme/small", LLAMA_8B, "decode" if sparsity else None, sparsity)
    runs = maker.read()
    part = (runs.samples["task"] == "ruler_vt") & (runs.samples["asked"] == 0.5)
    found = scaling(Runs(runs.runs, runs.samples.assign(decode_sparsity=runs.samples["decode_sparsity"].mask(part))))
    assert found.fits["cells"].tolist() == [2 * 9 - 3]
    note = "decode: no sparsity was measured in parts of acme-small-quest-decode-0.5; those are left out"
    assert note in found.notes


def test_budgets_instead_of_a_sparsity_are_levels_by_what_was_measured(maker: Maker) -> None:
    maker.run("acme/small", LLAMA_8B)
    scores = {(task, length): [1.0, 0.0, 1.0, 0.0] for task in DELTA for length in LENGTHS}
    for tokens, sparsity in ((512, 0.5), (64, 0.9)):
        made_run(
            maker.folder / f"quest-{tokens}",
            scores,
            attention="quest",
            arguments={"quest.tokens": tokens},
            measured={"decode": sparsity},
            model="acme/small",
        )
    found = scaling(maker.read())
    row = found.held_out[found.held_out["held_out"] == "compression"].iloc[0]
    assert row["n"] == 9
    assert math.isnan(row["r2"])  # their scores are all the same
    assert 0 <= row["mae"] <= 1


SMALL, LARGE = (("acme/16-layers", SHAPES["acme/16-layers"]), ("acme/80-layers", SHAPES["acme/80-layers"]))


@pytest.mark.parametrize(
    ("dense", "sparse", "note"),
    [
        ([SMALL], [], "no run is sparse in this phase alone; nothing is fitted"),
        ([], [SMALL], "neither size nor length nor compression varies; nothing is fitted"),
        (
            [SMALL],
            [LARGE],
            "size and compression vary together, and their effects cannot be told apart; nothing is fitted",
        ),
    ],
)
def test_runs_that_say_nothing_of_an_effect_are_not_fitted(
    maker: Maker, dense: list[tuple[str, Shape]], sparse: list[tuple[str, Shape]], note: str
) -> None:
    lengths = LENGTHS if dense else LENGTHS[:1]
    for model in dense:
        maker.run(*model, lengths=lengths)
    for model in sparse:
        maker.run(*model, "decode", 0.9, lengths=lengths)
    found = scaling(maker.read())
    assert found.coefficients.empty
    assert found.held_out.empty
    assert f"decode: {note}" in found.notes


@pytest.mark.parametrize(
    ("dense", "sparse", "note"),
    [
        (np.ones_like, np.ones_like, "in each task all scores are 0 or all are 1"),
        (np.ones_like, np.zeros_like, "the regressors separate scores of 0 from scores of 1 perfectly"),
    ],
)
def test_scores_without_a_finite_fit_leave_nothing(maker: Maker, dense: Scores, sparse: Scores, note: str) -> None:
    maker.run("acme/small", LLAMA_8B, score=dense)
    maker.run("acme/small", LLAMA_8B, "decode", 0.9, score=sparse)
    found = scaling(maker.read())
    assert found.coefficients.empty
    assert f"decode: {note}; nothing is fitted" in found.notes
