"""Guards what stays of each request in a batch: lists that last over steps, and errors where something was not seen."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import Kept, PageIndex
from sparse_tasks.attention.method import METHODS, ONLY, EvictMethod, Layer, StepMethod
from sparse_tasks.attention.methods.tova import TOVA
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.attention.vllm.evicted import _ROOM, Evicted
from sparse_tasks.attention.vllm.plan import Plan, Prompt, Steps
from sparse_tasks.attention.vllm.requests import Row
from sparse_tasks.core.errors import EngineError
from tests.attention.toys import First
from tests.methods import OURS

KV_HEADS, SIZE, LONGEST = 2, 16, 600
EACH_STEP = [name for name in OURS if getattr(METHODS.get(name), "each_step", False)]


@functools.cache
def made(name: str) -> tuple[Tensor, Tensor]:
    """Queries and keys of a request, by its name."""
    maker = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.randn(LONGEST, 4, SIZE, generator=maker), torch.randn(LONGEST, KV_HEADS, SIZE, generator=maker)


def read(evicted: Evicted, name: str, *cuts: int) -> None:
    """A prompt, in chunks that end there."""
    q, k = made(name)
    for start, end in zip([0, *cuts], cuts, strict=False):
        evicted.read(Prompt(0, name, 0, start, end, cuts[-1]), q[start:end], k[:end], None)


def step(evicted: Evicted, asked: dict[str, int] | None = None, **lengths: int | tuple[int, ...]) -> PageIndex:
    """A step whose queries see so many positions each, their own included; several of one request in turn.

    Of requests that are ``asked``, what follows a context is of the prompt up to there.
    """
    rows, first, prompts = [], 0, {}
    for name, length in lengths.items():
        each = (length,) if isinstance(length, int) else length
        question = (asked or {}).get(name)
        rows.append(Row(name, first, each[0] - 1, each[-1], question or 0, None if question is None else 0))
        first += len(each)
        prompts[name] = each
    table = torch.arange(len(rows), dtype=torch.int32)[:, None]
    cached = torch.tensor([row.end for row in rows], dtype=torch.int32)
    steps = Plan.of(rows, table, cached, LONGEST).steps
    assert isinstance(steps, Steps)
    keys = torch.stack([made(name)[1] for name in lengths])
    q = torch.stack([made(name)[0][length - 1] for name, each in prompts.items() for length in each])
    return evicted.step(steps, q, PagedCache(keys, keys, steps.table, steps.cached))


def seen(index: PageIndex) -> list[list[list[int]]]:
    """The positions of each query and KV head."""
    assert index.unit == 1
    assert index.pages.dtype == index.counts.dtype == torch.int32
    return [
        [row[:count] for row, count in zip(rows, counts, strict=True)]
        for rows, counts in zip(index.pages.tolist(), index.counts.tolist(), strict=True)
    ]


def test_what_is_kept_and_what_was_written_since_is_seen() -> None:
    evicted = Evicted(First(first=3), Layer(1, 2), "torch")  # of the second layer one more
    read(evicted, "a", 20)
    read(evicted, "b", 2)
    index = step(evicted, a=21, b=3)
    assert seen(index) == [[[0, 1, 2, 3, 20]] * 2, [[0, 1, 2]] * 2]
    assert index.lengths.tolist() == [21, 3]
    assert seen(step(evicted, a=22, b=4)) == [[[0, 1, 2, 3, 20, 21]] * 2, [[0, 1, 2, 3]] * 2]


def test_requests_of_a_session_go_on_from_what_the_first_one_chose() -> None:
    """With cached prefixes that end before, at or behind the context, or with none: nothing is observed again."""
    evicted = Evicted(First(first=3), ONLY, "torch")
    evicted.begin("a", 20, 0, "session")
    read(evicted, "a", 8, 20)
    assert seen(step(evicted, a=21)) == [[[0, 1, 2, 20]] * 2]
    evicted.forget("a")
    for name, cached in (("b", 16), ("c", 20), ("d", 32), ("e", 0)):
        evicted.begin(name, 20, cached, "session")
        if cached < 20:
            q, k = made(name)
            evicted.read(Prompt(0, name, 0, cached, 20, 20), q[cached:20], k[:20], None)
    assert seen(step(evicted, b=21, d=33)) == [[[0, 1, 2, 20]] * 2, [[0, 1, 2, *range(20, 33)]] * 2]
    assert seen(step(evicted, c=21, e=22)) == [[[0, 1, 2, 20]] * 2, [[0, 1, 2, 20, 21]] * 2]
    evicted.begin("b", 20, 32, None)  # it was preempted
    assert seen(step(evicted, b=22)) == [[[0, 1, 2, 20, 21]] * 2]
    with pytest.raises(EngineError, match="has 21 tokens, and that of its session 20"):
        evicted.begin("f", 21, 0, "session")
    evicted.close("session")
    with pytest.raises(EngineError, match="has not seen 16 tokens of the prefix cache"):
        evicted.begin("g", 20, 16, "session")


@pytest.mark.parametrize("name", EACH_STEP)
def test_methods_that_evict_at_each_step_share_nothing(name: str) -> None:
    method = METHODS.get(name).from_settings({"sparsity": 0.5})
    evicted = Evicted(method, ONLY, "torch")
    evicted.begin("a", 20, 0, "session")
    read(evicted, "a", 20)
    with pytest.raises(EngineError, match="has not seen 16 tokens") if method.unshared else nullcontext():
        evicted.begin("b", 20, 16, "session")
    read(evicted, "b", 20)  # it chooses for itself
    assert seen(step(evicted, b=21))


def test_lists_last_while_requests_do_and_are_made_anew_where_room_ends() -> None:
    """Hundreds of tokens are written, one after the other, by requests that began at different times."""
    evicted = Evicted(First(first=3), ONLY, "torch")
    read(evicted, "a", 10)
    read(evicted, "b", 30)
    made_anew: list[Tensor] = []
    for n in range(1, 2 * _ROOM + 20):
        index = step(evicted, a=10 + n, b=30 + n)
        assert seen(index) == [[[0, 1, 2, *range(10, 10 + n)]] * 2, [[0, 1, 2, *range(30, 30 + n)]] * 2]
        if not made_anew or index.pages is not made_anew[-1]:
            made_anew.append(index.pages)
    assert len(made_anew) == 3


def test_room_is_counted_from_where_a_request_is_when_the_lists_are_made() -> None:
    """One that has written more than lists have room for is joined by another."""
    evicted = Evicted(First(first=2), ONLY, "torch")
    read(evicted, "a", 5)
    for length in range(6, 200):
        step(evicted, a=length)
    read(evicted, "b", 9)
    for n in range(_ROOM + 5):
        index = step(evicted, a=200 + n, b=10 + n)
        assert seen(index) == [[[0, 1, *range(5, 200 + n)]] * 2, [[0, 1, *range(9, 10 + n)]] * 2]


def test_rows_may_change_places_and_come_and_go() -> None:
    evicted = Evicted(First(first=2), ONLY, "torch")
    for name, length in (("a", 5), ("b", 7), ("c", 3)):
        read(evicted, name, length)
    a, b, c = ([[0, 1, *range(start, start + 3)]] * 2 for start in (5, 7, 3))
    assert seen(step(evicted, a=8, b=10)) == [a, b]
    assert seen(step(evicted, b=10, a=8)) == [b, a]
    assert seen(step(evicted, c=6, b=10, a=8)) == [c, b, a]
    assert seen(step(evicted, b=10)) == [b]
    assert seen(step(evicted, b=10, c=6)) == [b, c]


def test_a_request_may_have_several_queries_in_a_step() -> None:
    evicted = Evicted(First(first=2), ONLY, "torch")
    read(evicted, "a", 5)
    read(evicted, "b", 5)
    found = seen(step(evicted, a=(6, 7, 8), b=6))
    assert found == [[[0, 1, 5]] * 2, [[0, 1, 5, 6]] * 2, [[0, 1, 5, 6, 7]] * 2, [[0, 1, 5]] * 2]
    assert seen(step(evicted, a=9, b=7)) == [[[0, 1, 5, 6, 7, 8]] * 2, [[0, 1, 5, 6]] * 2]


@dataclass(frozen=True, kw_only=True)
class Uneven(First):
    """As many tokens as the number of the head says, twice; what lies past the count is garbage."""

    name: ClassVar[str] = "uneven"

    def keep(
        self,
        q: Tensor,
        k: Tensor,
        *,
        v: Tensor | None = None,
        length: int | None = None,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Kept:
        positions = torch.tensor([[1, 3, 2**31 - 1, -5], [0, 1, 2, 4]], dtype=torch.int32)
        return Kept(positions, torch.tensor([2, 4], dtype=torch.int32), len(k))


def test_heads_may_keep_different_numbers_of_tokens() -> None:
    evicted = Evicted(Uneven(), ONLY, "torch")
    read(evicted, "a", 6)
    for n in range(1, 150):
        written = range(6, 6 + n)
        assert seen(step(evicted, a=6 + n)) == [[[1, 3, *written], [0, 1, 2, 4, *written]]]


def test_a_prompt_that_begins_again_forgets_its_first_chunks() -> None:
    """After a preemption half-way."""
    evicted = Evicted(TOVA(capacity=9), ONLY, "torch")
    q, k = made("a")
    evicted.read(Prompt(0, "a", 0, 0, 25, 40), q[100:125], k[100:125], None)
    read(evicted, "a", 39, 40)
    whole = Evicted(TOVA(capacity=9), ONLY, "torch")
    read(whole, "a", 40)
    assert seen(step(evicted, a=41)) == seen(step(whole, a=41))


@pytest.mark.parametrize("method", [First(first=3), TOVA(capacity=3)])
def test_a_prompt_that_was_not_seen_is_an_error(method: EvictMethod) -> None:
    evicted = Evicted(method, ONLY, "torch")
    read(evicted, "a", 9)
    with pytest.raises(EngineError, match=f"^b: decoding begins before {method.name} has seen the prompt$"):
        step(evicted, a=10, b=10)


@pytest.mark.parametrize("method", [First(first=3), TOVA(capacity=3)])
def test_a_prompt_of_which_a_part_was_seen_is_an_error(method: EvictMethod) -> None:
    evicted = Evicted(method, ONLY, "torch")
    q, k = made("a")
    evicted.read(Prompt(0, "a", 0, 0, 5, 9), q[:5], k[:5], None)
    with pytest.raises(EngineError, match=f"^a: decoding begins before {method.name} has seen the prompt$"):
        step(evicted, a=6)


def test_a_step_that_is_left_out_or_comes_twice_is_an_error() -> None:
    """A method that evicts at each step has to see all of them."""
    evicted = Evicted(TOVA(capacity=3), ONLY, "torch")
    read(evicted, "a", 9)
    with pytest.raises(EngineError, match=r"^a: tova has seen 9 tokens of 10$"):
        step(evicted, a=11)
    step(evicted, a=10)
    with pytest.raises(EngineError, match=r"^a: tova has seen 10 tokens of 9$"):
        step(evicted, a=10)
    step(evicted, a=11)


def test_a_method_for_each_step_lets_one_token_go_and_keeps_its_own_for_each_request() -> None:
    """Like ``TOVA.advance`` on each alone, also where several queries of one request come at once."""
    together, apart = (Evicted(TOVA(capacity=6), ONLY, "torch") for _ in range(2))
    for evicted in (together, apart):
        read(evicted, "a", 20)
        read(evicted, "b", 4)
    one = [seen(step(apart, a=length))[0] for length in range(21, 25)]
    other = [seen(step(apart, b=length))[0] for length in range(5, 9)]
    assert seen(step(together, a=(21, 22, 23), b=5)) == [*one[:3], other[0]]
    assert seen(step(together, b=6, a=24)) == [other[1], one[3]]
    assert all(len(head) == 7 for query in one for head in query)  # six, and its own
    assert [len(query[0]) for query in other] == [5, 6, 7, 7]


def alone(method: StepMethod) -> StepMethod:
    """The method as one that takes a request after the other."""

    class Alone(type(method)):  # type: ignore[misc]
        def advance(self, kept: Kept, position: int, weights: Tensor | None = None) -> Kept:
            assert weights is not None
            assert weights.shape == (KV_HEADS, kept.positions.shape[1] + 1)
            return super().advance(kept, position, weights)

    found: StepMethod = Alone(**method.settings())
    assert not found.together
    return found


class Weighing(TOVA):
    """One that records which implementation weighs the tokens of a step."""

    used: ClassVar[list[str]] = []

    def weigh(self, *arguments: Any, impl: str = "auto", **options: Any) -> Tensor:
        self.used.append(impl)
        return super().weigh(*arguments, impl=impl, **options)


@pytest.mark.parametrize("method", [Weighing(capacity=6), alone(Weighing(capacity=6))], ids=["together", "alone"])
def test_a_step_is_weighed_by_the_given_implementation(method: EvictMethod) -> None:
    Weighing.used.clear()
    evicted = Evicted(method, ONLY, "torch")
    read(evicted, "a", 20)
    step(evicted, a=21)
    assert Weighing.used == ["torch"]


NAMES = "abcdef"
PARTS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([1, 1, 1, 2, 3])),
    min_size=1,
    max_size=6,
    unique_by=lambda x: x[0],
)


@pytest.mark.parametrize(
    ("name", "settings_of"),
    [
        *((name, {budget: size}) for name in EACH_STEP for budget, size in (("capacity", 12), ("sparsity", 0.7))),
        ("oracle_evict", {"sparsity": 0.7, "shared": True}),
        ("oracle_evict", {"capacity": 12, "grows": False}),
        ("oracle_evict", {"p": 0.6}),
    ],
    ids=str,
)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.integers(1, 40) | st.just(300), min_size=6, max_size=6),
    steps=st.lists(st.tuples(PARTS, st.sampled_from([*NAMES, "", "", ""])), min_size=1, max_size=12),
    questions=st.lists(st.integers(0, 6), min_size=6, max_size=6),
    softmax=st.sampled_from([PLAIN, Softmax(torch.tensor([3.0, -1.0, 2.0, 0.0]), 1.5)]),
)
def test_a_batch_evicts_as_each_request_alone(
    name: str,
    settings_of: dict[str, float],
    prompts: list[int],
    steps: list[tuple[list[tuple[str, int]], str]],
    questions: list[int],
    softmax: Softmax,
) -> None:
    """Requests come and go, change places, are preempted, ask several tokens at once, and have budgets of their own."""
    method = METHODS.get(name)(**settings_of)
    assert isinstance(method, StepMethod)
    together, apart = (Evicted(one.under(softmax), Layer(1, 3), "torch") for one in (method, alone(method)))
    length = dict(zip(NAMES, prompts, strict=True))
    asked = {one: length[one] + count for one, count in zip(NAMES, questions, strict=True) if count}
    for one in NAMES:
        read(together, one, length[one])
        read(apart, one, length[one])
    for parts, preempted in steps:
        if preempted:
            prompt = dict(zip(NAMES, prompts, strict=True))[preempted]
            length[preempted] = prompt
            for evicted in (together, apart):
                evicted.forget(preempted)
                read(evicted, preempted, *sorted({max(1, prompt // 2), prompt}))
        queries: dict[str, int | tuple[int, ...]] = {
            one: tuple(range(length[one] + 1, length[one] + count + 1)) for one, count in parts
        }
        assert seen(step(together, asked, **queries)) == seen(step(apart, asked, **queries))
        length.update({one: length[one] + count for one, count in parts})


def test_lists_of_other_lengths_stand_apart() -> None:
    """One long request would widen those of all others: none is padded to more than twice its own."""
    method = METHODS.get("tova")(sparsity=0.5)
    assert isinstance(method, StepMethod)
    evicted = Evicted(method, ONLY, "torch")
    lengths = {"a": 500, "b": 20, "c": 300, "d": 24, "e": 4}
    for name, length in lengths.items():
        read(evicted, name, length)
    index = step(evicted, **{name: length + 1 for name, length in lengths.items()})
    assert index.counts[:, 0].tolist() == [length // 2 + 1 for length in lengths.values()]
    assert evicted._together is not None
    batches = {id(batch): batch.kept.sizes for batch in evicted._together._batches.values()}
    assert sorted(batches.values()) == [(2,), (10, 12), (250, 150)]


def test_a_request_that_waits_holds_no_lists_but_its_own() -> None:
    evicted = Evicted(TOVA(capacity=5), ONLY, "torch")
    for name in "abc":
        read(evicted, name, 9)
    step(evicted, a=10, b=10, c=10)
    step(evicted, a=11, c=11)
    assert evicted._together is not None
    assert len(evicted._together._batches["b"].kept.positions) == 1
    assert len(evicted._together._batches["a"].kept.positions) == 2
    evicted.forget("a")
    step(evicted, c=12, b=11)
    assert [len(batch.kept.positions) for batch in evicted._together._batches.values()] == [2, 2]
