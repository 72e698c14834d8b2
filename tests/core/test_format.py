"""Numbers as text: unknown values are never printed as numbers, and nothing is ``-0.000``."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.core.format import PLAIN, TYPESET, counted, size, visible


@pytest.mark.parametrize("value", [None, math.nan])
@pytest.mark.parametrize("name", ["number", "signed", "share", "factor", "p_value", "large", "amount"])
def test_unknown_values_are_a_dash(name: str, value: float | None) -> None:
    assert getattr(TYPESET, name)(value) == "–"
    assert getattr(PLAIN, name)(value) == "-"
    assert TYPESET.interval(0.1, value) == TYPESET.interval(value, 0.1) == "–"


def test_signs_follow_the_style_and_zero_has_none() -> None:
    assert (TYPESET.number(-0.5, 1), PLAIN.number(-0.5, 1)) == ("−0.5", "-0.5")
    assert [PLAIN.signed(value) for value in (0.1234, -0.1234, 0.0, -0.0001)] == ["+0.123", "-0.123", "0.000", "0.000"]
    assert TYPESET.interval(-0.1, 0.2, sign=True) == "−0.100 to +0.200"
    assert PLAIN.interval(0.1, 0.2) == "0.100 0.200"


def test_shares_factors_and_large_numbers() -> None:
    assert (PLAIN.share(0.1249), PLAIN.share(0.12, 0), TYPESET.factor(2.5)) == ("12.5%", "12%", "2.50×")
    assert (PLAIN.p_value(0.0004), PLAIN.p_value(0.0123)) == ("<0.001", "0.012")
    assert (PLAIN.large(2.64e14), PLAIN.large(0.5), PLAIN.amount(2.64e14)) == ("2.64e14", "5.00e-1", "264T")
    assert (counted(1, "run"), counted(1200, "run"), counted(2, "query", "queries")) == (
        "1 run",
        "1,200 runs",
        "2 queries",
    )


UNITS = {"bytes": 1, "byte": 1, "KiB": 2**10, "MiB": 2**20}


@given(st.integers(0, 2**50))
def test_a_size_says_what_it_is_within_its_last_digit(count: int) -> None:
    number, unit = size(count).split()
    said = float(number.replace(",", "")) * UNITS[unit]
    assert abs(said - count) <= 0.05001 * UNITS[unit]
    assert said > 0 or count == 0
    assert unit == ("MiB" if count >= 0.1 * 2**20 else "KiB" if count >= 0.1 * 2**10 else size(count).split()[1])


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (102, "102 bytes"),
        (103, "0.1 KiB"),
        (1536, "1.5 KiB"),
        (104_857, "102.4 KiB"),
        (104_858, "0.1 MiB"),
        (2**20, "1.0 MiB"),
        (10 * 2**30, "10,240.0 MiB"),
    ],
)
def test_sizes_below_a_tenth_of_a_mebibyte_are_in_kibibytes(count: int, said: str) -> None:
    assert size(count) == said


@given(st.text())
def test_invisible_characters_are_escaped_and_others_kept(text: str) -> None:
    shown = visible(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", shown)
    if text.isprintable():
        assert shown == text
    assert visible("a\n\tb\u200d\u00a0") == "a\n\tb\u200d\u00a0"
