"""Guards vAttention: estimates are right on average, come nearer as more is drawn, and keep what epsilon promises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.inspection import seen_of_dense
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.sparq import SparQ
from sparse_tasks.attention.methods.vattention import VAttention
from sparse_tasks.attention.picture import Rows
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.test_sparse_decode import make_cache
from tests.attention.methods.naive import attention, page_lists, top, wide_cache

N, HEADS, KV_HEADS, SIZE = 400, 4, 2, 16
GROUP, AT_ONCE = 2, 100
SINKS = torch.tensor([4.0, -3.0])


def step(seed: int = 0) -> tuple[Tensor, PagedCache]:
    """A query and its cache; scores differ by some units."""
    cache = make_cache([N], KV_HEADS, SIZE, 16, seed=seed)
    return torch.randn(1, HEADS, SIZE, generator=torch.Generator().manual_seed(seed)), cache


def copies(count: int, loud: float = 1.0) -> tuple[Tensor, PagedCache]:
    """A group's query and its cache, repeated: each KV head draws separately."""
    cache = make_cache([N], 1, SIZE, 16)
    keys, values = (x.expand(-1, -1, count, -1) for x in (cache.keys, cache.values))
    q = torch.randn(1, GROUP, SIZE, generator=torch.Generator().manual_seed(0)) * loud
    return q.repeat(1, count, 1), replace(cache, keys=keys, values=values)


def sums(q: Tensor, cache: PagedCache, index: PageIndex, softmax: Softmax) -> Tensor:
    """Denominator and numerator of each query head, float64 ``[kv_heads, group, 1 + value_size]``."""
    out, lse = sparse_decode(q, cache, index, softmax=softmax, impl="torch", return_lse=True)
    denominator = lse[0].double().exp()[:, None]
    return torch.cat([denominator, out[0].double() * denominator], 1).unflatten(0, (-1, GROUP))


def with_sinks(count: int) -> Softmax:
    return Softmax(sinks=SINKS.repeat(count), soft_cap=3.0)


def exact(*, plain: bool = True) -> Tensor:
    """``sums`` of dense attention, ``[group, 1 + value_size]``."""
    q, cache = copies(1)
    return sums(q, cache, PageIndex.dense(cache.lengths, 1, 1, N), PLAIN if plain else with_sinks(1))[0]


def estimates(method: VAttention, draws: int, *, plain: bool = True, weighted: bool = True) -> Tensor:
    """``sums`` of many draws for one step."""
    q, cache = copies(AT_ONCE)
    softmax, found = PLAIN if plain else with_sinks(AT_ONCE), []
    for seed in range(draws // AT_ONCE):
        index = replace(method, seed=seed).under(softmax).select(q, cache, None, impl="torch")
        found.append(sums(q, cache, index if weighted else replace(index, log_weights=None), softmax))
    return torch.cat(found)


def deviations(found: Tensor, expected: Tensor) -> Tensor:
    """By how many standard errors the means of estimates are off."""
    return (found.mean(0) - expected) / (found.std(0) / math.sqrt(len(found)))


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        (VAttention(token_budget=40), True),
        (VAttention(sparsity=0.8, heavy=0.2), False),
        (VAttention(token_budget=13, heavy=0.0), True),
    ],
)
def test_numerator_and_denominator_are_unbiased(method: VAttention, plain: bool) -> None:
    """Of 34 means none is off by 4.5 standard errors; attention to the same tokens without weights is, by far."""
    found = estimates(method, 2000, plain=plain)
    assert float(deviations(found, exact(plain=plain)).abs().max()) < 4.5
    unweighted = deviations(estimates(method, 2000, plain=plain, weighted=False), exact(plain=plain))
    assert float(unweighted[:, 0].max()) < -50


def test_errors_decrease_with_the_sample_size() -> None:
    """The variance is that of draws without replacement, so it ends at nothing."""
    sample, rest, spread = (12, 48, 190), N - 20, []
    for drawn in sample:
        method = VAttention(token_budget=20 + drawn, heavy=20 / (20 + drawn), r=SIZE)
        spread.append(estimates(method, 2000)[..., 0].var(0))
    for place in (0, 1):
        few, many = sample[place : place + 2]
        expected = many * (rest - few) / (few * (rest - many))
        assert (spread[place] / spread[place + 1]).tolist() == pytest.approx([expected] * GROUP, rel=0.15)
    torch.testing.assert_close(estimates(VAttention(token_budget=N), AT_ONCE)[0], exact(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.05, 0.05), (0.02, 0.3), (0.15, 0.1)])
def test_the_error_exceeds_epsilon_at_most_with_probability_delta(epsilon: float, delta: float, plain: bool) -> None:
    """By all query heads; the one that needs most would hardly keep it with fewer tokens."""
    method, draws = VAttention(epsilon=epsilon, delta=delta, base=0.2, r=SIZE), 1000
    expected = exact(plain=plain)[:, 0]
    off = ((estimates(method, draws, plain=plain)[..., 0] - expected) / expected).abs()
    missed = (off > epsilon).double().mean(0)
    # Three standard errors, and 2% for a variance that is estimated itself.
    assert float(missed.max()) <= delta + 3 * math.sqrt(delta * (1 - delta) / draws) + 0.02
    assert float(missed.max()) >= delta / 2


def test_more_is_drawn_if_tokens_differ_more() -> None:
    counts = []
    for loud in (0.0, 0.5, 1.5):
        q, cache = copies(1, loud)
        counts.append(int(VAttention(epsilon=0.02, r=SIZE).select(q, cache, None, impl="torch").counts))
    assert counts[0] == N // 10  # of equal ones the first sample tells all
    assert counts[0] < counts[1] < counts[2] <= N


