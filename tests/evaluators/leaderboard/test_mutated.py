"""Guards the keeper's door: whatever is handed in gets a verdict, in bounded time, and no lie is accepted."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.leaderboard.check import Verdict, check
from sparse_tasks.evaluators.leaderboard.submission import Reason
from sparse_tasks.schemas import problems
from tests.evaluators.leaderboard.mutations import MUTATIONS, RENAMING, dishonesty, mutated

Row = dict[str, Any]
Judge = Callable[[bytes], Verdict]


@pytest.fixture(scope="module")
def judge(dataset: Dataset, rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Checks a submission, and what holds of every verdict."""
    path = tmp_path_factory.mktemp("mutated") / "submission.json"

    def verdict(content: bytes) -> Verdict:
        path.write_bytes(content)
        began = time.process_time()
        found = check(path, [dataset])
        took = time.process_time() - began
        assert problems(found.as_dict(), "verdict-1.0") == []
        assert all(_is_one_line(finding) for finding in (*found.reasons, *found.warnings))
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]
        assert took < 2, f"{took:.1f} s"
        if found.accepted:
            assert dishonesty(content, rows, dataset.sha256) is None
        return found

    return verdict


def _is_one_line(finding: Reason) -> bool:
    json.dumps([finding.code, finding.where, finding.message]).encode("ascii")
    return finding.where.isprintable() and finding.message.isprintable() and len(finding.message) < 2000


def test_what_is_honest_is_accepted_and_found_honest(
    honest: bytes, judge: Judge, rows: list[Row], dataset: Dataset
) -> None:
    assert judge(honest).reasons == ()
    assert dishonesty(honest, rows, dataset.sha256) is None


@pytest.mark.parametrize("kind", RENAMING)
@pytest.mark.parametrize("seed", range(5))
def test_other_names_and_other_blanks_are_accepted(kind: str, seed: int, honest: bytes, judge: Judge) -> None:
    assert judge(MUTATIONS[kind](honest, random.Random(seed))).reasons == ()


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_kind_of_mutation_gets_a_verdict(kind: str, honest: bytes, judge: Judge) -> None:
    for seed in range(4):
        judge(mutated(honest, seed, kind)[1])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(MUTATIONS)))
def test_no_mutation_passes_for_honest(seed: int, kind: str, honest: bytes, judge: Judge) -> None:
    judge(mutated(honest, seed, kind)[1])


@pytest.mark.parametrize(
    "kind", ["better_score", "other_data_set", "ids", "all_golds", "texts_rotated", "bomb", "name_twice"]
)
def test_what_can_only_be_a_lie_is_refused(kind: str, honest: bytes, judge: Judge) -> None:
    for seed in range(8):
        assert not judge(MUTATIONS[kind](honest, random.Random(seed))).accepted


@pytest.mark.parametrize("kind", ["bomb", "arrays", "nested", "huge_text", "raw_lines"])
def test_what_is_large_takes_little_memory(kind: str, honest: bytes, dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    path.write_bytes(honest)
    check(path, [dataset])  # what is kept between calls
    for seed in range(3):
        path.write_bytes(MUTATIONS[kind](honest, random.Random(seed)))
        tracemalloc.start()
        try:
            check(path, [dataset])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 500 * 2**20
