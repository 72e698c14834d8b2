"""Guards the steps after a prompt: what a method remembers, what it sees of the cache, and what it must have read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import BlockIndex, Kept
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import DecodeMethod, EvictMethod, Layer
from sparse_tasks.attention.methods.tova import TOVA
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.attention.steps import Memory, select_prompt
from sparse_tasks.core.errors import UsageError
from tests.attention.toys import PAGE, First, Loud, Near

PROMPT, END = 37, 52


def make(n: int = END) -> list[Tensor]:
    maker = torch.Generator().manual_seed(n)
    return [torch.randn(n, heads, 16, generator=maker) for heads in (4, 2, 2)]


@pytest.mark.parametrize("at_once", [0, 24, 64])
def test_a_prompt_runs_its_selection(at_once: int) -> None:
    q, k, v = make(150)
    method = Near(sparsity=0.6, at_once=at_once)
    _, ran = sparse_prefill(method, q[40:], k, v, impl="torch")
    selected = select_prompt(method, q[40:], k, impl="torch")
    assert len(selected) == len(ran) == ceil_div(110, at_once or 110)
    for a, b in zip(selected, ran, strict=True):
        assert isinstance(a, BlockIndex)
        assert isinstance(b, BlockIndex)
        assert (a.n_q, a.n_k, a.block_q, a.block_k) == (b.n_q, b.n_k, b.block_q, b.block_k)
        assert torch.equal(a.mask(), b.mask())


@pytest.mark.parametrize("method", [None, Loud(loud=999)])
def test_dense_steps_see_everything(method: DecodeMethod | None) -> None:
    """The cache is a view of what is given: nothing is copied."""
    q, k, v = make()
    memory = Memory(method, impl="torch")
    memory.read(q[:PROMPT], k[:PROMPT], v[:PROMPT])
    for position in range(PROMPT, END):
        seen = position + 1
        cache, index = memory.step(q[position:seen], k[:seen], v[:seen])
        assert cache.keys.data_ptr() == k.data_ptr()
        assert cache.values.data_ptr() == v.data_ptr()
        assert cache.lengths.tolist() == [seen]
        assert (index.density() == 1).all()
        out = sparse_decode(q[position:seen], cache, index, impl="torch")
        expected = attention_reference(q[position:seen], k[:seen], v[:seen])
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def loudest(q: Tensor, k: Tensor, pages: int) -> list[list[int]]:
    """Selection of ``Loud`` from the keys themselves, for each KV head."""
    found = []
    for head in range(2):
        query = q[0, 2 * head] + q[0, 2 * head + 1]
        scores = [float(k[p : p + PAGE, head].sum(0) @ query) for p in range(0, len(k), PAGE)]
        best = sorted(range(len(scores)), key=lambda page: -scores[page])
        found.append(sorted(best[:pages]))
    return found


@pytest.mark.parametrize("stride", [1, 3])
def test_a_method_sees_every_key_once_as_the_cache_grows(stride: int) -> None:
    """Whether it is asked at each token or at every third: keys between were written without a step."""
    q, k, v = make()
    memory = Memory(Loud(loud=3), impl="torch")
    memory.read(q[:PROMPT], k[:PROMPT], v[:PROMPT])
    for position in range(PROMPT, END, stride):
        seen = position + 1
        _, index = memory.step(q[position:seen], k[:seen], v[:seen])
        assert index.pages[0].tolist() == loudest(q[position:seen], k[:seen], 3)


@dataclass(frozen=True, kw_only=True)
class Forgetful(Loud):
    """A method that remembers nothing, and looks at the cache each time."""

    name: ClassVar[str] = "forgetful"

    def new_state(self, cache: object) -> None:  # type: ignore[override]
        return None

    def update(self, *_: object, **__: object) -> None:
        raise AssertionError("there is nothing to update")

    def select(self, q, cache, state, *, impl="auto"):  # type: ignore[no-untyped-def]
        assert state is None
        return super().select(q, cache, self._of(cache))

    def _of(self, cache) -> Tensor:  # type: ignore[no-untyped-def]
        state = Loud.new_state(self, cache)
        Loud.update(self, state, cache.keys[0], torch.arange(cache.block_size), cache.block_size)
        return state


def test_a_method_may_have_no_state() -> None:
    q, k, v = make()
    memory = Memory(Forgetful(loud=2), impl="torch")
    for position in (40, 41):
        seen = position + 1
        _, index = memory.step(q[position:seen], k[:seen], v[:seen])
        assert index.pages[0].tolist() == loudest(q[position:seen], k[:seen], 2)


def listed(index_pages: Tensor, counts: Tensor) -> list[list[int]]:
    return [row[:count] for row, count in zip(index_pages[0].tolist(), counts[0].tolist(), strict=True)]


@pytest.mark.parametrize(("layer", "first"), [(Layer(0, 2), 3), (Layer(1, 2), 4)])
def test_kept_and_later_tokens_are_seen(layer: Layer, first: int) -> None:
    q, k, v = make()
    memory = Memory(First(first=3), layer, impl="torch")
    memory.read(q[:PROMPT], k[:PROMPT], v[:PROMPT])
    for position in range(PROMPT, END):
        seen = position + 1
        cache, index = memory.step(q[position:seen], k[:seen], v[:seen])
        expected = [*range(first), *range(PROMPT, seen)]
        assert index.unit == 1
        assert listed(index.pages, index.counts) == [expected] * 2
        out = sparse_decode(q[position:seen], cache, index, impl="torch")
        few = attention_reference(q[position:seen], k[expected], v[expected])
        torch.testing.assert_close(out, few, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Faint(First):
    """Drops the token with the least attention at each step."""

    name: ClassVar[str] = "faint"
    each_step: ClassVar[bool] = True

    def advance(self, kept: Kept, position: int, weights: Tensor | None = None) -> Kept:
        assert weights is not None
        assert weights.shape == (2, kept.positions.shape[1] + 1)
        assert weights.dtype == torch.float32
        grown = kept.append(position)
        stay = weights.argsort(1, descending=True)[:, :-1].sort(1).values
        return Kept(grown.positions.gather(1, stay), kept.counts, position + 1)


def test_a_method_that_evicts_at_each_step_gets_its_attention() -> None:
    q, k, v = make()
    memory = Memory(Faint(first=6), impl="torch")
    memory.read(q[:PROMPT], k[:PROMPT], v[:PROMPT])
    kept = [list(range(6)) for _ in range(2)]
    for position in range(PROMPT, END):
        seen = position + 1
        _, index = memory.step(q[position:seen], k[:seen], v[:seen])
        kept = [[*positions, position] for positions in kept]
        assert listed(index.pages, index.counts) == kept
        for head, positions in enumerate(kept):
            weights = sum((k[positions, head] @ q[position, 2 * head + i] / 4).softmax(0) for i in range(2))
            assert isinstance(weights, Tensor)
            positions.pop(int(weights.argmin()))


@pytest.mark.parametrize("method", [First(first=3), Faint(first=3)])
def test_a_method_that_evicts_needs_the_whole_prompt(method: EvictMethod) -> None:
    q, k, v = make()
    with pytest.raises(UsageError, match=f"have not all been read with {method.name}") as error:
        Memory(method, impl="torch").step(q[40:41], k[:41], v[:41])
    assert (error.value.field, error.value.value) == ("cache", "40 tokens")
    memory = Memory(method, impl="torch")
    memory.read(q[:PROMPT], k[:PROMPT], v[:PROMPT])
    with pytest.raises(UsageError, match=f"{PROMPT + 1} tokens"):  # a token was left out
        memory.step(q[PROMPT + 1 : PROMPT + 2], k[: PROMPT + 2], v[: PROMPT + 2])
    memory.step(q[PROMPT : PROMPT + 1], k[: PROMPT + 1], v[: PROMPT + 1])
    with pytest.raises(UsageError, match=f"{PROMPT} tokens"):  # the same token again
        memory.step(q[PROMPT : PROMPT + 1], k[: PROMPT + 1], v[: PROMPT + 1])


@pytest.mark.parametrize("impl", ["triton", "torch"])
@pytest.mark.parametrize("block_size", [4, 16, 64])
def test_weights_of_a_step_do_not_depend_on_block_placement(block_size: int, impl: str) -> None:
    """A softmax over the listed positions alone, summed over the group; past the count anything may stand."""
    q, k, _ = make()
    maker = torch.Generator().manual_seed(0)
    blocks = ceil_div(END, block_size)
    order = (torch.randperm(2 * blocks, generator=maker)).int().view(2, blocks)
    keys = torch.full((2 * blocks, block_size, 2, 16), float("nan"))
    position = torch.arange(END)
    for row, one in enumerate((k.flip(0), k)):
        keys[order[row][position // block_size].long(), position % block_size] = one
    cache = PagedCache(keys, keys, order, torch.tensor([END, END], dtype=torch.int32))
    positions = torch.tensor([[[0, 3, 17, 51], [1, 2, 40, 51]]] * 2, dtype=torch.int32)
    counts = torch.tensor([[4, 4], [3, 1]], dtype=torch.int32)
    positions[1, 0, 3], positions[1, 1, 1:] = -7, 2**31 - 1
    found = TOVA().weigh(q[-1:].expand(2, -1, -1), cache, positions, counts, impl=impl)
    assert (found.shape, found.dtype) == ((2, 2, 4), torch.float32)
    for row, one in enumerate((k.flip(0), k)):
        for head, count in enumerate(counts[row].tolist()):
            here = one[positions[row, head, :count].long(), head]
            expected = sum((here @ q[-1, 2 * head + i] / 4).softmax(0) for i in range(2))
            torch.testing.assert_close(found[row, head, :count], expected, rtol=1e-4, atol=1e-6)
            assert found[row, head, count:].tolist() == [0] * (4 - count)


def test_a_step_is_weighed_by_the_given_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    used, weigh = [], TOVA.weigh

    def recorded(*arguments: Any, impl: str = "auto", **options: Any) -> Tensor:
        used.append(impl)
        return weigh(*arguments, impl=impl, **options)

    monkeypatch.setattr(TOVA, "weigh", recorded)
    q, k, v = make()
    memory = Memory(TOVA(capacity=6), impl="torch")
    memory.read(q[:PROMPT], k[:PROMPT], v[:PROMPT])
    memory.step(q[PROMPT : PROMPT + 1], k[: PROMPT + 1], v[: PROMPT + 1])
    assert used == ["torch"]
