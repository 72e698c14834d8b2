"""Guards DuoAttention: which heads stream, how far they see, a sparsity over all layers, and what is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.calibration import Calibration
from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.delta import Delta
from sparse_tasks.attention.methods.duo_attention import DuoAttentionDecode, DuoAttentionPrefill, DuoMethod, ranks
from sparse_tasks.attention.picture import Rows
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.attention.steps import Memory
from sparse_tasks.core.errors import SparseTasksError, UsageError
from sparse_tasks.core.shape import Shape
from tests.attention.methods.naive import crossed_bands, line_lists, make_sequence, wide_cache
from tests.attention.toys import Where

LAYERS, HEADS, KV_HEADS, SIZE = 5, 8, 4, 16


def calibrated(method: DuoMethod, outside: list[list[float]] | None = None) -> DuoMethod:
    """A method in a model of which was measured how much each query head attends to what is far."""
    shares = torch.tensor(outside) if outside else torch.rand(LAYERS, HEADS, generator=torch.Generator().manual_seed(4))
    return method._bound(measured=Calibration("duo_attention", 1, "m", "made ones", {"far": shares}))


def prompts(method: DuoMethod, n: int) -> list[LineIndex | None]:
    """The index of each layer."""
    q, k = make_sequence(n, n, HEADS, KV_HEADS, SIZE)
    assert isinstance(method, DuoAttentionPrefill)
    return [method.in_layer(Layer(i, LAYERS)).select(q, k, impl="torch") for i in range(LAYERS)]


def step(method: DuoMethod, lengths: list[int], layer: int = 0) -> torch.Tensor:
    """What the steps of sequences read in one layer: bool ``[batch, kv_heads, longest]``."""
    assert isinstance(method, DuoAttentionDecode)
    longest = max(lengths)
    made = wide_cache(lengths, -(-longest // 16) * 16, KV_HEADS)
    cache = PagedCache(made.keys, made.values, made.block_table, made.lengths, layer=Layer(layer, LAYERS))
    return method.select(torch.randn(len(lengths), HEADS, SIZE), cache, None, impl="torch").mask(longest)


def test_heads_with_the_least_distant_attention_stream_in_any_layer() -> None:
    shares = [[0.9, 0.5, 0.1, 0.1, 0.3, 0.5, 0.6, 0.6], *[[0.8] * HEADS] * 3, [0.2, 0.2, 0.7, 0.5, 0.3, 0.1, 0.9, 0.9]]
    # Of KV heads: .7, .1, .4, .6; .8 in the three layers between; .2, .6, .2, .9.
    expected = [{1, 2, 3}, set(), set(), set(), {0, 1, 2}]
    prefill = calibrated(DuoAttentionPrefill(streaming=0.3, sinks=3, recent=20), shares)
    decode = calibrated(DuoAttentionDecode(streaming=0.3, sinks=16, recent=32), shares)
    for layer, (index, streaming) in enumerate(zip(prompts(prefill, 300), expected, strict=True)):
        if not streaming:
            assert index is None
        else:
            assert index is not None
            few = index.selected_density() < 1
            assert {head for head in range(KV_HEADS) if few[head]} == streaming
        read = step(decode, [300], layer)[0].sum(1)
        assert {head for head in range(KV_HEADS) if read[head] < 300} == streaming


@pytest.mark.parametrize(("n_q", "n_k", "sinks", "recent"), [(300, 300, 4, 50), (77, 301, 0, 1), (130, 400, 70, 129)])
def test_streaming_heads_see_first_and_last_tokens_of_a_prompt(n_q: int, n_k: int, sinks: int, recent: int) -> None:
    q, k, v = (torch.randn(n, h, SIZE) for n, h in ((n_q, HEADS), (n_k, KV_HEADS), (n_k, KV_HEADS)))
    method = DuoAttentionPrefill(streaming=0.5, sinks=sinks, recent=recent).in_layer(Layer(1, 2))
    out, (index,) = sparse_prefill(method, q, k, v, impl="torch")
    assert isinstance(index, LineIndex)
    columns, slashes, bands = line_lists(index)
    streams = [rank < KV_HEADS for rank in ranks(None, 2, KV_HEADS)[1]]
    assert 0 < sum(streams) < KV_HEADS
    mask = index.pattern().mask(n_q, n_k)
    near = Where(lambda i, j: (j < sinks) | (i - j < recent)).mask(n_q, n_k)[0]
    for head, one in enumerate(streams):
        if one:
            assert columns[head] == list(range(sinks))
            assert slashes[head] == list(range(recent))
            assert bands[head] == crossed_bands(slashes[head], 128, 64)
            assert (mask[head] | ~near).all()
            assert index.selected_density()[head] == int(near.sum()) / causal_count(n_q, n_k)
        else:
            assert index.selected_density()[head] == 1
            assert index.computed()[head] == causal_count(n_q, n_k)
    reference = attention_reference(q, k, v, Rows(mask.repeat_interleave(HEADS // KV_HEADS, 0)))
    torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_kernels_take_heads_of_both_kinds(impl: str) -> None:
    q, k, v = (torch.randn(200, h, SIZE) for h in (4, 2, 2))
    method = DuoAttentionPrefill(streaming=0.5, sinks=5, recent=40)
    out, (index,) = sparse_prefill(method, q, k, v, impl=impl)
    torch.testing.assert_close(out, attention_reference(q, k, v, index.pattern()), rtol=1e-3, atol=1e-3)


def test_steps_read_first_and_last_pages() -> None:
    method = calibrated(DuoAttentionDecode(streaming=0.5, sinks=20, recent=40, page=16))
    lengths = [1, 50, 90, 333]
    streams = [rank < LAYERS * KV_HEADS // 2 for rank in ranks(method.measured, LAYERS, KV_HEADS)[0]]
    assert 0 < sum(streams) < KV_HEADS
    found = step(method, lengths)
    for row, length in enumerate(lengths):
        pages = -(-length // 16)
        # The nearest number of whole pages: 60 tokens, of which the last page may be a part.
        count = max(1, min(pages, math.floor(pages - max(0, length - 60) / 16 + 0.5)))
        first = max(0, min(2, max(count - 3, count // 2)))
        near = {*range(first), *range(pages - count + first, pages)}
        for head, one in enumerate(streams):
            read = {position // 16 for position in found[row, head].nonzero()[:, 0].tolist()}
            assert read == (near if one else set(range(pages)))
            assert found[row, head, length - 1]
            assert not found[row, head, length:].any()


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(20, 5000), sparsity=st.floats(0.0, 0.95), sinks=st.integers(0, 90), recent=st.integers(1, 300)
)
def test_layers_together_meet_the_sparsity(length: int, sparsity: float, sinks: int, recent: int) -> None:
    """In both phases; a query sees at least itself, and pages are whole."""
    options = {"sparsity": sparsity, "sinks": sinks, "recent": recent}
    indices = prompts(calibrated(DuoAttentionPrefill(**options)), length)  # type: ignore[arg-type]
    seen = sum(1.0 if index is None else float(index.selected_density().mean()) for index in indices) / LAYERS
    assert seen == pytest.approx(1 - sparsity, abs=3 / length)
    method = calibrated(DuoAttentionDecode(**options, page=4))  # type: ignore[arg-type]
    read = sum(float(step(method, [length], layer).double().mean()) for layer in range(LAYERS)) / LAYERS
    assert read == pytest.approx(1 - sparsity, abs=4 / length)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(500, 5000), sparsity=st.floats(0.05, 0.6))
def test_the_fewest_heads_stream_that_meet_it_with_the_whole_window(length: int, sparsity: float) -> None:
    """The same in both phases, and none has a shorter window unless all of them stream."""
    heads, window = LAYERS * KV_HEADS, 30
    prefill = calibrated(DuoAttentionPrefill(sparsity=sparsity, sinks=10, recent=20))
    decode = calibrated(DuoAttentionDecode(sparsity=sparsity, sinks=10, recent=20, page=1))
    kinds, widest = [], []
    for layer, index in enumerate(prompts(prefill, length)):
        seen = torch.ones(KV_HEADS) if index is None else index.selected_density().float()
        read = step(decode, [length], layer)[0].sum(1)
        assert [bool(one < length) for one in read] == [bool(one < 1) for one in seen]
        kinds += [bool(one < length) for one in read]
        widest += [int(one) for one in read if one < length]
        if index is not None:
            assert all(len(some) >= 20 for some in line_lists(index)[1])
    assert all(one >= window for one in widest)
    # With one head less, all of the target could not be left out.
    least = 1 - (sum((window, *range(1, window))) + (length - window) * window) / causal_count(length, length)
    assert (sum(kinds) - 1) * least < sparsity * heads <= sum(kinds) * least + 1e-3


def test_a_chunk_has_the_heads_and_the_window_of_its_prompt() -> None:
    q, k = make_sequence(700, 700, HEADS, KV_HEADS, SIZE)
    method = DuoAttentionPrefill(sparsity=0.5, sinks=8, recent=32).in_layer(Layer(1, 3))
    whole = method.select(q, k, impl="torch")
    assert whole is not None
    mask = whole.pattern().mask(700, 700)
    for start, end in ((0, 350), (350, 351), (351, 700)):
        part = method.select(q[start:end], k[:end], length=700, impl="torch")
        assert part is not None
        assert torch.equal(part.pattern().mask(end - start, end), mask[:, start:end, :end])


@pytest.mark.parametrize("softmax", [Softmax(), Softmax(sinks=torch.tensor([2.0, -3.0, 0.0, 1.0]), soft_cap=3.0)])
def test_the_largest_attention_outside_first_and_last_tokens_is_measured(softmax: Softmax) -> None:
    q, k = make_sequence(500, 500, 4, 2, SIZE)
    scores = softmax.capped(q.transpose(0, 1) @ k.transpose(0, 1).repeat_interleave(2, 0).mT * SIZE**-0.5)
    weights = softmax.of(slice(None), 4, 1).weights(scores.masked_fill(torch.ones(500, 500).triu(1) > 0, -math.inf))
    method = DuoAttentionPrefill(sinks=60, recent=100).under(softmax)
    # The first query that sees a key outside stands at 160, and sees one; the last 64 of each part count.
    counted = [*range(160, 201), *range(500 - 64, 500)]
    expected = [sum(float(weights[head, i, 60 : i - 99].max()) for i in counted) / len(counted) for head in range(4)]
    sums = method.measure(None, q[:201], k[:201], [])
    sums = method.measure(sums, q[201:], k, [])
    found = method.tensors([sums, sums])["far"]
    torch.testing.assert_close(found, torch.tensor([expected, expected]), rtol=1e-4, atol=1e-6)


def test_one_strong_weight_ranks_above_many_weak_ones() -> None:
    """Though less of its attention is far."""
    q, k = torch.zeros(600, 2, SIZE), torch.zeros(600, 2, SIZE)
    q[..., 0], k[100, 1, 0] = 1.0, 80.0  # of head 0 all weights are alike
    k[590:, 1, 0] = 81.0
    method = DuoAttentionPrefill(sinks=4, recent=64)
    found = method.tensors([method.measure(None, q[-3:], k, [])])["far"][0]
    assert found[0] == pytest.approx(1 / 599, rel=0.01)
    assert 0.03 < found[1] < 0.2


def test_prompts_without_outside_tokens_measure_nothing() -> None:
    method = DuoAttentionPrefill()
    with pytest.raises(UsageError, match=r"^data: .*64 first and 256 last tokens; take longer ones"):
        method.tensors([method.measure(None, *make_sequence(320, 320, 4, 2, SIZE), [])])


@pytest.mark.parametrize(("layer", "heads"), [(Layer(0, 2), HEADS), (Layer(0, LAYERS), 4)])
def test_wrong_layers_or_heads_are_refused(layer: Layer, heads: int) -> None:
    q, k = make_sequence(400, 400, heads, 2, SIZE)
    words = r"calibration: .* has far of \(5, 8\) layers and heads"
    with pytest.raises(UsageError, match=rf"^duo_attention_prefill\.{words}"):
        calibrated(DuoAttentionPrefill(sparsity=0.5)).in_layer(layer).select(q, k, impl="torch")  # type: ignore[attr-defined]
    memory = Memory(calibrated(DuoAttentionDecode(sparsity=0.5)), layer, impl="torch")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"^duo_attention_decode\.{words}"):
        memory.step(q[-1:], k, k)


@settings(max_examples=30, deadline=None)
@given(layers=st.integers(1, 60), kv_heads=st.integers(1, 16))
def test_without_a_calibration_heads_are_spread_evenly(layers: int, kv_heads: int) -> None:
    found = ranks(None, layers, kv_heads)
    assert sorted(rank for row in found for rank in row) == list(range(layers * kv_heads))
    half = [rank < layers * kv_heads / 2 for row in found for rank in row]
    for first in range(0, len(half) - 8, 4):
        assert 3 <= sum(half[first : first + 8]) <= 5


SHAPE = Shape(
    hidden_size=64, layers=3, query_heads=4, kv_heads=2, head_size=16, mlp_size=64, vocabulary=64, tied_embeddings=True,
    window=None, windowed_layers=0, experts=0, active_experts=0, expert_size=0, shared_expert_size=0, dense_layers=0,
)  # fmt: skip


def test_published_gates_rank_heads(tmp_path: Path) -> None:
    """As their authors write them; what they clip is alike, and is then spread over the layers."""
    path = tmp_path / "full_attention_heads.tsv"
    path.write_text("6.05e-01\t0.0e+00\n-1.0e-03\t1.0e+00\n1.02e+00\t3.0e-01\n")
    gates = DuoAttentionPrefill().published(path, SHAPE)
    expected = torch.tensor([[0.605, 0.605, 0, 0], [0, 0, 1, 1], [1, 1, 0.3, 0.3]])  # of query heads, two to a KV head
    torch.testing.assert_close(gates["gates"], expected)
    found = ranks(Calibration("duo_attention", 1, "m", "s", gates), 3, 2)
    places = [place for row in found for place in row]
    assert {places[1], places[2]} == {0, 1}
    assert (places[5], places[0]) == (2, 3)
    assert {places[3], places[4]} == {4, 5}


def test_equal_gates_are_spread_over_layers() -> None:
    alike = Calibration("duo_attention", 1, "m", "s", {"gates": torch.ones(30, 8)})
    assert ranks(alike, 30, 4) == ranks(None, 30, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1.0\t0.0\n0.5\t0.5\n", r"^from: .* \(2, 2\) layers and KV heads, where the model has \(3, 2\)"),
        ("1.0\n" * 3, r"^from: .* \(3, 1\) layers"),
        ("", r"^from: .* layers and KV heads"),
        ("1.0\t0.0\n0.5\n", "^from: .*cannot be read"),
        ("1.0,0.0\n" * 3, "^from: .*cannot be read"),
        ("1.0\tnan\n" * 3, "^from: .*not finite"),
    ],
)
def test_gates_of_another_model_and_invalid_tables_are_refused(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "heads.tsv"
    path.write_text(content)
    with pytest.raises(SparseTasksError, match=words):
        DuoAttentionPrefill().published(path, SHAPE)


def test_a_corrected_method_knows_its_layer_and_model() -> None:
    q, k = make_sequence(700, 700, HEADS, KV_HEADS, SIZE)
    method = calibrated(DuoAttentionPrefill(sparsity=0.5, sinks=8, recent=32))
    assert isinstance(method, DuoAttentionPrefill)
    corrected, dense = Delta(of=method), 0
    for layer in (Layer(i, LAYERS) for i in range(LAYERS)):
        index = corrected.in_layer(layer).select(q, k, impl="torch")
        alone = method._here(replace(method, sparsity=0.5 + 1 / 64)).in_layer(layer).select(q, k, impl="torch")
        dense += alone is None
        assert (index is None) == (alone is None)
        if index is not None and alone is not None:
            assert torch.equal(index.sparse.computed(), alone.computed())
    assert dense < LAYERS
