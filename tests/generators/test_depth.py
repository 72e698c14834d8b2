"""Depth: where evidence stands, as asked for or anywhere."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.depth import Depth, parse_depth
from sparse_tasks.generators.seeds import Stream

_SHARES = st.floats(0, 1).map(lambda share: round(share, 4))
_DEPTHS = st.tuples(_SHARES, _SHARES).map(lambda pair: Depth(min(pair), max(pair)))


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("uniform", Depth(0, 1)),
        (" Uniform ", Depth(0, 1)),
        ("0", Depth(0, 0)),
        ("1", Depth(1, 1)),
        ("0.5", Depth(0.5, 0.5)),
        (".25", Depth(0.25, 0.25)),
        ("0.2-0.4", Depth(0.2, 0.4)),
        ("0.2 - 0.4", Depth(0.2, 0.4)),
        ("0.2:0.4", Depth(0.2, 0.4)),
        ("0.2,0.4", Depth(0.2, 0.4)),
        ("0-1", Depth()),
    ],
)
def test_a_number_a_range_or_uniform(text: str, depth: Depth) -> None:
    assert parse_depth(text) == depth


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "deep",
            "-0.5",
            "1.1",
            "2",
            "0.4-0.2",
            "0.2-",
            "-",
            "0.2-0.4-0.6",
            "0.2--0.4",
            "50%",
            "1e-1",
            "nan",
            "inf",
        ),
        *("0,5-1", "٠.٥", "0.5.5", "uniform-1", "0.2..0.4"),
    ],
)
def test_anything_else_is_refused_with_the_right_form(text: str) -> None:
    remedy = "is not a depth; write uniform, a number from 0 to 1, or a range such as 0.2-0.4"
    with pytest.raises(UsageError, match=re.escape(f"depth: {text!r} {remedy}")):
        parse_depth(text)


@given(_DEPTHS)
def test_what_is_printed_parses_to_the_same(depth: Depth) -> None:
    # It is part of the key of samples and of the manifest.
    assert parse_depth(str(depth)) == depth
    assert (str(depth) == "uniform") == depth.uniform == (depth == Depth())


@given(_DEPTHS, st.integers(1, 5_000), st.integers(0, 2**32))
def test_a_slot_is_in_range(depth: Depth, n: int, seed: int) -> None:
    stream = Stream(seed)
    for _ in range(10):
        slot = depth.slot(stream, n)
        assert 0 <= slot < n
        # The slot holds some point of the range.
        assert slot / n <= depth.high + 1e-9
        assert (slot + 1) / n >= depth.low - 1e-9


@given(_DEPTHS, st.integers(1, 500), st.data())
def test_slots_are_different_in_order_and_in_range_if_it_holds_enough(
    depth: Depth, n: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, n))
    slots = depth.slots(Stream(data.draw(st.integers(0, 2**32))), n, k)
    assert len(slots) == k
    assert slots == sorted(set(slots))
    assert set(slots) <= set(range(n))
    held = [slot for slot in range(n) if slot / n <= depth.high + 1e-9 and (slot + 1) / n >= depth.low - 1e-9]
    if k <= math.floor((depth.high - depth.low) * n):
        assert set(slots) <= set(held)


@given(_DEPTHS, st.integers(1, 200), st.data())
def test_a_range_with_too_few_slots_takes_the_nearest_outside(depth: Depth, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    first, last = min(int(depth.low * n), n - 1), min(int(depth.high * n), n - 1)
    assume(last - first + 1 < k)
    slots = depth.slots(Stream(data.draw(st.integers(0, 2**32))), n, k)
    assert slots[0] >= first - k
    assert slots[-1] <= last + k


@pytest.mark.parametrize("depth", [Depth(), Depth(0.5, 0.5), Depth(0, 0.1)])
def test_more_slots_than_there_are_fail_at_once(depth: Depth) -> None:
    with pytest.raises(IndexError):
        depth.slots(Stream(1), 3, 4)


@pytest.mark.parametrize(
    ("depth", "slots"),
    [(Depth(0, 0), {0}), (Depth(1, 1), {9}), (Depth(0.5, 0.5), {5}), (Depth(0.2, 0.4), {2, 3}), (Depth(0.95, 1), {9})],
)
def test_the_ends_are_reached_and_not_passed(depth: Depth, slots: set[int]) -> None:
    stream = Stream("ends", str(depth))
    assert {depth.slot(stream, 10) for _ in range(400)} == slots


def evenly(counts: Counter[int], outcomes: int) -> bool:
    expected = sum(counts.values()) / outcomes
    chi2 = sum((counts[i] - expected) ** 2 / expected for i in counts) + (outcomes - len(counts)) * expected
    return len(counts) <= outcomes and chi2 < outcomes - 1 + 6 * math.sqrt(2 * (outcomes - 1))


def test_depth_is_uniform() -> None:
    stream = Stream("uniform depth")
    assert evenly(Counter(Depth().slot(stream, 40) for _ in range(20_000)), 40)
    assert evenly(Counter(slot for _ in range(4_000) for slot in Depth().slots(stream, 40, 5)), 40)
    assert evenly(Counter(Depth(0.25, 0.75).slot(stream, 40) - 10 for _ in range(20_000)), 20)
    # The measure is no formality: one slot of forty more or less fails it.
    assert not evenly(Counter(Depth(0, 0.975).slot(stream, 40) for _ in range(20_000)), 40)
