"""Guards TriAttention: scores like a plain loop's, with a calibration and without, and steps that drop the lowest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.calibration import Calibration
from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.triattention import TriAttention
from sparse_tasks.attention.rotary import Rotary
from sparse_tasks.attention.steps import Memory
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import Array, ends, kept_lists, make_sequence, top

FREQUENCIES = (1.0, 0.2, 0.04)
PAIRS = len(FREQUENCIES)
LAYERS, REACH = 3, 5


def turned(x: Array, position: int) -> Array:
    """A query or key turned by its position: numbers 0 and 3, 1 and 4, 2 and 5."""
    out = x.copy()
    for i, frequency in enumerate(FREQUENCIES):
        point = complex(x[i], x[i + PAIRS]) * complex(math.cos(position * frequency), math.sin(position * frequency))
        out[i], out[i + PAIRS] = point.real, point.imag
    return out


def pairs(x: Array) -> Array:
    return np.array([math.hypot(x[i], x[i + PAIRS]) for i in range(PAIRS)])


def naive(centers: Array, spread: Array, keys: Array, position: int) -> Array:
    """Scores of the keys of a KV head, ``[n, size]``, by the mean queries of its group, ``[group, size]``."""
    best = np.full(len(keys), -np.inf)
    for center, extra in zip(centers, spread, strict=True):
        scores = np.array([
            np.mean([turned(center, position + 2**i) @ key for i in range(REACH + 1)]) + extra @ pairs(key)
            for key in keys
        ])  # fmt: skip
        best = np.maximum(best, (scores - scores.mean()) / scores.std())
    return best


def make(n: int) -> tuple[Tensor, Tensor, TriAttention, Array, Array]:
    """Queries and keys of 4 and 2 heads, and a method in a model, with what was measured of it."""
    q, k = make_sequence(n, n, 4, 2, 16)
    draw = torch.Generator().manual_seed(9)
    centers, spread = torch.randn(LAYERS, 4, 16, generator=draw), torch.rand(LAYERS, 4, PAIRS, generator=draw)
    measured = Calibration("triattention", 1, "m", "made ones", {"centers": centers, "spread": spread})
    method = TriAttention(capacity=15, reach=REACH, recent=4).placed(Rotary(FREQUENCIES))._bound(measured=measured)
    return q, k, method, centers.double().numpy(), spread.double().numpy()


@pytest.mark.parametrize("index", [0, 2])
def test_like_naive(index: int) -> None:
    q, k, method, centers, spread = make(60)
    keys = k.double().numpy()
    expected = []
    for head in range(2):
        of_group = slice(2 * head, 2 * head + 2)
        scores = naive(centers[index, of_group], spread[index, of_group], keys[:, head], 59)
        expected.append(top(scores, 15, ends(60, 0, 4)))
    assert kept_lists(method.keep(q, k, layer=Layer(index, LAYERS), impl="torch")) == expected
    assert kept_lists(method.keep(-q, k, layer=Layer(index, LAYERS), impl="torch")) == expected  # queries have no say


def test_without_a_calibration_the_last_query_replaces_the_mean() -> None:
    q, k, method, *_ = make(60)
    method = method._bound(measured=None)
    last = [turned(query, -59) for query in q[-1].double().numpy()]
    expected = [
        top(naive(np.array(last[2 * head : 2 * head + 2]), np.zeros((2, PAIRS)), k[:, head].double().numpy(), 59), 15,
            ends(60, 0, 4))
        for head in range(2)
    ]  # fmt: skip
    assert kept_lists(method.keep(q, k, impl="torch")) == expected


def test_each_step_evicts_the_lowest_unless_it_is_recent() -> None:
    n, steps, layer = 40, 25, Layer(1, LAYERS)
    q, k, method, centers, spread = make(n + steps)
    memory = Memory(method, layer, impl="torch")
    memory.read(q[:n], k[:n], k[:n])
    kept = kept_lists(method.keep(q[:n], k[:n], layer=layer, impl="torch"))
    for position in range(n, n + steps):
        _, index = memory.step(q[position : position + 1], k[: position + 1], k[: position + 1])
        for head, held in enumerate(kept):
            held.append(position)
            assert index.pages[0, head, : index.counts[0, head]].tolist() == held
            of_group = slice(2 * head, 2 * head + 2)
            keys = k[held, head].double().numpy()
            scores = naive(centers[1, of_group], spread[1, of_group], keys, position)
            del held[int(np.argmin(scores[:-4]))]


def test_scores_past_the_counts_are_ignored() -> None:
    q, k, method, *_ = make(60)
    rows = k.transpose(0, 1)[None]
    cache = PagedCache.contiguous(rows, rows, torch.tensor([60], dtype=torch.int32))
    positions = torch.arange(60, dtype=torch.int32).expand(1, 2, 60)
    layer = Layer(0, LAYERS)
    few = torch.tensor([[25, 60]], dtype=torch.int32)
    found = method.weigh(q[-1:], cache, positions, few, layer=layer)
    alone = method.weigh(q[-1:], cache, positions[..., :25], few.clamp_max(25), layer=layer)
    torch.testing.assert_close(found[0, 0, :25], alone[0, 0])
    assert (found[0, 0, 25:] == 0).all()
    assert found.isfinite().all()


def test_unrotated_means_and_excess_norms_are_measured() -> None:
    n, rotary = 50, Rotary(FREQUENCIES)
    q, k = make_sequence(n, n, 4, 2, 16)
    method, positions = TriAttention().placed(rotary), torch.arange(n)
    sums = method.measure(None, rotary.turn(q, positions)[:20], k[:20], [])
    sums = method.measure(sums, rotary.turn(q, positions)[20:], k, [])
    found = method.tensors([sums])
    queries = q.double().numpy()
    centers = queries.mean(0)
    lengths = np.array([[pairs(query) for query in head] for head in queries.transpose(1, 0, 2)]).mean(1)
    spread = lengths - np.array([pairs(center) for center in centers])
    torch.testing.assert_close(found["centers"][0], torch.tensor(centers).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["spread"][0], torch.tensor(spread).float(), rtol=1e-4, atol=1e-5)
    assert spread.min() > 0


@pytest.mark.parametrize(("layer", "heads"), [(Layer(0, 2), 4), (Layer(0, LAYERS), 2)])
def test_wrong_layers_or_heads_are_refused(layer: Layer, heads: int) -> None:
    q, k, method, *_ = make(20)
    with pytest.raises(UsageError, match=r"triattention\.calibration: .* has centers of \(3, 4\) layers and heads"):
        method.keep(q[:, :heads], k, layer=layer, impl="torch")


def test_with_a_calibration_only_keys_matter() -> None:
    assert TriAttention(calibration="x").unshared is None
    assert TriAttention().unshared is not None
