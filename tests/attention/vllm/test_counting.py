"""Guards what is counted of each request: by hand on small cases, whatever else ran beside it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, LineIndex, PageIndex, PrefillIndex
from sparse_tasks.attention.interactions import causal_count, ceil_div
from sparse_tasks.attention.vllm import counting
from sparse_tasks.attention.vllm.counting import _HELD, _KEPT, _ROOM, Counter
from sparse_tasks.attention.vllm.plan import Plan
from sparse_tasks.attention.vllm.requests import Row
from tests.attention.toys import block_index

LAYERS, KV_HEADS, GROUP, KEY_BYTES = 2, 2, 2, 100


def counter(layers: int = LAYERS, kv_heads: int = KV_HEADS, group: int = GROUP) -> Counter:
    return Counter(layers, kv_heads, group, KEY_BYTES, torch.device("cpu"), "torch")


def step(*rows: tuple[str, int, int, int]) -> Plan:
    """The plan of rows of (request, start, count, prompt)."""
    found, first = [], 0
    for request, start, count, prompt in rows:
        found.append(Row(request, first, start, start + count, prompt))
        first += count
    cached = torch.tensor([row.end for row in found], dtype=torch.int32)
    return Plan.of(found, torch.zeros(len(found), 64, dtype=torch.int32), cached, 16)


def pages(plan: Plan, lists: list[list[list[int]]], unit: int = 1) -> PageIndex:
    """An index from the lists of each query and head, with garbage past the counts."""
    assert plan.steps is not None
    width = max(len(one) for query in lists for one in query) + 2
    made = torch.tensor([[one + [2**31 - 1] * (width - len(one)) for one in query] for query in lists])
    counts = torch.tensor([[len(one) for one in query] for query in lists])
    return PageIndex(made.int(), counts.int(), unit, plan.steps.cached)


def ints(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def blocks(n_q: int, n_k: int, listed: list[list[int]]) -> BlockIndex:
    """Blocks of 64, the same for all heads, from the lists of each row."""
    mask = torch.zeros(1, len(listed), ceil_div(n_k, 64), dtype=torch.bool)
    for row, columns in enumerate(listed):
        mask[0, row, columns] = True
    return block_index(mask, 64, 64, n_q, n_k)


def test_a_prompt_under_blocks_is_counted_by_layer() -> None:
    """Two rows of blocks, of which the first layer leaves one out; the index is one for all heads."""
    one, plan = counter(), step(("a", 0, 100, 100))
    one.prompt("a", 0, blocks(100, 100, [[0], [1]]))
    one.prompt("a", 1, blocks(100, 100, [[0], [0, 1]]))
    one.end(plan, prompts_dense=False, steps_dense=True)
    diagonal = 64 * 65 // 2 + 36 * 37 // 2
    dense = 100 * 101 // 2
    assert one.take("a") == {"prefill": {"densities": [diagonal / dense] * 4 + [1.0] * 4}}


def test_a_prompt_under_lines_is_counted_by_head() -> None:
    """Of 10 positions and units of 4: the verticals 0 and 1, and in the other head the query's own tile."""
    index = LineIndex(ints([[0, 1], [7, 7]]), ints([2, 0]), ints([[9], [0]]), ints([0, 1]), 4, 4, 10, 10)
    one = counter(layers=1)
    one.prompt("a", 0, index)
    one.end(step(("a", 0, 10, 10)), prompts_dense=False, steps_dense=True)
    # The first key is seen by ten queries, the second by nine; tiles on the diagonal hold 10 + 10 + 3.
    taken = one.take("a")
    assert taken == {"prefill": {"densities": [19 / 55, 19 / 55, 23 / 55, 23 / 55]}}


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_an_index_of_fewer_heads_goes_for_all_that_share_it(heads: int) -> None:
    columns = ints([[0, 1, 2, 3]] * heads)
    index = LineIndex(columns, ints(range(1, heads + 1)), ints([[0]] * heads), ints([0] * heads), 4, 4, 4, 4)
    one = counter(layers=1)
    one.prompt("a", 0, index)
    one.end(step(("a", 0, 4, 4)), prompts_dense=False, steps_dense=True)
    seen = [sum(4 - j for j in range(count)) / 10 for count in range(1, heads + 1)]
    assert one.take("a") == {"prefill": {"densities": [share for share in seen for _ in range(4 // heads)]}}


def test_chunks_and_stretches_of_a_prompt_add_up() -> None:
    one, whole = counter(), counter()
    for layer in range(LAYERS):
        whole.prompt("a", layer, blocks(150, 150, [[0], [1], [0, 2]]))
    whole.end(step(("a", 0, 150, 150)), prompts_dense=False, steps_dense=False)
    for layer in range(LAYERS):  # in two stretches
        one.prompt("a", layer, blocks(64, 64, [[0]]))
        one.prompt("a", layer, blocks(36, 100, [[1]]))
    one.end(step(("a", 0, 100, 150)), prompts_dense=False, steps_dense=False)
    for layer in range(LAYERS):
        one.prompt("a", layer, blocks(50, 150, [[1], [0, 2]]))
    one.end(step(("a", 100, 50, 150)), prompts_dense=False, steps_dense=False)
    assert one.take("a") == whole.take("a")


def test_what_is_dense_is_all_there_and_needs_no_index() -> None:
    one = counter()
    one.end(step(("a", 0, 7, 7), ("b", 0, 3, 5)), prompts_dense=True, steps_dense=True)
    one.end(step(("b", 3, 2, 5), ("a", 7, 1, 7)), prompts_dense=True, steps_dense=True)
    one.end(step(("a", 8, 1, 7)), prompts_dense=True, steps_dense=True)
    heads = LAYERS * KV_HEADS
    assert one.take("a") == {
        "prefill": {"densities": [1.0] * heads * GROUP},
        "decode": {"densities": [1.0] * heads, "kv_bytes": heads * KEY_BYTES * (8 + 9) / 2, "steps": 2},
    }
    assert one.take("b") == {"prefill": {"densities": [1.0] * heads * GROUP}}


def test_a_prompt_may_be_dense_in_part() -> None:
    """As when methods change: the part that was dense counts whole."""
    one = counter(layers=1)
    one.end(step(("a", 0, 64, 100)), prompts_dense=True, steps_dense=True)
    one.prompt("a", 0, blocks(36, 100, [[1]]))
    one.end(step(("a", 64, 36, 100)), prompts_dense=False, steps_dense=True)
    seen = (64 * 65 // 2 + 36 * 37 // 2) / (100 * 101 // 2)
    assert one.take("a") == {"prefill": {"densities": [seen] * 4}}


@pytest.mark.parametrize("unit", [1, 16])
def test_steps_are_counted_by_head_and_bytes_by_step(unit: int) -> None:
    """Of 40 and then 41 cached positions; the third page of sixteen is a part of 8 or 9."""
    one = counter()
    third = [2] if unit == 16 else list(range(32, 40))
    for length in (40, 41):
        plan = step(("a", length - 1, 1, 30))
        more = third if unit == 16 or length == 40 else [*third, 40]
        first = [0] if unit == 16 else list(range(16))
        one.steps(0, pages(plan, [[first, more]], unit))
        one.steps(1, pages(plan, [[first + more, first]], unit))
        one.end(plan, prompts_dense=True, steps_dense=False)
    read = [16 * 2, 8 + 9, 16 * 2 + 8 + 9, 16 * 2]
    taken = one.take("a")
    assert taken == {"decode": {"densities": [n / 81 for n in read], "kv_bytes": sum(read) * KEY_BYTES / 2, "steps": 2}}


def test_lists_of_tokens_are_not_held_until_the_step_ends() -> None:
    """Those of a question have a row for each of its tokens, in every layer."""
    one, plan = counter(kv_heads=1), step(("a", 19, 1, 9))
    for layer in (0, 1):
        index = pages(plan, [[[0, 5, 7]]], 1)
        held = weakref.ref(index.pages)
        one.steps(layer, index)
        del index
        assert held() is None
    one.end(plan, prompts_dense=True, steps_dense=False)
    assert one.take("a") == {"decode": {"densities": [0.15, 0.15], "kv_bytes": 6 * KEY_BYTES, "steps": 1}}


def test_units_may_differ_by_layer() -> None:
    one, plan = counter(kv_heads=1), step(("a", 19, 1, 9))
    one.steps(0, pages(plan, [[[0, 1]]], 16))
    one.steps(1, pages(plan, [[[0, 5]]], 1))
    one.end(plan, prompts_dense=True, steps_dense=False)
    assert one.take("a") == {"decode": {"densities": [1.0, 0.1], "kv_bytes": 22 * KEY_BYTES, "steps": 1}}


def test_a_request_may_have_several_queries_in_a_step() -> None:
    """Output written before a preemption is decoded in one go."""
    one = counter(layers=1, kv_heads=1)
    plan = step(("b", 4, 1, 4), ("a", 0, 8, 5))
    one.prompt("a", 0, blocks(5, 5, [[0]]))
    one.steps(0, pages(plan, [[[0, 1]], [[0]], [[1, 2]], [[3, 4, 5]]]))
    one.end(plan, prompts_dense=False, steps_dense=False)
    assert one.take("a") == {
        "prefill": {"densities": [1.0] * 2},
        "decode": {"densities": [6 / (6 + 7 + 8)], "kv_bytes": 6 * KEY_BYTES / 3, "steps": 3},
    }
    assert one.take("b") == {"decode": {"densities": [2 / 5], "kv_bytes": 2 * KEY_BYTES, "steps": 1}}


def decoded(one: Counter, *names: str, pages_read: int = 1, length: int = 10) -> None:
    plan = step(*((name, length - 1, 1, length - 1) for name in names))
    for layer in range(LAYERS):
        one.steps(layer, pages(plan, [[list(range(pages_read))] * KV_HEADS for _ in names]))
    one.end(plan, prompts_dense=True, steps_dense=False)


def test_there_is_room_for_more_requests_than_at_first() -> None:
    """Also where they come in the middle of others' steps, in inference mode, and are taken outside of it."""
    one = counter()
    early = [f"early{n}" for n in range(_ROOM - 3)]
    many = [f"late{n}" for n in range(3 * _ROOM)]
    with torch.inference_mode():
        decoded(one, *early)
        decoded(one, *early, *many, pages_read=3)
        decoded(one, *many, pages_read=2)
    for name in early:
        assert one.take(name) == {"decode": {"densities": [4 / 20] * 4, "kv_bytes": 8.0 * KEY_BYTES, "steps": 2}}
    for name in many:
        assert one.take(name) == {"decode": {"densities": [5 / 20] * 4, "kv_bytes": 10.0 * KEY_BYTES, "steps": 2}}


def test_slots_are_used_again_and_are_clean() -> None:
    """As many requests as there is room for, one after the other, the counts of each its own."""
    one = counter()
    for number in range(2 * _ROOM):
        decoded(one, f"r{number}", pages_read=1 + number % 5)
        one.finish([f"r{number}"])
        taken = one.take(f"r{number}")
        assert taken is not None
        assert taken["decode"]["densities"] == [(1 + number % 5) / 10] * 4
    assert len(one._read) == _ROOM
    assert not one._read.any()


def test_the_finished_wait_until_they_are_taken_once() -> None:
    one = counter()
    decoded(one, "a")
    one.finish(["a", "stranger"])
    decoded(one, "b", pages_read=4)
    expected = {"decode": {"densities": [0.1] * 4, "kv_bytes": 4.0 * KEY_BYTES, "steps": 1}}
    assert one.take("a") == expected
    assert one.take("a") is None
    assert one.take("stranger") is None
    assert one.take("b") is not None  # one that runs may be asked for too


def test_what_goes_on_after_its_counts_were_taken_is_dropped_as_it_ends() -> None:
    """As where a client leaves: nobody asks again. The same name may come again later."""
    one = counter()
    for name in ("a", "a-1"):
        decoded(one, "a-1", "b")
        assert one.take(name) is not None
        decoded(one, "a-1", "b")
        one.finish(["a-1"])
        assert one.take("a") is None
    assert one.take("b") == {"decode": {"densities": [0.1] * 4, "kv_bytes": 4.0 * KEY_BYTES, "steps": 4}}
    one.finish(["b"])
    assert [len(one._taken), len(one._finished), len(one._running)] == [0, 0, 0]
    assert not one._read.any()
    assert len(one._free) == _ROOM


def test_of_the_finished_only_the_last_few_thousand_wait() -> None:
    """Nobody may ever ask for them, and then their slots are free again."""
    one = counter(layers=1, kv_heads=1)
    for number in range(_KEPT + 100):
        name = f"r{number}"
        one.end(step((name, 0, 2, 2)), prompts_dense=True, steps_dense=True)
        one.finish([name])
    assert one.take("r0") is None
    assert one.take("r99") is None
    assert one.take("r100") == {"prefill": {"densities": [1.0, 1.0]}}
    assert one.take(f"r{_KEPT + 99}") is not None
    assert len(one._read) <= 2 * _KEPT


@pytest.mark.parametrize("over", [False, True])
def test_a_request_is_found_by_the_name_it_was_given(over: bool) -> None:
    """A dash and letters are added by vLLM."""
    one = counter()
    names = ["name-with-dashes-0a1b2c3d", "name-with-0a1b2c3d", "name-0a1b2c3d"]
    for count, name in enumerate(names, start=1):
        decoded(one, name, pages_read=count)
    if over:
        one.finish(names)
    for count, name in enumerate(("name-with-dashes", "name-with", "name"), start=1):
        taken = one.take(name)
        assert taken is not None
        assert taken["decode"]["densities"] == [count / 10] * 4
    assert one.take("name") is None


def test_the_whole_name_goes_before_one_with_letters_added() -> None:
    one = counter()
    decoded(one, "name-0a1b2c3d", pages_read=2)
    decoded(one, "name", pages_read=1)
    for name, count in (("name", 1), ("name", 2)):
        taken = one.take(name)
        assert taken is not None
        assert taken["decode"]["densities"] == [count / 10] * 4


def test_a_name_that_comes_again_is_counted_anew() -> None:
    one = counter()
    decoded(one, "a", pages_read=1)
    one.finish(["a"])
    decoded(one, "a", pages_read=3)  # another request of this name
    assert one._running["a"].slot != one._finished["a"].slot
    found = [one.take("a"), one.take("a")]
    assert [taken["decode"]["densities"] for taken in found if taken] == [[0.1] * 4, [0.3] * 4]


def test_a_step_that_failed_on_the_way_can_be_ended() -> None:
    """The worker ends its step also where a layer raised an error, which is then what should be told."""
    one, plan = counter(), step(("a", 9, 1, 9))
    one.steps(0, pages(plan, [[[0], [0]]]))
    one.end(plan, prompts_dense=True, steps_dense=False)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    units=st.lists(st.sampled_from([1, 4, 16]), min_size=1, max_size=3),
    alike=st.booleans(),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_positions_of_all_layers_are_those_of_each(
    lengths: list[int], units: list[int], alike: bool, share: float, seed: int
) -> None:
    """Whatever is listed, nothing included, and whatever lies past the counts."""
    maker, cached = torch.Generator().manual_seed(seed), ints(lengths)
    indices = []
    for unit in [units[0]] * len(units) if alike else units:
        most = ceil_div(max(lengths), unit)
        listed = [
            [torch.nonzero(torch.rand(ceil_div(n, unit), generator=maker) < share).flatten() for _ in range(2)]
            for n in lengths
        ]
        numbers = torch.randint(-9, 2**30, (len(lengths), 2, most + 1), generator=maker, dtype=torch.int32)
        for row, query in enumerate(listed):
            for head, one in enumerate(query):
                numbers[row, head, : len(one)] = one.int()
        counts = ints([[len(one) for one in query] for query in listed])
        indices.append(PageIndex(numbers, counts, unit, cached))
    one = counter(layers=len(indices))
    one._add(indices, torch.arange(len(lengths)).flip(0), cached)
    expected = torch.stack([index.computed() for index in indices], dim=1)
    assert torch.equal(one._read[: len(lengths)].flip(0), expected)
    assert not one._read[len(lengths) :].any()


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    held=st.sampled_from([0, 300, _HELD]),
    inference=st.booleans(),
    seed=st.integers(0, 999),
)
def test_prompts_of_all_layers_are_those_of_each(widths: list[int], held: int, inference: bool, seed: int) -> None:
    """Whatever forms the indices have, and however many wait; a step ends outside of inference mode."""
    maker = torch.Generator().manual_seed(seed)
    one, total = counter(layers=len(widths)), 200
    expected: dict[str, list[list[float]]] = {"a": [], "b": []}
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(inference):
        patch.setattr(counting, "_HELD", held)
        for layer, width in enumerate(widths):
            for request in ("a", "b"):
                heads = (1, KV_HEADS, KV_HEADS * GROUP)[(layer + width) % 3]
                numbers = torch.rand(heads, total, generator=maker).argsort(1)[:, : 9 * width].sort(1).values.int()
                lines = LineIndex(numbers, torch.full((heads,), 8 * width).int(), numbers[:, :2] % 4,
                                  torch.full((heads,), width % 3).int(), 128, 64, 120, total)  # fmt: skip
                first = blocks(80, 80, [[0], [0, 1][:width]])
                one.prompt(request, layer, first)
                one.prompt(request, layer, lines)
                sums = sum(
                    x.computed().repeat_interleave(KV_HEADS * GROUP // len(x.computed())) for x in (first, lines)
                )
                expected[request].append((sums / causal_count(total, total)).tolist())
    one.end(step(("a", 0, total, total), ("b", 0, total, total)), prompts_dense=False, steps_dense=False)
    for request, densities in expected.items():
        assert one.take(request) == {"prefill": {"densities": pytest.approx([x for layer in densities for x in layer])}}


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_dense_indices_count_as_dense_in_any_chunks(cuts: list[int]) -> None:
    one, start, total = counter(layers=1), 0, sum(cuts)
    for count in cuts:
        index: PrefillIndex = BlockIndex.dense(count, start + count, 64, 64)
        one.prompt("a", 0, index)
        one.end(step(("a", start, count, total)), prompts_dense=False, steps_dense=False)
        start += count
    assert one.take("a") == {"prefill": {"densities": [1.0] * 4}}
    assert sum(causal_count(n, sum(cuts[: i + 1])) for i, n in enumerate(cuts)) == causal_count(total, total)
