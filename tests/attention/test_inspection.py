"""Guards what an inspection measures: on a tiny model, against a plain loop over layers, heads, queries and keys."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from sparse_tasks.attention import inspection
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun, attended_by, sparse_attention
from sparse_tasks.attention.inspection import Inspected, Inspection
from sparse_tasks.attention.maps import draw_maps
from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.attention.steps import Memory, select_prompt
from tests.attention.test_huggingface import generate, llama, tokens

BOTH = "block_sparse+snapkv"
ARGUMENTS = {"block_sparse.block": 16, "snapkv.window": 8, "snapkv.recent": 4}


class Recorder(SparseRun):
    """Dense attention, and the queries, keys and values of every call by layer."""

    def __init__(self) -> None:
        super().__init__(Attention.DENSE, "torch")
        self.calls: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def _prompt(self, number: int, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        self.calls.setdefault(number, []).append((q.clone(), k.clone(), v.clone()))
        return super()._prompt(number, q, k, v, softmax)

    def _step(self, number: int, memory: Memory, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        self.calls[number].append((q.clone(), k.clone(), v.clone()))
        return super()._step(number, memory, q, k, v, softmax)


def plainly(q: Tensor, k: Tensor, v: Tensor, seen: list[list[list[bool]]]) -> list[list[float]]:
    """Of each head: mass on seen keys, queries, squared error, squared norm, each summed over the queries."""
    (n_q, heads, size), n_k, group = q.shape, len(k), q.shape[1] // k.shape[1]
    sums = [[0.0] * 4 for _ in range(heads)]
    for head in range(heads):
        keys, values = k[:, head // group].tolist(), v[:, head // group].tolist()
        for i, query in enumerate(q[:, head].tolist()):
            position = n_k - n_q + i
            weights = []
            for key in keys[: position + 1]:
                weights.append(math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(size)))
            mass = sum(weights)
            kept = [weight * mark for weight, mark in zip(weights, seen[head][i], strict=False)]
            dense = [sum(w * value[d] for w, value in zip(weights, values, strict=False)) / mass for d in range(size)]
            sparse = [
                sum(w * value[d] for w, value in zip(kept, values, strict=False)) / sum(kept) for d in range(size)
            ]
            sums[head][0] += sum(kept) / mass
            sums[head][1] += 1
            sums[head][2] += sum((a - b) ** 2 for a, b in zip(sparse, dense, strict=True))
            sums[head][3] += sum(a**2 for a in dense)
    return sums


def inspected(model: Any, ids: Tensor, mask: Tensor, name: str, **options: Any) -> tuple[Tensor, list[Inspected]]:
    run = Inspection(Attention.parse(name, **options), "torch")
    with attended_by(model, run):
        _, logits = generate(model, ids, mask, new=4)
    return logits, run.inspected()


@pytest.mark.parametrize("cells", [1, 1 << 24])
def test_inspection_matches_a_plain_loop(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_CELLS", cells)
    model, (ids, mask) = llama(), tokens(83)
    recorder = Recorder()
    with attended_by(model, recorder):
        generate(model, ids, mask, new=4)
    _, (prefill, decode) = inspected(model, ids, mask, BOTH, sparsity=0.6, arguments=ARGUMENTS)
    attention = Attention.parse(BOTH, sparsity=0.6, arguments=ARGUMENTS)
    assert (prefill.phase, decode.phase) == ("prefill", "decode")
    assert (prefill.queries, decode.queries) == (83, 3)
    assert prefill.layers == decode.layers == [0, 1]
    for layer, ((q, k, v), *steps) in recorder.calls.items():
        assert attention.prefill is not None
        (index,) = select_prompt(attention.prefill, q, k, impl="torch")
        checked(prefill, layer, plainly(q, k, v, index.pattern().mask(83, 83).tolist()))
        memory, totals = Memory(attention.decode, Layer(layer, 2), "torch"), [[0.0] * 4 for _ in range(4)]
        memory.read(q, k, v)
        for step in steps:
            _, index_of_step = memory.step(*step)
            mask_of_step = index_of_step.mask(len(step[1]))[0].repeat_interleave(2, 0)[:, None]
            found = plainly(*step, mask_of_step.tolist())
            totals = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(totals, found, strict=True)]
        checked(decode, layer, totals)


@pytest.mark.parametrize("name", ["snapkv", "h2o", "oracle_evict", "block_sparse+tova"])
def test_a_question_is_inspected_with_the_kept_context(name: str) -> None:
    """Of both ways to read it: all at once, and where a method chooses at each step, one after the other."""
    model, (ids, mask), context = llama(), tokens(83), 60
    recorder = Recorder()
    with attended_by(model, recorder):
        _, expected = generate(model, ids, mask, new=4)
    attention = Attention.parse(name, sparsity=0.6)
    run = Inspection(attention, "torch")
    run.context = context
    with attended_by(model, run):
        _, logits = generate(model, ids, mask, new=4)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    decode = run.inspected()[-1]
    assert (decode.phase, decode.queries) == ("decode", 83 - context + 3)
    for layer, ((q, k, v), *steps) in recorder.calls.items():
        question = [(q[i : i + 1], k[: i + 1], v[: i + 1]) for i in range(context, 83)]
        memory, totals = Memory(attention.decode, Layer(layer, 2), "torch"), [[0.0] * 4 for _ in range(4)]
        memory.read(q[:context], k[:context], v[:context])
        shares = []
        for number, step in enumerate([*question, *steps]):
            if number < len(question):
                memory.widen()
            _, index = memory.step(*step)
            shares.append(index.computed().double().mean().item())
            seen = index.mask(len(step[1]))[0].repeat_interleave(2, 0)[:, None]
            found = plainly(*step, seen.tolist())
            totals = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(totals, found, strict=True)]
        checked(decode, layer, totals)
        assert decode.sparsity[layer] == pytest.approx(1 - sum(shares) / sum(range(context + 1, 87)), abs=1e-6)


def checked(found: Inspected, layer: int, expected: list[list[float]]) -> None:
    for head, (held, queries, off, norm) in enumerate(expected):
        assert found.recall[layer][head] == pytest.approx(held / queries, abs=1e-4)
        assert found.error[layer][head] == pytest.approx(math.sqrt(off / norm), rel=1e-3)
        assert 0.05 < found.recall[layer][head] < 0.9999


def test_the_model_answers_under_dense_attention_with_the_methods_sparsity() -> None:
    model, (ids, mask) = llama(), tokens(300)
    _, expected = generate(model, ids, mask, new=4)
    logits, (found,) = inspected(model, ids, mask, "quest", sparsity=0.8)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    with sparse_attention(model, "quest", sparsity=0.8, impl="torch") as run:
        generate(model, ids, mask, new=4)
    measured = run.density("decode")
    assert measured is not None
    assert found.sparsity == pytest.approx([1 - measured.computed] * 2, abs=0.01)


def test_the_oracle_recalls_more_than_its_method_and_full_attention_has_no_error() -> None:
    model, (ids, mask) = llama(), tokens(400)
    recall = {}
    for name in ("random_prefill+random_decode", "block_sparse+quest", "oracle"):
        arguments = {"oracle_prefill.block": 128, "oracle_decode.page": 16} if name == "oracle" else {}
        _, found = inspected(model, ids, mask, name, sparsity=0.7, arguments=arguments)
        recall[name] = [sum(map(sum, phase.recall)) for phase in found]
    for phase in range(2):
        assert recall["oracle"][phase] > recall["block_sparse+quest"][phase]
        assert recall["oracle"][phase] > recall["random_prefill+random_decode"][phase]
    _, found = inspected(model, ids, mask, "block_sparse+quest", sparsity=0.0)
    for of_phase in found:
        assert of_phase.recall == [[pytest.approx(1)] * 4] * 2
        assert of_phase.error == [[pytest.approx(0, abs=1e-5)] * 4] * 2


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_maps_are_drawn(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    values = [[0.1, 0.9], [0.5, 1.7], [0.3, 0.2]]
    found = Inspected("decode", 5, [0, 1, 3], values, values, [0.9] * 3)
    draw_maps([found, found], tmp_path / f"map{ending}", title="made")
    assert (tmp_path / f"map{ending}").stat().st_size > 1000
