"""Comparing two runs: only the same samples of the same data, and each run the mirror image of the other."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.compare import compare
from sparse_tasks.evaluators.records import Comparison, Outcome
from sparse_tasks.evaluators.statistics import (
    Interval,
    difference_interval,
    holm,
    macro,
    sign_flip_p_value,
    smallest_detectable,
)
from tests.schemas.validation import problems

DATA = "d" * 64
Rows = list[Outcome]


def rows(scores: list[float], task: str = "story_retrieval", length: int = 4096, unparsed: int = 0) -> Rows:
    """A run of one task; the last outputs have no answer."""
    return [
        Outcome(
            id=f"{task}-{length}-{i:05}-{0:012x}",
            task=task,
            length=length,
            score=score,
            parsed=i < len(scores) - unparsed,
        )
        for i, score in enumerate(scores)
    ]


def compared(a: Rows, b: Rows, **options: Any) -> Comparison:
    return compare(a, b, dataset_a=DATA, dataset_b=DATA, **options)


DENSE = [1.0, 1.0, 0.75, 0.5, 1.0, 0.25, 1.0, 0.0, 0.5, 1.0]
SPARSE = [1.0, 0.5, 0.75, 0.75, 0.0, 0.25, 0.5, 0.0, 0.25, 0.0]


def test_a_row_counts_better_worse_and_equal_samples() -> None:
    found = compared(rows(DENSE), rows(SPARSE, unparsed=2))
    [row] = found.rows
    differences = [b - a for a, b in zip(DENSE, SPARSE, strict=True)]
    assert (row.length, row.task, row.n) == (4096, "story_retrieval", 10)
    assert (row.mean_a, row.mean_b) == (0.7, 0.4)
    assert row.difference == pytest.approx(-0.3)
    assert (row.better, row.worse, row.equal) == (1, 5, 4)
    assert (row.unparsed_a, row.unparsed_b) == (0, 2)
    assert to_builtins(row.interval) == dataclasses.asdict(difference_interval(differences))
    assert row.p_value == row.p_holm == sign_flip_p_value(differences)
    assert row.smallest_detectable == smallest_detectable(differences)
    assert (found.dataset_sha256, found.level, found.left_out_a, found.left_out_b) == (DATA, 0.95, 0, 0)


def test_pairs_are_made_by_id_not_by_place() -> None:
    assert compared(rows(DENSE), rows(SPARSE)[::-1]) == compared(rows(DENSE), rows(SPARSE))


def test_rows_come_by_length_then_task_and_lengths_are_families_of_their_own() -> None:
    def run(scores: list[float]) -> Rows:
        return [
            *rows(scores, "story_multihop", 16384),
            *rows(scores, "story_retrieval", 4096),
            *rows(scores[:8], "ruler_vt", 4096),
            *rows(scores[:7], "ruler_niah", 4096),
        ]

    found = compared(run(DENSE), run(SPARSE))
    assert [(row.length, row.task) for row in found.rows] == [
        (4096, "ruler_niah"),
        (4096, "ruler_vt"),
        (4096, "story_retrieval"),
        (16384, "story_multihop"),
    ]
    assert [row.p_holm for row in found.rows[:3]] == holm([row.p_value for row in found.rows[:3]])
    assert found.rows[2].p_holm > found.rows[2].p_value
    assert found.rows[3].p_holm == found.rows[3].p_value


def test_an_average_weighs_tasks_not_samples() -> None:
    a = [*rows([1.0] * 30, "ruler_vt"), *rows(DENSE)]
    b = [*rows([1.0] * 30, "ruler_vt"), *rows(SPARSE)]
    found = compared(a, b)
    [average] = found.averages
    assert (average.length, average.tasks, average.n) == (4096, 2, 40)
    assert (average.mean_a, average.mean_b) == pytest.approx((0.85, 0.7))
    difference, interval = macro([(row.difference, Interval(**to_builtins(row.interval))) for row in found.rows])
    assert (average.difference, to_builtins(average.interval)) == (difference, dataclasses.asdict(interval))


def test_level_is_that_of_all_intervals() -> None:
    wide, narrow = (compared(rows(DENSE), rows(SPARSE), level=level) for level in (0.99, 0.8))
    assert wide.level == 0.99
    for one, other in ((wide.rows[0], narrow.rows[0]), (wide.averages[0], narrow.averages[0])):
        assert one.interval.low < other.interval.low < other.interval.high < one.interval.high


def test_runs_over_different_data_are_not_compared() -> None:
    for common in (False, True):
        with pytest.raises(UsageError, match="differs from that of run a") as caught:
            compare(rows(DENSE), rows(SPARSE), dataset_a=DATA, dataset_b="e" * 64, common=common)
        assert (caught.value.field, caught.value.value) == ("dataset", "e" * 64)


@pytest.mark.parametrize(
    ("a", "b", "first", "lacking", "counts"),
    [
        (DENSE, SPARSE[:7], 7, "run b", "3 samples are only in run a, 0 only in run b"),
        (DENSE[:9], SPARSE, 9, "run a", "0 samples are only in run a, 1 only in run b"),
    ],
)
def test_a_missing_sample_is_named_with_its_side(
    a: list[float], b: list[float], first: int, lacking: str, counts: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compared(rows(a), rows(b))
    assert (caught.value.field, caught.value.value) == ("sample", rows(DENSE)[first].id)
    for part in (f"is not in {lacking}", counts, "--common"):
        assert part in str(caught.value)


def test_common_samples_are_compared_and_the_others_counted() -> None:
    a, b = rows(DENSE)[2:], [*rows(SPARSE)[:8], *rows([1.0], "ruler_vt")]
    found = compared(a, b, common=True)
    assert (found.left_out_a, found.left_out_b) == (2, 3)
    assert found.rows == compared(rows(DENSE)[2:8], rows(SPARSE)[2:8]).rows


@pytest.mark.parametrize(("a", "b"), [([], []), (rows(DENSE)[:5], rows(SPARSE)[5:]), ([], rows(SPARSE))])
def test_nothing_in_common_is_no_comparison(a: Rows, b: Rows) -> None:
    with pytest.raises(UsageError, match="nothing can be compared"):
        compared(a, b, common=True)


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.1])
def test_a_score_out_of_range_is_refused_with_its_sample(score: float) -> None:
    for a, b, run in (([0.5, score], [0.5, 0.5], "a"), ([0.5, 0.5], [0.5, score], "b")):
        with pytest.raises(DataError, match=f"run {run} scores sample 'story_retrieval-4096-00001"):
            compared(rows(a), rows(b))


def test_a_duplicate_sample_is_refused() -> None:
    with pytest.raises(DataError, match=r"run b has sample .* twice"):
        compared(rows(DENSE), [*rows(SPARSE), rows(SPARSE)[0]])


def test_runs_that_disagree_what_a_sample_is_are_refused() -> None:
    other = rows(SPARSE)
    other[3] = structs.replace(other[3], task="ruler_vt")
    with pytest.raises(DataError, match="is story_retrieval at 4096 in run a and ruler_vt at 4096 in run b"):
        compared(rows(DENSE), other)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, math.nan])
def test_an_invalid_level_is_refused(level: float) -> None:
    with pytest.raises(UsageError, match="level"):
        compared(rows(DENSE), rows(SPARSE), level=level)


SCORE = st.one_of(st.integers(0, 16).map(lambda k: k / 16), st.floats(0, 1), st.sampled_from([0.0, 1.0]))
RUNS = st.dictionaries(
    st.tuples(st.sampled_from(["ruler_vt", "story_filtering"]), st.sampled_from([4096, 65536])),
    st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=20),
    min_size=1,
)


@settings(deadline=None, max_examples=40)
@given(scores=RUNS)
def test_exchanging_the_runs_mirrors_the_comparison(scores: dict[tuple[str, int], list[tuple[float, float]]]) -> None:
    a = [row for (task, length), pairs in scores.items() for row in rows([x for x, _ in pairs], task, length)]
    b = [row for (task, length), pairs in scores.items() for row in rows([y for _, y in pairs], task, length)]
    there, back = compared(a, b), compared(b, a)
    for one, other in zip(there.rows, back.rows, strict=True):
        assert (one.mean_a, one.mean_b, one.difference) == (other.mean_b, other.mean_a, -other.difference)
        assert (one.interval.low, one.interval.high) == (-other.interval.high, -other.interval.low)
        assert (one.p_value, one.p_holm) == (other.p_value, other.p_holm)
        assert one.smallest_detectable == pytest.approx(other.smallest_detectable)
        assert (one.better, one.worse, one.equal) == (other.worse, other.better, other.equal)
    for mean, mirrored in zip(there.averages, back.averages, strict=True):
        assert (mean.mean_a, mean.mean_b, mean.difference) == (mirrored.mean_b, mirrored.mean_a, -mirrored.difference)
        assert (mean.interval.low, mean.interval.high) == (-mirrored.interval.high, -mirrored.interval.low)
    written = json.loads(json.dumps(to_builtins(there), allow_nan=False))
    assert problems(written, "comparison-1.0") == []
