"""Lengths as users write them, and their short names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.length import LONGEST, label, parse_length


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("64k", 65_536),
        ("65536", 65_536),
        (65_536, 65_536),
        ("1M", 1_048_576),
        ("2M", LONGEST),
        (" 8k ", 8_192),
        ("8 k", 8_192),
        ("2097152", LONGEST),
    ],
)
def test_units_are_binary_and_case_does_not_matter(text: str | int, tokens: int) -> None:
    assert parse_length(text) == tokens


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "k", "64x", "64kk", "64kM", "-1", -1, "+1", "1.5k", "1,024", "1_024", "6e4", "0x10", "64 k tokens"),
        *("k64", "\u0666\u0664k", "\uff16\uff14k", "64\u212a", "1" * 10, "9" * 5_000, True, 1.5, None),
    ],
)
def test_anything_else_is_refused_with_the_right_form(text: object) -> None:
    with pytest.raises(
        UsageError, match=re.escape(f"length: {text!r} is not a length; write tokens as 65536, 64k or 1M")
    ):
        parse_length(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [0, "0", "0k", "0M", LONGEST + 1, "2049k", "3M", "999999999M"])
def test_out_of_range_names_the_range(text: str | int) -> None:
    with pytest.raises(UsageError, match=re.escape(f"length: {text!r} is out of range; choose from 1 to 2097152")):
        parse_length(text)


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (65_536, "64k"),
        (2**21, "2M"),
        (1_536, "1536"),
        (1_572_864, "1536k"),
    ],
)
def test_label_takes_the_largest_unit_that_is_whole(tokens: int, name: str) -> None:
    assert label(tokens) == name


@given(st.integers(1, LONGEST))
def test_label_is_the_inverse_of_parse(tokens: int) -> None:
    assert parse_length(label(tokens)) == tokens
