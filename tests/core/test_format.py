"""Numbers as text: unknown values are never printed as numbers, and nothing is ``-0.000``."""

from __future__ import annotations

import math

import pytest

from sparse_tasks.core.format import PLAIN, TYPESET, counted


@pytest.mark.parametrize("value", [None, math.nan])
@pytest.mark.parametrize("name", ["number", "signed", "share", "factor", "p_value", "large", "amount"])
def test_unknown_values_are_a_dash(name: str, value: float | None) -> None:
    assert getattr(TYPESET, name)(value) == "–"
    assert getattr(PLAIN, name)(value) == "-"
    assert TYPESET.interval(0.1, value) == TYPESET.interval(value, 0.1) == "–"


def test_signs_are_those_of_the_style_and_zero_has_none() -> None:
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
