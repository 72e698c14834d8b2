"""Any submission gets a verdict, in bounded memory, and no false claim is accepted.

``benchmarks/submissions.py`` does the same with ten thousand, and measures their time.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.records import Verdict
from tests.evaluators.leaderboard.mutations import MUTATIONS, RENAMING, dishonesty, mutated
from tests.schemas.validation import problems

Row = dict[str, Any]
Judge = Callable[[bytes], Verdict]
LIES = ("better_score", "other_data_set", "ids", "all_golds", "bomb")


@pytest.fixture(scope="module")
def judge(dataset: Dataset, rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Checks a submission, and what holds of every verdict."""
    path = tmp_path_factory.mktemp("mutated") / "submission.json"

    def verdict(content: bytes) -> Verdict:
        path.write_bytes(content)
        verdict = check(path, [dataset])
        assert problems(to_builtins(verdict), "verdict-1.0") == []
        for finding in (*verdict.reasons, *verdict.warnings):
            assert f"{finding.where}{finding.message}".isprintable()
            assert len(finding.message) < 2000
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]
        if verdict.accepted:
            assert dishonesty(content, rows, dataset.sha256) is None
        return verdict

    return verdict


def test_an_honest_submission_is_accepted_by_check_and_oracle(
    honest: bytes, judge: Judge, rows: list[Row], dataset: Dataset
) -> None:
    assert judge(honest).reasons == []
    assert dishonesty(honest, rows, dataset.sha256) is None


@pytest.mark.parametrize("kind", RENAMING)
def test_other_names_and_white_space_are_accepted(kind: str, honest: bytes, judge: Judge) -> None:
    for seed in range(2):
        assert judge(MUTATIONS[kind](honest, random.Random(seed))).reasons == []


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_kind_of_mutation_gets_a_verdict(kind: str, honest: bytes, judge: Judge) -> None:
    for seed in range(2):
        judge(mutated(honest, seed, kind)[1])


@pytest.mark.nightly
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(MUTATIONS)))
def test_no_mutation_is_accepted_as_honest(seed: int, kind: str, honest: bytes, judge: Judge) -> None:
    judge(mutated(honest, seed, kind)[1])


@pytest.mark.parametrize("kind", LIES)
def test_false_claims_are_refused(kind: str, honest: bytes, judge: Judge) -> None:
    for seed in range(2):
        assert not judge(MUTATIONS[kind](honest, random.Random(seed))).accepted


@pytest.mark.parametrize("kind", ["bomb", "arrays", "nested"])
def test_large_submissions_take_little_memory(kind: str, honest: bytes, dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    path.write_bytes(honest)
    check(path, [dataset])  # what is kept between calls
    path.write_bytes(MUTATIONS[kind](honest, random.Random(0)))
    tracemalloc.start()
    try:
        check(path, [dataset])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500 * 2**20
