"""The estimate of a run's time: in proportion to samples, lengths and cores, steady on a busy machine, with a range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.fast import Fastokens
from sparse_tasks.generators import estimate as module
from sparse_tasks.generators.estimate import Estimate, Pair, _Measured, _Pace, estimate
from tests.generators.requests import make_request


def made(
    qwen: PromptTokenizer,
    lengths: list[str],
    tasks: list[str],
    workers: int,
    *,
    samples: int = 8,
    had: float = 1.0,
    spread: float = 0.0,
    check: float = 0.0,
    encoder: type[Fastokens] | None = None,
) -> Estimate:
    """An estimate of processes that need a second for 2**15 tokens, two for the first sample, half a one to start.

    Args:
        had: Share of the time in which they were not waiting for a core.
        spread: Of the times around their mean.
        check: Seconds that the check of a sample takes for 2**15 tokens, which are 2**17 characters.
        encoder: The encoder that counts.
    """

    def measure(plan: list[Pair]) -> _Measured:
        seconds = [length / 2**15 for _, length in plan]
        return _Measured(
            0.5, [_Pace(2 * s, [s * (1 - spread), s * (1 + spread)], check * s, 2**17) for s in seconds], had, 1.0
        )

    class Processes:
        def __init__(self, workers: int, *_: object) -> None:
            pass

        def results(self, _: object, plans: list[list[Pair]], *rest: object) -> Iterator[_Measured]:
            return map(measure, plans)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "check_workers", lambda workers: 4)
        patch.setattr(module.time, "process_time", lambda: 0.0)
        patch.setattr(module, "_measure", lambda request, tokenizer, plan: measure(plan))
        patch.setattr(module, "Crew", Processes)
        return estimate(make_request(lengths, tasks, samples=samples), qwen, workers, encoder)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_time_is_in_proportion_to_lengths_samples_and_workers(qwen: PromptTokenizer, workers: int) -> None:
    found = made(qwen, ["32k", "1M"], ["ruler_vt", "ruler_niah"], workers)
    # What first samples pay for is the same at every length.
    short, long = (8 + workers) / workers, (32 * 8 + workers) / workers
    assert found.configs == {
        (task, length): pytest.approx(seconds)
        for task in ("ruler_vt", "ruler_niah")
        for length, seconds in ((2**15, short), (2**20, long))
    }
    assert found.seconds == pytest.approx(0.5 + sum(found.configs.values()))


def test_more_workers_than_cores_are_no_faster(qwen: PromptTokenizer) -> None:
    four, eight = (made(qwen, ["32k"], ["ruler_vt"], workers, samples=80, had=4 / workers) for workers in (4, 8))
    assert eight.seconds >= four.seconds
    assert eight.seconds < 1.2 * four.seconds
    assert eight.free == 1.0


@pytest.mark.parametrize("encoder", [None, Fastokens])
def test_no_more_of_a_sample_is_checked_than_both_encoders_encode(
    qwen: PromptTokenizer, encoder: type[Fastokens] | None
) -> None:
    free, checked = (made(qwen, ["1M"], ["ruler_vt"], 2, check=check, encoder=encoder) for check in (0.0, 1.0))
    # A file holds four samples of 2**20 tokens, so there are two; where there is no other encoder, all is encoded.
    assert checked.seconds - free.seconds == pytest.approx(2 * (32 if encoder is None else 4) / 2)


@settings(deadline=None, max_examples=50)
@given(had=st.floats(0.05, 1), spread=st.floats(0, 0.9), workers=st.sampled_from([1, 2, 4]))
def test_the_range_holds_the_estimate_and_other_programs_move_its_upper_end_alone(
    had: float, spread: float, workers: int, qwen: PromptTokenizer
) -> None:
    calm, busy = (made(qwen, ["32k"], ["ruler_vt"], workers, had=share, spread=spread) for share in (1.0, had))
    assert (calm.seconds, calm.low, calm.configs) == (busy.seconds, busy.low, busy.configs)
    assert calm.low < calm.seconds < calm.high <= busy.high
    assert busy.high == pytest.approx(calm.high / busy.free)
    assert busy.free == (1.0 if had > 0.85 else pytest.approx(had))


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_measure_what_they_make(workers: int, tokenizer_folders: dict[str, Path]) -> None:
    source = str(tokenizer_folders["byte_level"])
    request = make_request(["6k", "256k"], ["ruler_niah"], samples=1, tokenizer=source)
    found = estimate(request, load_tokenizer(source), workers)
    assert set(found.configs) == {("ruler_niah", 6 * 1024), ("ruler_niah", 2**18)}
    assert 0 < found.configs["ruler_niah", 6 * 1024] < found.configs["ruler_niah", 2**18] < 60
    assert 0 < found.low < found.seconds < found.high
