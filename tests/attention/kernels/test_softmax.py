"""Guards sinks and soft caps in every kernel, its twin and all that weighs keys, against loops in fp64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import Kept, PageIndex
from sparse_tasks.attention.inspection import seen_of_dense
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.kernels.step_weights import step_weights
from sparse_tasks.attention.kernels.window_scores import window_scores
from sparse_tasks.attention.ops.true_mass import block_mass, page_mass
from sparse_tasks.attention.patterns import Everything
from sparse_tasks.attention.picture import Rows
from sparse_tasks.attention.prefill import attend
from sparse_tasks.attention.reference import attention_reference, masked_attention
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.attention.steps import attend_after
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels import test_block_sparse, test_sparse_decode, test_vertical_slash
from tests.attention.kernels.prompts import make_prompt

KERNELS = ["triton", "torch"]
HEADS, KV_HEADS, SIZE, SCALE = 4, 2, 32, 0.4
SINKS = torch.tensor([3.0, -40.0, 0.5, 90.0])  # that of the last outweighs all keys
CAP = 1.5  # most scores of these tests are above it
SOFTMAXES = {
    "sinks": Softmax(sinks=SINKS),
    "cap": Softmax(soft_cap=CAP),
    "both": Softmax(sinks=SINKS.bfloat16(), soft_cap=CAP),
}
every_softmax = pytest.mark.parametrize("softmax", SOFTMAXES.values(), ids=SOFTMAXES)


def weights_of(q: Tensor, k: Tensor, head: int, softmax: Softmax, scale: float) -> tuple[Tensor, float]:
    """Of one query's head ``[head_size]`` and the keys that it sees: their weights, and the log of the denominator."""
    scores = (k.double() @ q.double() * scale).tolist()
    if softmax.soft_cap is not None:
        scores = [softmax.soft_cap * math.tanh(score / softmax.soft_cap) for score in scores]
    logits = scores if softmax.sinks is None else [*scores, float(softmax.sinks[head])]
    if not logits:
        return torch.zeros(0, dtype=torch.float64), -math.inf
    highest = max(logits)
    total = sum(math.exp(logit - highest) for logit in logits)
    weights = [math.exp(score - highest) / total for score in scores]
    return torch.tensor(weights, dtype=torch.float64), highest + math.log(total)


