"""Promises of every method. A new method joins these tests by joining the registry."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed; pip install '.[attention]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from sparse_tasks import attention as room
from sparse_tasks.attention import examples
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import Kept, PageIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import (
    METHODS,
    Correction,
    DecodeMethod,
    EvictMethod,
    Layer,
    Method,
    Phase,
    PrefillMethod,
)
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.attention.steps import Memory, select_prompt
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameters
from tests.attention.methods.naive import index_reference, step_reference
from tests.methods import OURS

pytestmark = pytest.mark.slow  # without coverage tracing: the code has its own tests

PREFILL = [name for name in OURS if METHODS.get(name).phase is Phase.PREFILL]
EVICT = [name for name in OURS if METHODS.get(name).phase is Phase.EVICT]
AFTER = [name for name in OURS if METHODS.get(name).phase is not Phase.PREFILL]
PHASES = {Phase.PREFILL: PrefillMethod, Phase.DECODE: DecodeMethod, Phase.EVICT: EvictMethod}
HEADS, KV_HEADS, SIZE = 4, 2, 32
structured = functools.cache(examples.structured)


def density(method: Method, n: int, steps: int = 3) -> float:
    """Computed over dense interactions of a prompt, or of the steps after one; also checks the indices."""
    q, k, v = structured(n + steps, HEADS, KV_HEADS, SIZE, seed=n)
    if isinstance(method, PrefillMethod):
        out, indices = sparse_prefill(method, q[:n], k[:n], v[:n], impl="torch")
        assert out.shape == (n, HEADS, SIZE)
        assert out.isfinite().all()
        assert all((index.computed() >= index.n_q).all() for index in indices)  # a query sees itself at least
        computed = sum(float(index.computed().double().mean()) for index in indices)
        return computed / causal_count(n, n)
    assert isinstance(method, DecodeMethod | EvictMethod)
    memory, total, there = Memory(method, impl="torch"), 0.0, 0
    memory.read(q[:n], k[:n], v[:n])
    for position in range(n, n + steps):
        seen = position + 1
        _, index = memory.step(q[position:seen], k[:seen], v[:seen])
        check_pages(index, seen)
        total += float(index.computed().double().mean())
        there += seen
    return total / there


def check_pages(index: PageIndex, length: int) -> None:
    """Pages are listed once, in order, and within the sequence."""
    assert index.pages.dtype == index.counts.dtype == torch.int32
    assert ((index.counts >= 1) & (index.counts <= index.pages.shape[2])).all()
    for head in range(KV_HEADS):
        pages = index.pages[0, head, : index.counts[0, head]]
        assert (pages.diff() > 0).all()
        assert pages.min() >= 0
        assert pages.max() * index.unit < length


def test_methods_are_documented_in_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == OURS
    for name, row in rows.items():
        kind = METHODS.get(name)
        said = (kind.phase, kind.unit, kind.importance, kind.budget, kind.cache, "exact" if kind.exact else "adaptive")
        assert row == " | ".join(said)
        assert f"\n### {name}\n" in page


@pytest.mark.parametrize("name", OURS)
def test_method_describes_itself(name: str) -> None:
    kind = METHODS.get(name)
    assert kind.name == name
    assert issubclass(kind, PHASES[kind.phase])
    for attribute in ("summary", "unit", "importance", "budget", "cache", "source"):
        value = getattr(kind, attribute)
        assert isinstance(value, str)
        assert value.strip() == value != ""
        assert not value.endswith(".")
    assert "arXiv:" in kind.source
    assert isinstance(kind.exact, bool)
    assert inspect.getdoc(kind) not in (None, inspect.getdoc(Method))
    assert not inspect.isabstract(kind)


@pytest.mark.parametrize("name", OURS)
def test_parameters_have_help_and_take_their_defaults(name: str) -> None:
    known = {p.name: p for p in parameters(METHODS.get(name))}
    assert "sparsity" in known
    corrects = issubclass(METHODS.get(name), Correction)
    fields = {field.name for field in dataclasses.fields(METHODS.get(name))}
    assert fields == set(known) | ({"of"} if corrects else set())
    assert set(METHODS.get(name).budgets) <= set(known)
    assert METHODS.get(name).budgets or corrects  # whose sparsity is for what it corrects
    for p in known.values():
        assert p.help
        assert not p.help.endswith(".")
        assert p.kind in (int, float, bool, str)
        assert p.parse(name, p.default) == p.default
    assert all(known[budget].default is None for budget in METHODS.get(name).budgets)


@pytest.mark.parametrize("name", OURS)
def test_method_is_frozen_and_equal_by_value(name: str) -> None:
    method = METHODS.get(name)(sparsity=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.sparsity = 0.6  # type: ignore[misc]
    assert method == METHODS.get(name)(sparsity=0.5)
    assert METHODS.get(name).from_settings(method.settings()) == method


@pytest.mark.parametrize("n", [1, 17, 333])
@pytest.mark.parametrize("name", OURS)
def test_short_and_ragged_inputs_work(name: str, n: int) -> None:
    for sparsity in (None, 0.5, 0.9):
        assert 0 < density(METHODS.get(name)(sparsity=sparsity), n) <= 1


@pytest.mark.parametrize("n", [1, 257])
@pytest.mark.parametrize("name", OURS)
def test_zero_sparsity_sees_everything(name: str, n: int) -> None:
    kind = METHODS.get(name)
    # Step-wise eviction keeps as many tokens as the prompt has; the first step still sees all.
    steps = 1 if issubclass(kind, EvictMethod) and kind.each_step else 3
    assert density(kind(sparsity=0.0), n, steps) == 1


@pytest.mark.parametrize("n", [1, 30])
@pytest.mark.parametrize("name", [*PREFILL, *EVICT])
def test_prompts_below_the_default_budget_are_seen_whole(name: str, n: int) -> None:
    assert density(METHODS.get(name)(), n) == 1


@pytest.mark.parametrize("sparsity", [None, 0.5])
@pytest.mark.parametrize("name", OURS)
def test_nothing_synchronises(name: str, sparsity: float | None) -> None:
    """Fake tensors have no values: any read fails."""
    method = METHODS.get(name)(sparsity=sparsity)
    with FakeTensorMode():
        q, k = torch.empty(300, 4, 64), torch.empty(20_000, 2, 64)
        if isinstance(method, PrefillMethod):
            index = method.select(q, k, length=30_000, impl="torch")
            assert index is not None
            assert (index.n_q, index.n_k) == (300, 20_000)
        elif isinstance(method, DecodeMethod):
            lengths, table = torch.empty(2, dtype=torch.int32), torch.empty(2, 9, dtype=torch.int32)
            cache = PagedCache(torch.empty(30, 16, 2, 64), torch.empty(30, 16, 2, 64), table, lengths)
            state = method.new_state(cache)
            assert method.select(torch.empty(2, 4, 64), cache, state, impl="torch").counts.shape == (2, 2)
        else:
            assert isinstance(method, EvictMethod)
            q, k = torch.empty(5_000, 4, 64), torch.empty(5_000, 2, 64)
            kept = method.keep(q, k, impl="torch")
            grown = method.advance(kept, 5_000, torch.empty(2, kept.positions.shape[1] + 1))
            assert grown.counts.shape == (2,)


SOFTMAXES = {
    "sinks": Softmax(sinks=torch.tensor([2.0, -3.0, 7.0, 0.0])),
    "cap": Softmax(soft_cap=3.0),
    "both": Softmax(sinks=torch.tensor([2.0, -3.0, 7.0, 0.0]), soft_cap=3.0),
}


@pytest.mark.parametrize(("kind", "sparsity"), [("both", 0.0), ("sinks", 0.5), ("cap", 0.5)])
@pytest.mark.parametrize("name", OURS)
def test_sinks_and_caps_are_computed_or_refused_by_name(name: str, kind: str, sparsity: float) -> None:
    """Attention under a method is that of the reference under its index; at sparsity 0 it is dense."""
    method, softmax, n = METHODS.get(name)(sparsity=sparsity), SOFTMAXES[kind], 333
    q, k, v = structured(n + 1, HEADS, KV_HEADS, SIZE, seed=3)
    last = q[n:], k, v
    if not method.any_softmax:
        words = f"^attention: '{name}' does not go with a model that has {softmax.what}: "
        refuses: Any = functools.partial(sparse_prefill, method, q, k, v)
        if not isinstance(method, PrefillMethod):
            refuses = functools.partial(Memory, method)
        with pytest.raises(UsageError, match=words):
            refuses(softmax=softmax)
        return
    if isinstance(method, PrefillMethod):
        out, indices = sparse_prefill(method, q, k, v, softmax=softmax, impl="torch")
        expected = torch.cat([
            index_reference(q[i.n_k - i.n_q : i.n_k], k[: i.n_k], v[: i.n_k], i, softmax=softmax) for i in indices
        ])  # fmt: skip
        dense = attention_reference(q, k, v, softmax=softmax)
    else:
        memory = Memory(method, impl="torch", softmax=softmax)
        memory.read(q[:n], k[:n], v[:n])
        cache, index = memory.step(*last)
        out = sparse_decode(q[n:], cache, index, softmax=softmax, impl="torch")
        expected = step_reference(*last, index, softmax=softmax)
        dense = attention_reference(*last, softmax=softmax)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    if sparsity == 0:
        torch.testing.assert_close(out, dense, rtol=1e-4, atol=1e-4)
    else:
        assert float((out - dense).abs().max()) > 1e-3


@pytest.mark.parametrize("name", OURS)
def test_a_method_under_a_softmax_is_the_same_but_for_that(name: str) -> None:
    method, softmax = METHODS.get(name)(sparsity=0.5), SOFTMAXES["both"]
    assert method.under(Softmax()) is method
    if not method.any_softmax:
        return
    under = method.under(softmax)
    assert (under, under.softmax, method.softmax.plain) == (method, softmax, True)
    assert under.at(900).softmax is softmax
    assert under.in_layer(Layer(1, 3)).at(900).layer == Layer(1, 3)
    assert method.at(900).softmax.plain


@pytest.mark.parametrize("name", OURS)
def test_more_sparsity_computes_less(name: str) -> None:
    found = [density(METHODS.get(name)(sparsity=sparsity), 1500) for sparsity in (0.3, 0.6, 0.9)]
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize("name", OURS)
def test_density_matches_sparsity(name: str) -> None:
    kind = METHODS.get(name)
    n = 9001 if kind.phase is Phase.PREFILL else 3001  # of fewer tokens, another block for all queries is too much
    for sparsity in (0.5, 0.9):
        method = kind(sparsity=sparsity)
        if isinstance(method, PrefillMethod):
            q, k, _ = structured(n, HEADS, KV_HEADS, SIZE, seed=1)
            indices = select_prompt(method, q, k, impl="torch")
            # Exact methods ask for a count; what adapts to content knows what tiles add, and counts it in.
            found = [i.selected_density() if kind.exact else i.density() for i in indices]
            total = sum(float(d.mean()) * causal_count(i.n_q, i.n_k) for d, i in zip(found, indices, strict=True))
            assert total / causal_count(n, n) == pytest.approx(1 - sparsity, abs=0.01)
        elif kind.exact:
            assert density(method, n) == pytest.approx(1 - sparsity, abs=0.01)
        else:
            assert density(method, n) == pytest.approx(1 - sparsity, abs=0.02)


@pytest.mark.parametrize("name", OURS)
def test_exact_methods_have_their_parameters_at_a_length(name: str) -> None:
    kind = METHODS.get(name)
    method = kind(sparsity=0.8)
    at = method.at(2500)
    if not kind.exact:
        assert at is method
        return
    assert at.sparsity is None
    assert isinstance(at, Correction) or any(getattr(at, budget) is not None for budget in kind.budgets)
    assert at.at(9000) is at
    assert density(at, 2500, steps=1) == pytest.approx(density(method, 2500, steps=1), abs=0.001)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, math.nan, math.inf, "much", True])
@pytest.mark.parametrize("name", OURS)
def test_sparsity_outside_of_its_range_is_refused(name: str, sparsity: Any) -> None:
    with pytest.raises(UsageError) as error:
        METHODS.get(name)(sparsity=sparsity)
    assert error.value.field == f"{name}.sparsity"


@pytest.mark.parametrize("name", OURS)
def test_budgets_of_zero_are_refused(name: str) -> None:
    kind = METHODS.get(name)
    for p in parameters(kind):
        if p.name in kind.budgets and p.kind is int:
            with pytest.raises(UsageError) as error:
                kind(**{p.name: 0})
            assert error.value.field == f"{name}.{p.name}"


@pytest.mark.parametrize("name", OURS)
def test_budget_and_sparsity_together_are_refused(name: str) -> None:
    kind = METHODS.get(name)
    for p in parameters(kind):
        if p.name in kind.budgets:
            value = max(p.low or 0, 64 if p.kind is int else 0.5)
            with pytest.raises(UsageError) as error:
                kind(**{p.name: value, "sparsity": 0.5})
            assert error.value.field == f"{name}.{p.name}"


@pytest.mark.parametrize("name", OURS)
def test_parameters_are_checked(name: str) -> None:
    kind = METHODS.get(name)
    with pytest.raises(UsageError, match="did you mean 'sparsity'"):
        kind.from_settings({"sparsiti": 0.5})
    for p in parameters(kind):
        for bad in ([] if p.low is None else [p.low - 1]) + ([] if p.high is None else [p.high + 1]):
            with pytest.raises(UsageError) as error:
                kind.from_settings({p.name: bad})
            assert error.value.field == f"{name}.{p.name}"
        if p.kind in (int, float):
            with pytest.raises(UsageError, match="number"):
                kind.from_settings({p.name: "many"})


@pytest.mark.parametrize("name", OURS)
def test_wrong_shapes_are_refused(name: str) -> None:
    method = METHODS.get(name)(sparsity=0.5)
    q, k, _ = structured(50, HEADS, KV_HEADS, SIZE)

    def choose(q: torch.Tensor, k: torch.Tensor) -> object:
        if isinstance(method, PrefillMethod):
            return method.select(q, k, impl="torch")
        if isinstance(method, EvictMethod):
            return method.keep(q, k, impl="torch")
        assert isinstance(method, DecodeMethod)
        rows = k.transpose(0, 1)[None]
        cache = PagedCache.contiguous(rows, rows, torch.tensor([50], dtype=torch.int32))
        return method.select(q[-1:], cache, None, impl="torch")

    choose(q, k)
    for bad_q, bad_k in ((q[:, :3], k), (q[..., :16], k), (q[0], k), (q.double(), k.double())):
        with pytest.raises(UsageError):
            choose(bad_q, bad_k)


@pytest.mark.parametrize("name", EVICT)
def test_kept_tokens_are_valid(name: str) -> None:
    q, k, _ = structured(300, HEADS, KV_HEADS, SIZE)
    kept = METHODS.get(name)(sparsity=0.7).keep(q, k, impl="torch")
    assert isinstance(kept, Kept)
    assert kept.length == 300
    check_pages(kept.pages(), 300)


@pytest.mark.parametrize("name", EVICT)
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 180), max_size=4), sparsity=st.sampled_from([None, 0.3, 0.8]))
def test_a_prompt_in_chunks_is_kept_as_the_whole(name: str, cuts: set[int], sparsity: float | None) -> None:
    """State between chunks is a copy: a chunk's queries are overwritten."""
    method, layer, n = METHODS.get(name)(sparsity=sparsity), Layer(1, 3), 181
    assert isinstance(method, EvictMethod)
    q, k, _ = structured(n, HEADS, KV_HEADS, SIZE, seed=1)
    whole = method.keep(q, k, layer=layer, impl="torch")
    seen, start = None, 0
    for end in [*sorted(cuts), n]:
        chunk = q[start:end].clone()
        seen = method.observe(seen, chunk, k[:end], impl="torch")
        chunk.fill_(float("nan"))  # vLLM's next step is written over it
        start = end
    assert seen is not None
    if method.observes is not None:
        assert len(seen) <= method.observes
    kept = method.settle(seen, k, length=n, layer=layer, impl="torch")
    assert (kept.length, kept.capacity) == (whole.length, whole.capacity)
    assert torch.equal(kept.counts, whole.counts)
    for head, count in enumerate(whole.counts.tolist()):
        assert torch.equal(kept.positions[head, :count], whole.positions[head, :count])
    if whole.scores is not None:
        torch.testing.assert_close(kept.scores, whole.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVICT)
