"""Prompts whose context is compressed before their question is read: what is kept, seen and counted."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun, sparse_attention
from sparse_tasks.attention.index import Kept
from sparse_tasks.attention.method import METHODS, ONLY, EvictMethod, SharedMethod
from sparse_tasks.attention.methods.snapkv import SnapKV
from sparse_tasks.core.errors import UsageError
from tests.attention.test_huggingface import generate, llama, tokens

EVICT = [
    name
    for name in METHODS.names()
    if issubclass(METHODS.get(name), EvictMethod) and not issubclass(METHODS.get(name), SharedMethod)
]
CONTEXT, QUESTION = 120, 25


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


def drawn(seed: int = 0, n: int = CONTEXT + QUESTION) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as transformers hands them over: 4 query heads, 2 KV heads of 16 numbers."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, heads, n, 16, generator=draw) for heads in (4, 2, 2))  # type: ignore[return-value]


def attended(run: SparseRun, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``[n_q, query_heads, head_size]``."""
    return run.attend(0, ONLY, q, k, v, None, 0.25)[0]


def made(name: str, sparsity: float) -> SparseRun:
    return SparseRun(Attention.parse(name, sparsity=sparsity), "torch", CONTEXT)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """What SnapKV keeps, each time that it chooses."""
    chosen: list[Kept] = []
    keep = SnapKV.keep

    def noted(self: SnapKV, *arguments: Any, **options: Any) -> Kept:
        chosen.append(keep(self, *arguments, **options))
        return chosen[-1]

    monkeypatch.setattr(SnapKV, "keep", noted)
    return chosen


@pytest.mark.parametrize("name", [*EVICT, "block_sparse+snapkv", "quest", "vertical_slash"])
def test_zero_sparsity_is_dense(name: str, model: Any) -> None:
    ids, mask = tokens(CONTEXT + QUESTION)
    expected, logits = generate(model, ids, mask)
    with sparse_attention(model, name, sparsity=0.0, context=CONTEXT, impl="torch") as run:
        written, found = generate(model, ids, mask)
    # What evicts at each step keeps as many tokens as the prompt has, so that its second step misses one.
    same = 2 if getattr(METHODS.get(name.rpartition("+")[2]), "each_step", False) else len(found)
    torch.testing.assert_close(found[:same], logits[:same], rtol=1e-3, atol=1e-3)
    assert torch.equal(written[:, :same], expected[:, :same])
    measured = run.density("decode")
    assert measured is not None
    assert measured.computed == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", ["snapkv_blocks", "vertical_slash+knorm_blocks"])
def test_methods_over_all_layers_are_refused(name: str, model: Any) -> None:
    with (
        pytest.raises(UsageError, match=r"^context: 9 does not go with .*, which chooses once all layers have read"),
        sparse_attention(model, name, sparsity=0.5, context=9),
    ):
        pass


def test_kept_tokens_do_not_depend_on_the_question(model: Any, kept: list[Kept]) -> None:
    (one, mask), (other, _) = tokens(CONTEXT + QUESTION), tokens(CONTEXT + QUESTION, seed=2)
    other[:, :CONTEXT] = one[:, :CONTEXT]
    with sparse_attention(model, "snapkv", sparsity=0.8, context=CONTEXT, impl="torch"):
        generate(model, one, mask)
        generate(model, other, mask)
        generate(model, other[:, :-9], mask[:, :-9])
    assert len(kept) == 6  # once a prompt and layer
    for layer in (0, 1):
        first, *others = kept[layer::2]
        assert (first.length, first.counts.tolist()) == (CONTEXT, [24, 24])
        assert all(torch.equal(first.positions, again.positions) for again in others)
    kept.clear()
    with sparse_attention(model, "snapkv", sparsity=0.8, impl="torch"):
        generate(model, one, mask)
        generate(model, other, mask)
    assert not torch.equal(kept[1].positions, kept[3].positions)  # with the question, it does