def test_heavy_hitters_are_sparqs_and_both_ends() -> None:
    q, cache = step(3)
    index = VAttention(token_budget=60, heavy=0.6, sinks=5, recent=7, r=6).select(q, cache, None, impl="torch")
    by_place = index.shifts(N)
    assert by_place is not None
    ends = {*range(5), *range(N - 7, N)}
    sparq = page_lists(SparQ(token_budget=36, r=6, recent=0.0).select(q, cache, None, impl="torch"))[0]
    for head, listed in enumerate(page_lists(index)[0]):
        certain = [p for p in listed if by_place[0, head, p] == 0]
        assert (len(listed), len(certain)) == (60, 36)
        assert set(certain) >= ends
        # All but the least of SparQ's own, which made room for the ends.
        assert len(set(certain) - set(sparq[head])) <= len(ends)
        drawn = set(listed) - set(certain)
        assert by_place[0, head, sorted(drawn)].tolist() == pytest.approx([math.log((N - 36) / 24)] * 24)


def test_with_all_components_heavy_hitters_are_those_of_attention() -> None:
    q, cache = step(1)
    index = VAttention(token_budget=40, heavy=1.0, sinks=0, recent=0, r=SIZE).select(q, cache, None, impl="torch")
    weights = attention(q, cache.gather(0)[0])[:, 0]
    expected = [top(weights[2 * head] + weights[2 * head + 1], 40, {N - 1}) for head in range(KV_HEADS)]
    assert page_lists(index) == [expected]
    assert index.log_weights is not None
    assert (index.log_weights[..., :40] == 0).all()


def test_other_tokens_are_drawn_uniformly() -> None:
    q, cache = copies(500)
    often = VAttention(token_budget=100, heavy=0.2, r=SIZE).select(q, cache, None, impl="torch").mask(N)[0]
    rest = often.double().mean(0)
    rest = rest[rest < 1]
    share = 80 / (N - 20)
    assert len(rest) == N - 20
    # Chi squared of 380 cells, whose sum is given: 379 and a standard deviation of 27.5.
    squares = (rest - share).square().sum() * 500 / (share * (1 - share))
    assert float(squares) == pytest.approx(379, abs=4 * 27.5)


def test_draws_depend_on_layer_head_length_and_seed_but_not_on_the_batch() -> None:
    method = VAttention(token_budget=64, heavy=0.0)
    cache = wide_cache([500, 320, 501], 512, 2)
    q = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1))
    masks = method.select(q, cache, None, impl="torch").mask(512)
    alone = method.select(q[1:2], wide_cache([320], 320, 2), None, impl="torch").mask(320)
    assert torch.equal(masks[1, :, :320], alone[0])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0, 0], masks[0, 1])
    for other in (
        replace(method, seed=1).select(q, cache, None, impl="torch"),
        method.select(q, replace(cache, layer=Layer(1, 2)), None, impl="torch"),
    ):
        assert not torch.equal(other.mask(512), masks)


@pytest.mark.parametrize("arguments", [{"sparsity": 0.7}, {"epsilon": 0.1}, {"token_budget": 50, "heavy": 0.3}])
def test_kernels_match_their_twins(arguments: dict[str, float]) -> None:
    cache = make_cache([90, 1, 33], 2, 32, 16)
    q = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(3))
    method = VAttention(**arguments)  # type: ignore[arg-type]
    ours, twin = (method.select(q, cache, None, impl=impl) for impl in ("triton", "torch"))
    assert page_lists(ours) == page_lists(twin)
    outs = [sparse_decode(q, cache, index, impl=i) for index, i in ((ours, "triton"), (twin, "torch"))]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 160_000) | st.integers(0, 99), min_size=1, max_size=3),
    sparsity=st.floats(0, 0.999),
    heavy=st.floats(0, 1),
)
def test_drawn_tokens_are_counted(lengths: list[int], sparsity: float, heavy: float) -> None:
    """Any share of heavy hitters leaves the count as it is, and weights are of nothing less than one token."""
    cache = wide_cache(lengths, 160_000)
    method = VAttention(sparsity=sparsity, heavy=heavy, r=1)
    index = method.select(torch.ones(len(lengths), 1, 16), cache, None, impl="torch")
    expected = [method.at(length).token_budget if length else 0 for length in lengths]
    assert index.counts[:, 0].tolist() == index.computed()[:, 0].tolist() == expected
    assert index.log_weights is not None
    listed = torch.arange(index.pages.shape[2]) < index.counts[..., None]
    assert (index.log_weights[listed] >= 0).all()
    assert index.log_weights[listed].isfinite().all()


def test_an_inspection_compares_the_output_with_dense_attention() -> None:
    q, k, v = structured(N, HEADS, KV_HEADS, SIZE, seed=2)
    lengths = torch.tensor([N], dtype=torch.int32)
    cache = PagedCache.contiguous(k.transpose(0, 1)[None], v.transpose(0, 1)[None], lengths)
    index = VAttention(sparsity=0.8).select(q[-1:], cache, None, impl="torch")
    shifts = index.shifts(N)
    assert shifts is not None
    dense, off = seen_of_dense(q[-1:], k, v, Rows(index.mask(N)[0][:, None]), shifts=shifts[0])
    squares = (sparse_decode(q[-1:], cache, index, impl="torch") - dense).square().sum((0, 2))
    torch.testing.assert_close(off[2].float(), squares, rtol=1e-3, atol=1e-6)


def test_a_budget_and_epsilon_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="token_budget") as error:
        VAttention(token_budget=100, epsilon=0.1)
    assert error.value.field == "vattention.epsilon"