def test_the_budget_of_chunks_is_that_of_the_given_length(name: str) -> None:
    method = METHODS.get(name)(sparsity=0.5)
    assert isinstance(method, EvictMethod)
    q, k, _ = structured(90, HEADS, KV_HEADS, SIZE)
    settled = method.settle(method.observe(None, q, k, impl="torch"), k, length=120, impl="torch")
    assert settled.counts.tolist() == method.keep(q, k, length=120, impl="torch").counts.tolist()
    step = settled.append(90)
    seen = method.visible(step, torch.ones(step.positions.shape), impl="torch")
    assert seen.counts.sum() == pytest.approx(KV_HEADS * (60 + 1), abs=KV_HEADS * getattr(method, "block", 0) / 2)


@pytest.mark.parametrize("name", OURS)
def test_method_declares_observed_queries(name: str) -> None:
    for sparsity in (None, 0.5):
        method = METHODS.get(name)(sparsity=sparsity)
        if isinstance(method, PrefillMethod):
            assert isinstance(method.observes, int)
            assert method.observes >= 0
        elif isinstance(method, EvictMethod):
            assert method.observes is None or method.observes >= 1


@pytest.mark.parametrize("name", OURS)
def test_method_explains_why_keys_cannot_be_shared(name: str) -> None:
    """It ends in the middle of a sentence. What decodes changes no key of a prompt."""
    for sparsity in (None, 0.5):
        method = METHODS.get(name)(sparsity=sparsity)
        why = method.unshared
        if why is not None:
            assert not isinstance(method, DecodeMethod)
            assert why.strip() == why != ""
            assert why[0].islower()
            assert not why.endswith(".")
            assert len(why.splitlines()) == 1


@pytest.mark.parametrize("name", OURS)
def test_method_composes_with_one_of_another_phase_and_with_none_of_its_own(name: str) -> None:
    other = AFTER[0] if name in PREFILL else PREFILL[0]
    attention = Attention.parse(f"{name}+{other}", sparsity=0.7)
    assert {method.name for method in attention.methods} == {name, other}
    assert [method.sparsity for method in attention.methods] == [0.7, 0.7]
    same = f"{PREFILL[0]}+{PREFILL[1]}" if issubclass(METHODS.get(name), Correction) else PREFILL[0]
    with pytest.raises(UsageError, match="one for prefill and one for decode or evict"):
        Attention.parse(f"{name}+{same if name in PREFILL else AFTER[0]}")


def test_classes_can_be_imported_from_the_package() -> None:
    assert {"Attention", "sparse_attention", "sparse_prefill", "VerticalSlash", "Quest"} <= set(room.__all__)
    assert set(room.__all__) <= set(dir(room))
    assert all(getattr(room, name).__name__ == name for name in room.__all__)
    assert {METHODS.get(name) for name in OURS} <= {getattr(room, name) for name in room.__all__}