@pytest.mark.parametrize("name", EVICT)
def test_a_question_is_read_as_steps_without_eviction(name: str) -> None:
    q, k, v = drawn()
    run = made(name, 0.8)
    whole = attended(run, q, k, v)
    chunks = made(name, 0.8)
    parts = [attended(chunks, q[:, :, :CONTEXT], k[:, :, :CONTEXT], v[:, :, :CONTEXT])]
    for end in range(CONTEXT + 5, CONTEXT + QUESTION + 1, 5):
        parts.append(attended(chunks, q[:, :, end - 5 : end], k[:, :, :end], v[:, :, :end]))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert run.density("decode") == chunks.density("decode")
    # A fifth of the context, all of the question so far and the token itself.
    dense = [CONTEXT + i + 1 for i in range(QUESTION)]
    measured = run.density("decode")
    assert measured is not None
    assert measured.computed == pytest.approx(sum(n - CONTEXT + 24 for n in dense) / sum(dense), abs=1e-9)
    assert run.density("prefill").computed == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", EVICT)
def test_a_question_sees_itself(name: str) -> None:
    q, k, v = drawn()
    before = attended(made(name, 0.9), q, k, v)
    changed = v.clone()
    at = CONTEXT + 7
    changed[:, :, at] += 1
    moved = (attended(made(name, 0.9), q, k, changed) - before).abs().amax(-1)  # [n_q, query_heads]
    assert moved[:at].max() == 0
    assert moved[at:].min() > 0


def test_snapkv_against_a_plain_loop() -> None:
    q, k, v = drawn(seed=3)
    sizes = {"snapkv.window": 8, "snapkv.kernel": 3, "snapkv.sinks": 2, "snapkv.recent": 4}
    attention = Attention.parse("snapkv", sparsity=0.75, arguments=sizes)
    found = attended(SparseRun(attention, "torch", CONTEXT), q, k, v)

    def weights(head: int, query: int, keys: list[int]) -> dict[int, float]:
        scores = [float(q[0, head, query] @ k[0, head // 2, key]) / 4 for key in keys]
        shares = [math.exp(score - max(scores)) for score in scores]
        return {key: share / sum(shares) for key, share in zip(keys, shares, strict=True)}

    for kv_head in (0, 1):
        paid = [0.0] * CONTEXT
        for head in (2 * kv_head, 2 * kv_head + 1):
            for query in range(CONTEXT - 8, CONTEXT):  # none of the question's
                for key, weight in weights(head, query, list(range(query + 1))).items():
                    paid[key] += weight
        smooth = [sum(paid[max(0, key - 1) : key + 2]) for key in range(CONTEXT)]
        always = [0, 1, *range(CONTEXT - 4, CONTEXT)]
        ranked = sorted(set(range(CONTEXT)) - set(always), key=lambda key: -smooth[key])
        stays = sorted(always + ranked[: CONTEXT // 4 - len(always)])
        for head in (2 * kv_head, 2 * kv_head + 1):
            for query in range(CONTEXT + QUESTION):
                keys = list(range(query + 1))
                if query >= CONTEXT:
                    keys = stays + keys[CONTEXT:]
                expected = sum(weight * v[0, kv_head, key] for key, weight in weights(head, query, keys).items())
                torch.testing.assert_close(found[query, head], expected, rtol=1e-4, atol=1e-5)


def test_padded_prompts_have_contexts_of_their_own_lengths(model: Any) -> None:
    ids, mask = tokens(CONTEXT + QUESTION, CONTEXT + 5)
    with sparse_attention(model, "snapkv", sparsity=0.8, context=CONTEXT, impl="torch"):
        _, together = generate(model, ids, mask)
        _, alone = generate(model, ids[1:, QUESTION - 5 :], mask[1:, QUESTION - 5 :])
    torch.testing.assert_close(together[:, 1], alone[:, 0], rtol=1e-3, atol=1e-3)


def test_an_empty_context_is_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="context: 0 has to be at least 1 token"):  # noqa: SIM117
        with sparse_attention(model, "snapkv", sparsity=0.5, context=0):
            pass
