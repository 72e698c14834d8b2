"""Certified sparsity is what the sequences of p-values say, of the right samples, and says what it could not do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.analyses.analysis import Analysis
from sparse_tasks.evaluators.analyses.certified import SCOPES, Certificate, certified
from sparse_tasks.evaluators.analyses.frames import column_names
from sparse_tasks.evaluators.analyses.table import Runs, read_runs
from sparse_tasks.evaluators.statistics import fixed_sequence, hoeffding_bentkus_p_value
from tests.evaluators.example_runs import made_run
from tests.evaluators.metrics import METRICS

Refused = Callable[..., Any]
Scores = Mapping[tuple[str, int], Sequence[float]]
N = 200
A, B, LONG = ("story_multihop", 1024), ("ruler_vt", 1024), ("story_multihop", 4096)


def lost(count: int, n: int = N, amount: float = 1.0) -> list[float]:
    """Scores of samples that dense attention all got right."""
    return [1.0 - amount] * count + [1.0] * (n - count)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Runs]:
    """Writes runs of one method by sparsity, next to a dense one that is right by default."""
    numbers = itertools.count()

    def read(runs: Mapping[float, Scores], *, dense: Scores | None = None, **made: Any) -> Runs:
        folder = tmp_path / str(next(numbers))
        right = {key: lost(0, len(scores)) for run in runs.values() for key, scores in run.items()}
        made_run(folder / "dense", dense or right)
        for sparsity, scores in runs.items():
            made_run(folder / f"quest-{sparsity}", scores, attention="quest", sparsity=sparsity, **made)
        return read_runs([folder])

    return read


@pytest.fixture
def certify(read: Callable[..., Runs]) -> Callable[..., pd.DataFrame]:
    """The same, and certifies them at the usual tolerance and error rate."""
    return lambda *args, **made: certified(read(*args, **made))


def row(table: pd.DataFrame, scope: str, key: tuple[str, int] | None = None) -> dict[str, Any]:
    """The only row of a scope, or that of a task at a length."""
    found = table[table["scope"] == scope]
    if key is not None:
        found = found[(found["task"] == key[0]) & (found["length"] == key[1])]
    (record,) = found.to_dict(orient="records")
    return dict(record)


def test_the_last_sparsity_before_the_first_failure_is_certified(certify: Callable[..., pd.DataFrame]) -> None:
    table = certify({0.9: {A: lost(60)}, 0.5: {A: lost(0)}, 0.95: {A: lost(0)}, 0.8: {A: lost(2)}})
    found = row(table, "task")
    assert list(table) == column_names(Certificate)
    assert (found["model"], found["attention"], found["task"], found["length"]) == ("acme/small", "quest", *A)
    assert (found["certified"], found["tested"], found["n"]) == (0.8, 4, N)  # .95 lost nothing and comes too late
    assert found["loss"] == pytest.approx(0.01)
    assert found["p_value"] == hoeffding_bentkus_p_value([[1.0] * 2 + [0.0] * 198], 0.05, all_or_nothing=True)
    assert found["next_p_value"] == 1.0
    assert found["level"] == 0.05
    assert table.attrs["notes"] == ()


def test_without_a_certificate_there_is_a_reason(certify: Callable[..., pd.DataFrame]) -> None:
    found = row(certify({0.5: {A: lost(40)}, 0.9: {A: lost(0)}}), "all")
    assert all(math.isnan(found[name]) for name in ("certified", "measured", "loss", "p_value"))
    assert (found["next_p_value"], found["n"], found["tested"]) == (1.0, N, 2)


def test_the_measured_sparsity_is_that_of_the_phase_that_is_sparse(certify: Callable[..., pd.DataFrame]) -> None:
    runs = {0.9: {A: lost(0)}}
    assert row(certify(runs, measured={"prefill": 0.0, "decode": 0.87}), "task")["measured"] == pytest.approx(0.87)
    assert row(certify(runs, measured={"decode": 0.87}), "task")["measured"] == pytest.approx(0.87)
    assert row(certify(runs, measured={"prefill": 0.85, "decode": 0.9}), "task")["measured"] == pytest.approx(0.85)
    assert math.isnan(row(certify(runs, measured={}), "task")["measured"])


def test_gains_do_not_pay_for_losses(certify: Callable[..., pd.DataFrame]) -> None:
    dense = [1.0] * 100 + [0.0] * 100
    sparse = [0.0] * 30 + [1.0] * 170
    found = row(certify({0.9: {A: sparse}}, dense={A: dense}), "task")
    assert math.isnan(found["certified"])
    assert row(certify({0.9: {A: [1.0] * N}}, dense={A: dense}), "task")["loss"] == 0.0


def test_only_samples_that_dense_attention_answered_count(certify: Callable[..., pd.DataFrame]) -> None:
    found = row(certify({0.9: {A: [*lost(0, 100), *[0.0] * 50]}}, dense={A: lost(0, 100)}), "task")
    assert (found["n"], found["loss"], found["certified"]) == (100, 0.0, 0.9)


def test_tasks_and_lengths_of_a_scope_share_its_error_rate(certify: Callable[..., pd.DataFrame]) -> None:
    table = certify({0.5: {A: lost(0), B: lost(60), LONG: lost(60)}, 0.9: {A: lost(60), B: lost(60), LONG: lost(60)}})
    assert set(table[table["scope"] == "task"]["level"]) == {0.05 / 3}
    assert set(table[table["scope"] == "length"]["level"]) == {0.05 / 2}
    assert row(table, "all")["level"] == 0.05


def test_a_finished_task_passes_its_share_on(certify: Callable[..., pd.DataFrame]) -> None:
    table = certify({0.9: {A: lost(0), B: lost(4)}})
    found = row(table, "task", B)
    assert 0.025 < found["p_value"] < 0.05
    assert (found["certified"], row(table, "task", A)["certified"]) == (0.9, 0.9)
    alone = row(certify({0.9: {A: lost(60), B: lost(4)}}), "task", B)
    assert math.isnan(alone["certified"])
    assert alone["next_p_value"] == found["p_value"]


def test_scopes_average_over_tasks_and_lengths_with_equal_weights(certify: Callable[..., pd.DataFrame]) -> None:
    table = certify({0.9: {A: lost(6), B: lost(0, 100), LONG: lost(3)}})
    assert [tuple(table["scope"]).count(scope) for scope in SCOPES] == [3, 2, 1]
    short = table[(table["scope"] == "length") & (table["length"] == 1024)].iloc[0]
    assert short["loss"] == pytest.approx((6 / 200 + 0) / 2)
    assert short["n"] == 300
    overall = row(table, "all")
    assert overall["loss"] == pytest.approx((6 / 200 + 0 + 3 / 200) / 3)
    losses = [[1.0] * 6 + [0.0] * 194, [0.0] * 100, [1.0] * 3 + [0.0] * 197]
    assert overall["p_value"] == hoeffding_bentkus_p_value(losses, 0.05)
    assert pd.isna(overall["task"])
    assert pd.isna(overall["length"])


def test_a_sparsity_without_some_task_is_left_out_of_means_and_named(certify: Callable[..., pd.DataFrame]) -> None:
    table = certify({0.5: {A: lost(0), B: lost(0)}, 0.9: {A: lost(0)}})
    assert row(table, "task", A)["tested"] == 2
    assert row(table, "task", B)["tested"] == 1
    assert (row(table, "all")["tested"], row(table, "all")["certified"]) == (1, 0.5)
    (note,) = table.attrs["notes"]
    assert "quest 0.9 lacks ruler_vt at 1k" in note


def test_graded_scores_do_not_get_the_binomial_tail(certify: Callable[..., pd.DataFrame]) -> None:
    graded = row(certify({0.9: {A: lost(4, amount=0.5)}}), "task")
    assert graded["p_value"] == hoeffding_bentkus_p_value([[0.5] * 4 + [0.0] * 196], 0.05)


def test_nor_do_scores_of_0_and_1_of_a_metric_that_could_grade(tmp_path: Path) -> None:
    """That no answer was half right among those seen does not mean that none is."""
    folders = [
        made_run(tmp_path / "dense", {A: lost(0)}),
        made_run(tmp_path / "s", {A: lost(3)}, attention="quest", sparsity=0.9),
    ]
    runs = read_runs(folders)
    whole = row(certified(runs), "task")["p_value"]
    configs = runs["s"].result.configs
    configs[:] = [structs.replace(config, metric="set_iou") for config in configs]
    graded = row(certified(runs), "task")["p_value"]
    losses = [[1.0] * 3 + [0.0] * 197]
    assert whole == hoeffding_bentkus_p_value(losses, 0.05, all_or_nothing=True)
    assert graded == hoeffding_bentkus_p_value(losses, 0.05) > whole


@pytest.mark.parametrize("name", sorted(METRICS))
def test_metrics_that_count_as_all_or_nothing_are_and_others_are_not(name: str) -> None:
    entries = ["red", "blue", "green"]
    tried = [", ".join(some) for k in range(4) for some in itertools.permutations(entries, k)] + ["red blue", "red or"]
    values = {METRICS[name](text, gold) for text in tried for gold in (entries, ["red"], ["red blue"])}
    assert (values <= {0.0, 1.0}) == METRICS[name].binary


def test_methods_models_and_arguments_make_sequences_of_their_own(tmp_path: Path) -> None:
    for model in ("acme/small", "acme/large"):
        made_run(tmp_path / model / "dense", {A: lost(0)}, model=model)
        for name, method, arguments in (("q", "quest", {}), ("p", "quest", {"page": 32}), ("s", "snapkv", {})):
            made_run(
                tmp_path / model / name, {A: lost(0)}, attention=method, sparsity=0.9, arguments=arguments, model=model
            )
    table = certified(read_runs([tmp_path / "acme/small", tmp_path / "acme/large"]))
    of_all = table[table["scope"] == "all"]
    assert sorted(zip(of_all["model"], of_all["attention"], strict=True)) == sorted(
        itertools.product(("acme/large", "acme/small"), ("quest", "quest (page=32)", "snapkv"))
    )
    assert set(of_all["tested"]) == {1}
    assert set(of_all["level"]) == {0.05}


def test_budgets_are_ordered_by_the_sparsity_that_was_measured(tmp_path: Path) -> None:
    made_run(tmp_path / "dense", {A: lost(0)})
    for tokens, sparsity, losses in ((64, 0.95, 60), (512, 0.8, 1), (128, 0.9, 0)):
        made_run(
            tmp_path / f"{tokens}", {A: lost(losses)}, attention="quest", arguments={"token_budget": tokens},
            measured={"decode": sparsity},
        )  # fmt: skip
    made_run(tmp_path / "unknown", {A: lost(0)}, attention="quest", arguments={"token_budget": 1}, measured={})
    table = certified(read_runs([tmp_path]))
    found = row(table, "all")
    assert (found["attention"], found["tested"]) == ("quest (measured)", 3)
    assert found["certified"] == pytest.approx(0.9)
    assert found["measured"] == pytest.approx(0.9)
    assert table.attrs["notes"] == ("unknown has neither a target sparsity nor a measured one; it is left out",)


def test_of_two_runs_of_one_sparsity_the_greater_loss_of_each_sample_counts(tmp_path: Path) -> None:
    made_run(tmp_path / "dense", {A: lost(0)})
    made_run(tmp_path / "once", {A: lost(2)}, attention="quest", sparsity=0.9)
    made_run(tmp_path / "twice", {A: lost(2)[::-1]}, attention="quest", sparsity=0.9)
    found = row(certified(read_runs([tmp_path])), "task")
    assert (found["tested"], found["n"]) == (1, N)
    assert found["loss"] == pytest.approx(4 / N)


def test_data_sets_are_not_mixed_and_a_note_says_that_there_are_two(tmp_path: Path) -> None:
    for name, digest in (("one", "a" * 64), ("two", "e" * 64)):
        made_run(tmp_path / name / "dense", {A: lost(0)}, dataset_sha256=digest)
        made_run(tmp_path / name / "q", {A: lost(0)}, dataset_sha256=digest, attention="quest", sparsity=0.9)
    table = certified(read_runs([tmp_path / "one", tmp_path / "two"]))
    assert list(table[table["scope"] == "all"]["n"]) == [N, N]
    assert table.attrs["notes"] == ("quest of acme/small ran over 2 data sets or samplings; each has its own rows",)


def test_without_a_dense_partner_the_table_is_empty_and_says_why(tmp_path: Path) -> None:
    table = certified(read_runs([made_run(tmp_path / "q", {A: lost(0)}, attention="quest", sparsity=0.9)]))
    assert table.empty
    assert list(table) == column_names(Certificate)
    assert table.attrs["notes"] == ("q has no dense run over the same samples beside it; it is left out",)


def test_dense_runs_alone_have_nothing_to_certify(tmp_path: Path) -> None:
    table = certified(read_runs([made_run(tmp_path / "dense", {A: lost(0)})]))
    assert table.empty
    assert table.attrs["notes"] == ("no run is sparse; there is nothing to certify",)


def test_too_few_samples_are_reported_with_the_needed_number(certify: Callable[..., pd.DataFrame]) -> None:
    table = certify({0.9: {A: lost(0, 20), B: lost(0, 20)}})
    assert table["certified"].isna().all()
    assert table.attrs["notes"] == (
        "scope task: 20 samples of each task certify no sparsity at tolerance 0.05 and error rate 0.05, shared by "
        "2 sequences, even without any loss; it takes 72",
        "scope length: 20 samples of each task certify no sparsity at tolerance 0.05 and error rate 0.05, even "
        "without any loss; it takes 30",
        "scope all: 20 samples of each task certify no sparsity at tolerance 0.05 and error rate 0.05, even without "
        "any loss; it takes 30",
    )


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
@pytest.mark.parametrize("name", ["tolerance", "error"])
def test_invalid_tolerances_and_error_rates_are_refused(
    name: str, value: float, tmp_path: Path, refused: Refused
) -> None:
    runs = read_runs([made_run(tmp_path / "dense", {A: lost(0)})])
    with refused(UsageError, name, value, "0.05"):
        Analysis(runs, **{name: value})


scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0, 1.0]), min_size=40, max_size=40)
sweeps = st.lists(st.fixed_dictionaries({A: scores, B: scores}), min_size=1, max_size=3)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sweeps, st.floats(0.02, 0.9), st.floats(0.02, 0.9), st.floats(0.01, 0.5))
def test_rows_are_what_the_statistics_say_and_a_larger_tolerance_never_certifies_less(
    read: Callable[..., Runs], sweep: list[Scores], a: float, b: float, error: float
) -> None:
    sparsities = [0.5 + k / 10 for k in range(len(sweep))]
    runs = read(dict(zip(sparsities, sweep, strict=True)))
    tables = [certified(runs, tolerance, error) for tolerance in sorted((a, b))]
    strict, lax = (table["certified"].fillna(0) for table in tables)
    assert (strict <= lax).all()
    for table, tolerance in zip(tables, sorted((a, b)), strict=True):
        p_values = [[p_value(step[key], tolerance) for step in sweep] for key in (B, A)]
        passed, _ = fixed_sequence(p_values, error)
        expected = [sparsities[count - 1] if count else math.nan for count in passed]
        assert table[table["scope"] == "task"]["certified"].tolist() == pytest.approx(expected, nan_ok=True)


def p_value(scores: Sequence[float], tolerance: float) -> float:
    whole = all(score in (0, 1) for score in scores)
    return hoeffding_bentkus_p_value([[1 - score for score in scores]], tolerance, all_or_nothing=whole)