def looped(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, softmax: Softmax, scale: float) -> Tensor:
    """Attention under a mask ``[heads, n_q, n_k]``, fp32 ``[n_q, query_heads, head_size]``."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    for head in range(q.shape[1]):
        for row in range(len(q)):
            kept = seen[head * len(seen) // q.shape[1], row]
            keys, values = (x[kept, head * k.shape[1] // q.shape[1]] for x in (k, v))
            out[row, head] = weights_of(q[row, head], keys, head, softmax, scale)[0] @ values.double()
    return out.float()


def same(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    tolerance = 2e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


def test_a_cap_must_be_positive() -> None:
    for cap in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"^soft_cap: .* has to be above 0"):
            Softmax(soft_cap=cap)


@pytest.mark.parametrize("sinks", [torch.zeros(2), torch.zeros(1, 4), torch.zeros(4, dtype=torch.int32)])
def test_invalid_sinks_are_refused(sinks: Tensor) -> None:
    q, k, v = make_prompt(9, 9, HEADS, KV_HEADS, SIZE, torch.float32, 0)
    cache = PagedCache.contiguous(
        k.transpose(0, 1)[None], v.transpose(0, 1)[None], torch.tensor([9], dtype=torch.int32)
    )
    index, softmax = test_block_sparse.make_index(9, 9, 64, 64, 1, 0), Softmax(sinks=sinks)
    with pytest.raises(UsageError, match=r"^sinks: .* have to be \[4\] floats"):
        attend(q, k, v, index, softmax=softmax, impl="torch")
    with pytest.raises(UsageError, match=r"^sinks: "):
        sparse_decode(q[-1:], cache, PageIndex.dense(cache.lengths, KV_HEADS, 16, 9), softmax=softmax, impl="torch")
    with pytest.raises(UsageError, match=r"^sinks: "):
        window_scores(q, k, 4, softmax=softmax, impl="torch")


@every_softmax
def test_references_match_loops(softmax: Softmax, seed: int) -> None:
    q, k, v = make_prompt(21, 40, HEADS, KV_HEADS, SIZE, torch.float32, seed)
    seen = torch.rand(HEADS, 21, 40, generator=torch.Generator().manual_seed(seed)) < 0.4
    seen[1, 7] = False  # a query that sees nothing
    pattern, causal = Rows(seen), torch.arange(40) <= torch.arange(19, 40)[:, None]
    expected = looped(q, k, v, seen & causal, softmax, SCALE)
    assert (expected[7, 1] == 0).all()
    same(attention_reference(q, k, v, pattern, scale=SCALE, softmax=softmax), expected)
    same(masked_attention(q, k, v, pattern, scale=SCALE, softmax=softmax), expected)
    same(
        masked_attention(q, k, v, Everything(), scale=SCALE, softmax=softmax),
        looped(q, k, v, causal[None], softmax, SCALE),
    )


@pytest.mark.usefixtures("poisoned")
@every_softmax
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n_q", "n_k", "block_q", "block_k", "dtype"),
    [(130, 130, 64, 64, torch.float32), (61, 150, 16, 64, torch.float16), (1, 130, 128, 128, torch.float32)],
)
def test_blocks(
    impl: str, n_q: int, n_k: int, block_q: int, block_k: int, dtype: torch.dtype, softmax: Softmax, seed: int
) -> None:
    q, k, v = make_prompt(n_q, n_k, HEADS, KV_HEADS, SIZE, dtype, seed)
    index = test_block_sparse.make_index(n_q, n_k, block_q, block_k, 2, seed)
    index.counts[0, 0] = 0  # queries that see nothing
    out = attend(q, k, v, index, scale=SCALE, softmax=softmax, impl=impl)
    expected = attention_reference(q, k, v, index.pattern(), scale=SCALE, softmax=softmax)
    same(out, expected, dtype)


@pytest.mark.usefixtures("poisoned")
@every_softmax
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("n_q", "n_k", "dtype"), [(150, 150, torch.float32), (75, 205, torch.float16)])
def test_lines(impl: str, n_q: int, n_k: int, dtype: torch.dtype, softmax: Softmax, seed: int) -> None:
    q, k, v = make_prompt(n_q, n_k, HEADS, KV_HEADS, SIZE, dtype, seed)
    index = test_vertical_slash.make_index(n_q, n_k, 4, seed)
    out = attend(q, k, v, index, scale=SCALE, softmax=softmax, impl=impl)
    same(out, attention_reference(q, k, v, index.pattern(), scale=SCALE, softmax=softmax), dtype)


@pytest.mark.usefixtures("poisoned")
@every_softmax
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("splits", [1, 7])
def test_steps_count_a_sink_once(impl: str, splits: int, softmax: Softmax, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_tasks.attention.kernels.triton import sparse_decode as kernel

    monkeypatch.setattr(kernel, "PROGRAMS", 3 * KV_HEADS * splits)
    cache = test_sparse_decode.make_cache([330, 1, 90], KV_HEADS, SIZE, 16)
    index = test_sparse_decode.make_index(cache, 16, 0.8)
    index.counts[2, 1] = 0
    q = torch.randn(3, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    out, lse = sparse_decode(q, cache, index, scale=SCALE, softmax=softmax, impl=impl, return_lse=True)
    seen = index.mask(cache.capacity)
    for row in range(3):
        k, v = cache.gather(row)
        for head in range(HEADS):
            kept = seen[row, head // 2, : len(k)]
            keys, values = (x[kept, head // 2] for x in (k, v))
            weights, log_sum = weights_of(q[row, head], keys, head, softmax, SCALE)
            same(out[row, head], weights @ values.double())
            assert float(lse[row, head]) == pytest.approx(log_sum, abs=1e-4)


@pytest.mark.usefixtures("poisoned")
@every_softmax
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("n_q", "n_k", "window"), [(70, 141, 70), (20, 90, 7), (1, 5, 3)])
def test_sums_of_a_window(impl: str, n_q: int, n_k: int, window: int, softmax: Softmax, seed: int) -> None:
    q, k, _ = make_prompt(n_q, n_k, HEADS, KV_HEADS, SIZE, torch.float32, seed)
    vertical, slash = torch.zeros(2, HEADS, n_k, dtype=torch.float64)
    for row in range(max(0, n_q - window), n_q):
        end = n_k - n_q + row + 1
        for head in range(HEADS):
            weights, _ = weights_of(q[row, head], k[:end, head // 2], head, softmax, SCALE)
            vertical[head, :end] += weights
            slash[head, :end] += weights.flip(0)
    found = window_scores(q, k, window, scale=SCALE, softmax=softmax, impl=impl)
    same(found.vertical, vertical)
    assert found.slash is not None
    same(found.slash, slash)


@every_softmax
def test_all_implementations_give_the_same_weights(softmax: Softmax, seed: int) -> None:
    """Blocks and pages of the oracles, steps of eviction, tokens that follow one."""
    q, k, v = make_prompt(40, 70, HEADS, KV_HEADS, SIZE, torch.float32, seed)
    scale, causal = SIZE**-0.5, torch.arange(70) <= torch.arange(30, 70)[:, None]
    weights = torch.zeros(HEADS, 40, 70)
    for head in range(HEADS):
        for row in range(40):
            seen = causal[row]
            weights[head, row, seen] = weights_of(q[row, head], k[seen, head // 2], head, softmax, scale)[0].float()
    padded = torch.nn.functional.pad(weights, (0, 10, 14, 10)).view(HEADS, 4, 16, 5, 16)
    found = block_mass(q, k, 16, softmax)
    same(found.clamp_min(0), padded.sum((2, 4)))

    lengths = torch.tensor([70], dtype=torch.int32)
    cache = PagedCache.contiguous(k.transpose(0, 1)[None], v.transpose(0, 1)[None], lengths)
    last = weights[:, -1].view(KV_HEADS, 2, 70).sum(1)
    same(page_mass(q[-1:], cache, 10, softmax, impl="torch")[0], last.view(KV_HEADS, 7, 10).sum(2))
    everything = torch.arange(70, dtype=torch.int32).expand(KV_HEADS, -1)
    counts = torch.tensor([[70, 70]], dtype=torch.int32)
    listed = PageIndex(everything[None], counts, 1, lengths)
    for of in (None, listed):
        same(step_weights(q[-1:], cache, of, softmax=softmax, impl="torch")[0], last)

    kept = Kept(everything[:, :30].contiguous(), torch.tensor([30, 30], dtype=torch.int32), 30)
    same(attend_after(kept, q, k, v, softmax), looped(q, k, v, causal[None], softmax, scale))


@every_softmax
def test_recall_is_of_the_attention_to_keys_and_errors_are_those_of_sparse_attention(
    softmax: Softmax, seed: int
) -> None:
    q, k, v = make_prompt(20, 50, HEADS, KV_HEADS, SIZE, torch.float32, seed)
    seen = torch.rand(HEADS, 20, 50, generator=torch.Generator().manual_seed(seed)) < 0.5
    seen[:, 3] = False
    pattern, scale, causal = Rows(seen), SIZE**-0.5, torch.arange(50) <= torch.arange(30, 50)[:, None]
    out, sums = seen_of_dense(q, k, v, pattern, softmax)
    dense, sparse = (
        looped(q, k, v, mask, softmax, scale) for mask in (causal[None].expand(HEADS, -1, -1), seen & causal)
    )
    same(out, dense)
    keys_alone = Softmax(soft_cap=softmax.soft_cap)
    for head in range(HEADS):
        held = 0.0
        for row in range(20):
            weights, _ = weights_of(q[row, head], k[causal[row], head // 2], head, keys_alone, scale)
            held += float(weights[seen[head, row, causal[row]]].sum())
        assert float(sums[0, head]) == pytest.approx(held, rel=1e-4)
    assert (sums[1] == 20).all()
    same(sums[2], (sparse - dense).square().sum((0, 2)))
    whole = seen_of_dense(q, k, v, Everything(), softmax)[1]
    assert whole[0].tolist() == pytest.approx([20] * HEADS, rel=1e-5)
    assert float(whole[2].max()) < 1e-8


@pytest.mark.parametrize("impl", KERNELS)
def test_a_cap_far_above_all_scores_changes_nothing(impl: str, seed: int) -> None:
    q, k, v = make_prompt(90, 130, HEADS, KV_HEADS, SIZE, torch.float32, seed)
    index = test_block_sparse.make_index(90, 130, 64, 64, 2, seed)
    capped = attend(q, k, v, index, softmax=Softmax(soft_cap=1000.0), impl=impl)
    torch.testing.assert_close(capped, attend(q, k, v, index, impl=impl), rtol=1e-3, atol=1e-3)


def test_plain_means_only_softmax(seed: int) -> None:
    scores = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed))
    assert PLAIN.plain
    assert torch.equal(PLAIN.weights(PLAIN.capped(scores)), scores.softmax(-1))
    assert PLAIN.of(0) is PLAIN
    assert PLAIN.exponents(0.5) == (pytest.approx(0.5 * math.log2(math.e)), None)
