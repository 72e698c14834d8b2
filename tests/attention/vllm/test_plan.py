"""Guards how a step is cut into prompts and decoding: nothing twice, nothing left out, each query with its length."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.vllm.plan import Plan, Prompt, Span, noted_again
from sparse_tasks.attention.vllm.requests import Row

BATCHES = st.lists(
    st.tuples(st.integers(0, 70), st.integers(1, 40), st.integers(1, 70)), min_size=1, max_size=6
)  # start, count, prompt


def made(batch: list[tuple[int, int, int]]) -> list[Row]:
    rows, first = [], 0
    for number, (start, count, prompt) in enumerate(batch):
        rows.append(Row(f"r{number}", first, start, start + count, prompt))
        first += count
    return rows


def buffers(rows: list[Row], extra: int = 2) -> tuple[Tensor, Tensor]:
    """A table and lengths with more rows than there are requests, and more columns than any sequence fills."""
    table = torch.arange((len(rows) + extra) * 50, dtype=torch.int32).view(-1, 50)
    return table, torch.tensor([*(row.end for row in rows), *[0] * extra], dtype=torch.int32)


@settings(max_examples=100, deadline=None)
@given(batch=BATCHES, block_size=st.sampled_from([1, 16, 32]))
def test_every_token_is_in_one_span_of_its_own_request(batch: list[tuple[int, int, int]], block_size: int) -> None:
    rows = made(batch)
    table = torch.zeros(len(rows), 200, dtype=torch.int32)
    plan = Plan.of(rows, table, torch.tensor([row.end for row in rows], dtype=torch.int32), block_size)
    owners = {row.first + n: (row.request, row.start + n) for row in rows for n in range(row.end - row.start)}
    found: dict[int, tuple[str, int]] = {}
    for span in plan.spans(prompts=True, steps=True):
        assert span.start < span.end
        assert rows[span.row].request == span.request
        for n, token in enumerate(range(span.tokens.start, span.tokens.stop)):
            assert token not in found
            found[token] = (span.request, span.start + n)
    assert found == owners
    assert plan.tokens == len(owners)


@settings(max_examples=100, deadline=None)
@given(batch=BATCHES)
def test_prompts_end_where_the_prompt_does(batch: list[tuple[int, int, int]]) -> None:
    rows = made(batch)
    plan = Plan.of(rows, *buffers(rows), 16)
    for prompt in plan.prompts:
        assert prompt.length == rows[prompt.row].prompt
        assert prompt.end <= prompt.length
        assert prompt.complete == (prompt.end == prompt.length)
    assert plan.spans(prompts=True, steps=False) == plan.prompts
    written = plan.spans(prompts=False, steps=True)
    assert all(span.start >= rows[span.row].prompt for span in written)
    assert (plan.steps is None) == (written == ())
    assert plan.spans(prompts=False, steps=False) == ()


@settings(max_examples=100, deadline=None)
@given(batch=BATCHES, block_size=st.sampled_from([16, 32]))
def test_each_query_that_is_decoded_sees_up_to_itself(batch: list[tuple[int, int, int]], block_size: int) -> None:
    rows = made(batch)
    table, cached = buffers(rows)
    steps = Plan.of(rows, table, cached, block_size).steps
    expected = [(row, position) for row in rows for position in range(row.start, row.end) if position >= row.prompt]
    if steps is None:
        assert expected == []
        return
    assert steps.requests == tuple(row.request for row, _ in expected)
    assert steps.lengths == tuple(position + 1 for _, position in expected)
    assert steps.cached.tolist() == list(steps.lengths)
    assert steps.cached.dtype == steps.table.dtype == torch.int32
    places = list(range(len(expected))) if steps.tokens is None else steps.tokens.tolist()
    assert places == [row.first + position - row.start for row, position in expected]
    width = ceil_div(max(row.end for row in rows), block_size)
    for (row, _), blocks in zip(expected, steps.table, strict=True):
        assert torch.equal(blocks, table[rows.index(row), :width])


@settings(max_examples=50, deadline=None)
@given(batch=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30)), min_size=1, max_size=6))
def test_pure_decoding_gathers_nothing(batch: list[tuple[int, int]]) -> None:
    """Tensors are used as they are given, so that a step of decoding copies nothing to the device."""
    rows = made([(prompt + written, 1, prompt) for prompt, written in batch])
    table, cached = buffers(rows)
    plan = Plan.of(rows, table, cached, 16)
    assert plan.prompts == ()
    assert plan.steps is not None
    assert plan.steps.tokens is None
    assert plan.steps.table.data_ptr() == plan.table.data_ptr() == table.data_ptr()
    assert plan.steps.cached.data_ptr() == cached.data_ptr()
    assert len(plan.steps.table) == len(rows)
    assert plan.steps.cached.tolist() == [row.end for row in rows]


@settings(max_examples=50, deadline=None)
@given(batch=BATCHES, block_size=st.sampled_from([1, 16, 32]))
def test_the_table_has_little_more_than_the_longest_sequence_needs(
    batch: list[tuple[int, int, int]], block_size: int
) -> None:
    """It never lacks a block, and grows by an eighth at most, where there is room."""
    rows = made(batch)
    table = torch.arange((len(rows) + 2) * 150, dtype=torch.int32).view(-1, 150)
    plan = Plan.of(rows, table, torch.zeros(len(rows), dtype=torch.int32), block_size)
    needed, width = ceil_div(max(start + count for start, count, _ in batch), block_size), plan.table.shape[1]
    assert needed <= width <= min(150, needed + needed // 8)
    assert torch.equal(plan.table, table[: len(rows), :width])
    assert plan.table.data_ptr() == table.data_ptr()


def test_the_table_stays_as_wide_for_a_while() -> None:
    """Steps of growing sequences are alike, so that they can be recorded."""
    table, cached = torch.zeros(1, 9000, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    widths = [Plan.of([Row("a", 0, n - 1, n, 1)], table, cached, 16).table.shape[1] for n in range(65_536, 70_000)]
    assert sorted(set(widths)) == [4096, 4608]


def test_a_preempted_request_is_cut_in_two() -> None:
    """Its prompt is read again, and what it had written is decoded again, each token as the first time."""
    rows = [Row("a", 0, 20, 21, 20), Row("b", 1, 0, 13, 10), Row("c", 14, 0, 7, 9)]
    plan = Plan.of(rows, *buffers(rows), 16)
    assert plan.prompts == (Prompt(1, "b", 1, 0, 10, 10), Prompt(2, "c", 14, 0, 7, 9))
    assert [prompt.complete for prompt in plan.prompts] == [True, False]
    assert plan.steps is not None
    assert plan.steps.spans == (Span(0, "a", 0, 20, 21), Span(1, "b", 11, 10, 13))
    assert plan.steps.requests == ("a", "b", "b", "b")
    assert plan.steps.lengths == (21, 11, 12, 13)
    assert plan.steps.tokens is not None
    assert plan.steps.tokens.tolist() == [0, 11, 12, 13]


def test_a_block_is_noted_again_from_its_first_token_where_tokens_of_it_were_taken_back() -> None:
    rows = [
        Row("a", 0, 20, 24, 20),
        Row("b", 4, 35, 39, 10, taken_back=True),
        Row("c", 8, 48, 52, 10, taken_back=True),  # whose block begins anew
        Row("d", 12, 30, 37, 10, taken_back=True),  # which goes on in the next block
        Row("e", 19, 0, 9, 9, taken_back=True),
    ]
    table, _ = buffers(rows)
    slots = noted_again(rows, table, 16)
    assert slots is not None
    b, d = table[1, 2] * 16, table[3, 1] * 16
    assert slots.tolist() == [*range(b, b + 7), *range(d, d + 16)]
    assert noted_again(rows[:1], table, 16) is None
    assert noted_again([rows[2]], table[2:], 16) is None
