"""Random choices follow from what they are for; windows are the first tokens and the last ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.random_decode import RandomDecode
from sparse_tasks.attention.methods.random_evict import RandomEvict
from sparse_tasks.attention.methods.random_prefill import RandomPrefill
from sparse_tasks.attention.methods.streaming_llm import StreamingLLM
from sparse_tasks.attention.methods.vattention import VAttention
from sparse_tasks.attention.methods.window_decode import WindowDecode
from sparse_tasks.attention.methods.window_evict import WindowEvict
from sparse_tasks.attention.methods.window_prefill import WindowPrefill
from sparse_tasks.attention.ops.draws import draws
from tests.attention.methods.naive import make_sequence, wide_cache


def test_draws_are_uniform_and_depend_on_every_counter() -> None:
    head, step = torch.arange(40)[:, None], torch.arange(500)
    found = draws(3, head, step)
    assert found.shape == (40, 500)
    assert ((found >= 0) & (found < 1)).all()
    assert torch.equal(found[7:9, 100:200], draws(3, torch.arange(7, 9)[:, None], torch.arange(100, 200)))
    counts = torch.histc(found, 10, 0, 1)
    assert ((counts - 2000).abs() < 200).all()  # 4.7 standard deviations
    assert abs(float(torch.corrcoef(torch.stack((found[0], found[1])))[0, 1])) < 0.2
    assert not torch.equal(found, draws(4, head, step))
    assert not torch.isin(draws(4, head, step)[:, 0], found[:, 0]).any()  # another seed is not another head


def test_random_blocks_do_not_depend_on_chunks() -> None:
    method = RandomPrefill(top_k=4, block=16, seed=5)
    q, k = make_sequence(300, 300, 4, 2, 16)
    whole = method.select(q, k, impl="torch")
    part = method.select(q[163:250] * 2, k[:250], length=300, impl="torch")
    assert whole is not None
    assert part is not None
    rows = slice(163 // 16, 250 // 16 + 1)
    assert torch.equal(part.mask(), whole.mask()[:, rows, : 250 // 16 + 1])
    other = RandomPrefill(top_k=4, block=16, seed=6).select(q, k, impl="torch")
    assert other is not None
    assert not torch.equal(other.mask(), whole.mask())
    assert whole.mask()[:, :, 0].all()
    assert not torch.equal(whole.mask()[0], whole.mask()[1])


def half(tensor: torch.Tensor, rank: int, dim: int = 1) -> torch.Tensor:
    """The heads of one of two devices."""
    return tensor.chunk(2, dim)[rank]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_device_draws_for_its_own_heads(rank: int) -> None:
    """What one device draws for all heads is what two draw for theirs."""
    q, k = make_sequence(300, 300, 8, 4, 16)
    layer = Layer(1, 3, rank, 2)
    blocks = RandomPrefill(top_k=4, block=16)
    whole = blocks.in_layer(Layer(1, 3)).select(q, k, impl="torch")
    part = blocks.in_layer(layer).select(half(q, rank), half(k, rank), impl="torch")
    assert whole is not None
    assert part is not None
    assert torch.equal(part.mask(), half(whole.mask(), rank, 0))
    tokens = RandomEvict(capacity=100)
    kept = tokens.keep(q, k, impl="torch").positions
    assert torch.equal(tokens.in_layer(layer).keep(half(q, rank), half(k, rank), impl="torch").positions,
                       half(kept, rank, 0))  # fmt: skip
    rows = k.transpose(0, 1)[None]
    lengths = torch.tensor([300], dtype=torch.int32)
    alone, shared = PagedCache.contiguous(rows, rows, lengths), PagedCache.contiguous(*[half(rows, rank)] * 2, lengths)
    for method in (RandomDecode(token_budget=64, page=16), VAttention(token_budget=64)):
        pages = method.select(q[-1:], replace(alone, layer=Layer(1, 3)), None, impl="torch").mask(300)
        own = method.select(half(q[-1:], rank), replace(shared, layer=layer), None, impl="torch").mask(300)
        assert torch.equal(own, half(pages, rank))


def test_random_pages_depend_on_the_step_and_not_on_the_batch() -> None:
    method = RandomDecode(token_budget=64, page=16)
    together = method.select(torch.randn(3, 4, 16), wide_cache([500, 320, 501], 512, 2), None, impl="torch").mask(512)
    alone = method.select(torch.randn(1, 4, 16), wide_cache([320], 320, 2), None, impl="torch").mask(320)
    assert torch.equal(together[1, :, :320], alone[0])
    assert not torch.equal(together[0], together[2])
    assert together[:, :, :16].all()


def test_a_short_budget_reads_the_current_page() -> None:
    cache = wide_cache([100], 112)
    for method in (RandomDecode(token_budget=16), WindowDecode(token_budget=1), WindowDecode(token_budget=16, page=16)):
        assert method.select(torch.randn(1, 1, 16), cache, None, impl="torch").mask(100)[0, 0, 99]


def test_random_eviction_ignores_the_content() -> None:
    method = RandomEvict(capacity=40, seed=1)
    kept = [method.keep(*make_sequence(200, 200, 4, 2, 16, seed=seed), impl="torch").positions for seed in (0, 1)]
    assert torch.equal(*kept)
    assert kept[0][0, :4].tolist() == [0, 1, 2, 3]
    assert kept[0][0, -20:].tolist() == list(range(180, 200))
    assert not torch.equal(kept[0][0], kept[0][1])


@pytest.mark.parametrize(("budget", "first"), [(20, 4), (6, 3), (1, 0)])
def test_a_window_is_the_first_tokens_and_the_last_ones(budget: int, first: int) -> None:
    q, k = make_sequence(90, 90, 4, 2, 16)
    expected = [*range(first), *range(90 - budget + first, 90)]
    assert WindowEvict(capacity=budget).keep(q, k, impl="torch").positions.tolist() == [expected] * 2
    rows = k.transpose(0, 1)[None]
    cache = PagedCache.contiguous(rows, rows, torch.tensor([90], dtype=torch.int32))
    assert (
        WindowDecode(token_budget=budget).select(q[-1:], cache, None, impl="torch").pages[0].tolist() == [expected] * 2
    )


def test_the_window_of_a_prompt_is_streaming_llm() -> None:
    q, k = make_sequence(700, 700, 4, 2, 16)
    ours, theirs = (
        WindowPrefill(window=100).select(q, k, impl="torch"),
        StreamingLLM(window=100).select(q, k, impl="torch"),
    )
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours.bands, theirs.bands)
