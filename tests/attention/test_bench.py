"""Guards the bench: it times every phase, tells the densities of the indices that ran, and says what is not there."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from sparse_tasks.attention.bench import Shape, Timing, bench, bench_decode, bench_prefill
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.method import Method
from sparse_tasks.attention.steps import select_prompt
from sparse_tasks.core.errors import UsageError
from tests.attention.toys import BLOCK, First, Loud, Near

SMALL = Shape(query_heads=4, kv_heads=2, head_size=16, batch=2, dtype="float32", device="cpu")
METHODS = [Near(near=2), Loud(loud=3), First(first=5)]


def check_times(timing: Timing) -> None:
    assert all(math.isfinite(t) and t > 0 for t in (timing.dense, timing.sparse, timing.index))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_phase_is_timed(method: Method, dtype: str) -> None:
    timing = bench(method, 96, dataclasses.replace(SMALL, dtype=dtype))
    assert (timing.method, timing.length) == (method.name, 96)
    check_times(timing)
    assert 0 < timing.selected <= timing.computed < 1


@pytest.mark.parametrize("at_once", [0, 48, 50])
def test_a_prompts_densities_cover_all_queries(at_once: int) -> None:
    """Stretches count by what dense attention would compute of them, so that they add up to one piece."""
    n, method = 200, Near(near=2, at_once=at_once)
    timing = bench_prefill(method, n, SMALL)
    check_times(timing)
    seen = sum(
        j <= i and (j < BLOCK or i // BLOCK - j // BLOCK < 2) for i in range(n) for j in range(n)
    ) / causal_count(n, n)
    assert timing.selected == pytest.approx(seen, rel=1e-9)
    q, k, _ = structured(n, 4, 2, 16)
    computed = sum(float(index.computed().double().mean()) for index in select_prompt(method, q, k, impl="torch"))
    assert timing.computed == pytest.approx(computed / causal_count(n, n), rel=1e-9)
    assert timing.computed > timing.selected  # blocks of 16 are computed in tiles


@pytest.mark.parametrize(("method", "expected"), [(Loud(loud=3), 12 / 64), (First(first=5), 5 / 64)])
def test_a_steps_density_is_the_share_of_the_cache_read(method: Loud | First, expected: float) -> None:
    timing = bench_decode(method, 64, SMALL)
    check_times(timing)
    assert timing.selected == timing.computed == expected


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_missing_device_is_named(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, remedy in {
        "tpu": "is unknown; choose from cuda, cpu",
        "cuda": "is not available to torch; cpu times the torch twins, at short lengths",
    }.items():
        with pytest.raises(UsageError) as error:
            bench(method, 64, dataclasses.replace(SMALL, device=device))
        assert (error.value.field, error.value.value, error.value.remedy) == ("device", device, remedy)


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"query_heads": 6, "kv_heads": 4}, "q"), ({"head_size": 40}, "head_size"), ({"kv_heads": 0}, "kv_heads")],
)
@pytest.mark.parametrize("method", [Near(near=2), First(first=5)], ids=lambda method: method.name)
def test_invalid_shapes_are_named(method: Method, changed: dict[str, int], field: str) -> None:
    with pytest.raises(UsageError) as error:
        bench(method, 64, dataclasses.replace(SMALL, **changed))
    assert error.value.field == field


def test_a_method_without_a_phase_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Odd(Method):
        name = "odd"
        oracle = None

    with pytest.raises(UsageError, match="has a phase that is not timed"):
        bench(Odd(), 64, SMALL)
