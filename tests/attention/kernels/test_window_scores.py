"""Guards the window's sums: each key's and each distance's share, at lengths that fit no tile, against one loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.kernels import window_scores as twins
from sparse_tasks.attention.kernels.window_scores import sampled_scores, window_scores
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError

KERNELS = ["triton", "torch"]


def make(n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries and keys, views of a fused projection."""
    maker = torch.Generator().manual_seed(n_k)
    fused = torch.randn(n_k, heads + 2 * kv_heads, size, generator=maker).to(dtype)
    return [fused[n_k - n_q :, :heads], fused[:, heads : heads + kv_heads]]


def naive(q: Tensor, k: Tensor, window: int, scale: float) -> tuple[Tensor, Tensor]:
    """Query by query in fp64, as the inputs are."""
    n_k, heads = len(k), q.shape[1]
    vertical, slash = torch.zeros(2, heads, n_k, dtype=torch.float64)
    for row in range(max(0, len(q) - window), len(q)):
        seen = n_k - len(q) + row + 1
        for head in range(heads):
            scores = k[:seen, head * k.shape[1] // heads].double() @ q[row, head].double() * scale
            weights = scores.softmax(0)
            vertical[head, :seen] += weights
            slash[head, :seen] += weights.flip(0)
    return vertical, slash


def check(
    n_q: int, n_k: int, heads: int, kv_heads: int, size: int, window: int, impl: str, dtype: torch.dtype = torch.float32
) -> None:
    q, k = make(n_q, n_k, heads, kv_heads, size, dtype)
    found = window_scores(q, k, window, scale=0.2, impl=impl)
    for sums, expected in zip(found, naive(q, k, window, 0.2), strict=True):
        assert sums.dtype == torch.float32
        torch.testing.assert_close(sums.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "window"),
    [
        (200, 200, 2, 1, 64, 64),
        (70, 301, 4, 2, 96, 20),
        (70, 300, 3, 1, 16, 70),  # several tiles of queries, several splits
        (1, 129, 1, 1, 128, 7),
        (5, 5, 1, 1, 32, 64),
        (128, 128, 2, 2, 48, 128),
    ],
)
def test_sums_match_a_loop(impl: str, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, window: int) -> None:
    check(n_q, n_k, heads, kv_heads, size, window, impl)


@pytest.mark.usefixtures("poisoned")
def test_products_of_16_bits_are_exact_and_sums_use_32() -> None:
    check(150, 400, 2, 1, 64, 150, "triton", torch.float16)  # Triton's interpreter cannot multiply bfloat16


@settings(max_examples=12, deadline=None)
@given(n_k=st.integers(1, 200), missing=st.integers(0, 150), window=st.integers(1, 80))
def test_all_attention_is_counted_once(n_k: int, missing: int, window: int) -> None:
    n_q = max(1, n_k - missing)
    q, k = make(n_q, n_k, 1, 1, 16)
    found = window_scores(q, k, window, impl="triton")
    twin = window_scores(q, k, window, impl="torch")
    for sums, expected in zip(found, twin, strict=True):
        torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-5)
        assert float(sums.sum()) == pytest.approx(min(n_q, window), rel=1e-4)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_slashes_are_optional(impl: str) -> None:
    q, k = make(50, 150, 2, 1, 64)
    vertical, slash = window_scores(q, k, 40, slashes=False, impl=impl)
    assert slash is None
    torch.testing.assert_close(vertical, window_scores(q, k, 40, impl=impl).vertical, rtol=0, atol=0)


def test_scores_beyond_the_range_of_exponentials_do_not_overflow() -> None:
    q, k = make(40, 200, 1, 1, 64)
    for impl in KERNELS:
        sums = window_scores(q * 1000, k, 40, impl=impl)
        for found, expected in zip(sums, naive(q * 1000, k, 40, 64**-0.5), strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


def test_the_twin_bounds_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "_CELLS", 1000)
    check(50, 150, 2, 1, 32, 40, "torch")


@pytest.mark.parametrize(
    ("shapes", "window", "scale", "field"),
    [
        (((4, 1, 16), (3, 1, 16)), 2, None, "q"),
        (((3, 1, 16), (3, 1, 32)), 2, None, "k"),
        (((3, 1, 16), (3, 1, 16)), 0, None, "window"),
        (((3, 1, 16), (3, 1, 16)), 2, 0.0, "scale"),
    ],
)
def test_bad_input_is_named(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], window: int, scale: float | None, field: str
) -> None:
    q, k = map(torch.zeros, shapes)
    with pytest.raises(UsageError) as error:
        window_scores(q, k, window, scale=scale)
    assert error.value.field == field


def sampled(
    q: Tensor, k: Tensor, positions: list[int], ends: list[int], scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """Sums by key of some queries, one after the other in fp64."""
    sums = torch.zeros(q.shape[1], len(k), dtype=torch.float64)
    for query, position, end in zip(q, positions, ends, strict=True):
        for head in range(q.shape[1]):
            seen = k[: position + 1, head * k.shape[1] // q.shape[1]].double()
            scores = softmax.capped(seen @ query[head].double() * scale)
            extra = [] if softmax.sinks is None else [softmax.sinks[head : head + 1].double()]
            weights = torch.cat([scores, *extra]).softmax(0)[: position + 1]
            upto = max(0, min(end, position + 1))
            sums[head, :upto] += weights[:upto]
    return sums


def draw(n_k: int, count: int, seed: int) -> tuple[list[int], list[int]]:
    """Ascending positions, and ends before, at and after them; some see nothing that is summed."""
    maker = torch.Generator().manual_seed(seed)
    positions = torch.randperm(n_k, generator=maker)[:count].sort().values
    return positions.tolist(), (positions - torch.randint(-40, 120, (count,), generator=maker)).tolist()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n_k", "count", "heads", "kv_heads", "size"),
    [(301, 20, 4, 2, 32), (300, 70, 2, 1, 16), (129, 1, 1, 1, 128), (5, 5, 1, 1, 32), (90, 40, 8, 2, 48)],
)
@pytest.mark.parametrize("extra", [False, True])
def test_sums_of_sampled_queries_match_a_loop(
    impl: str, n_k: int, count: int, heads: int, kv_heads: int, size: int, extra: bool
) -> None:
    positions, ends = draw(n_k, count, n_k)
    q, k = make(n_k, n_k, heads, kv_heads, size)
    q = q[positions]
    softmax = Softmax(sinks=torch.linspace(-2, 3, heads), soft_cap=4.0) if extra else PLAIN
    numbers = (torch.tensor(x, dtype=torch.int32) for x in (positions, ends))
    found = sampled_scores(q, k, *numbers, scale=0.2, softmax=softmax, impl=impl)
    assert found.dtype == torch.float32
    expected = sampled(q, k, positions, ends, 0.2, softmax)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert n_k == 129 or 0 < expected.sum() < heads * count


def test_sampling_the_last_queries_equals_a_window() -> None:
    q, k = make(30, 200, 2, 1, 32)
    positions = torch.arange(170, 200, dtype=torch.int32)
    found = sampled_scores(q, k, positions, positions + 1, impl="torch")
    torch.testing.assert_close(found, window_scores(q, k, 30, impl="torch").vertical, rtol=0, atol=0)


@pytest.mark.parametrize("field", ["positions", "ends"])
@pytest.mark.parametrize("bad", [torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int32)])
def test_bad_positions_are_named(field: str, bad: Tensor) -> None:
    q, k = make(3, 9, 1, 1, 16)
    given = {"positions": torch.zeros(3, dtype=torch.int32), "ends": torch.zeros(3, dtype=torch.int32)} | {field: bad}
    with pytest.raises(UsageError) as error:
        sampled_scores(q, k, **given)
    assert error.value.field == field
