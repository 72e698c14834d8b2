"""Roman numerals."""

from __future__ import annotations

import re
from typing import Final

_LETTERS: Final = {
    "M": 1000,
    "CM": 900,
    "D": 500,
    "CD": 400,
    "C": 100,
    "XC": 90,
    "L": 50,
    "XL": 40,
    "X": 10,
    "IX": 9,
    "V": 5,
    "IV": 4,
    "I": 1,
}


def roman(number: int) -> str:
    """A number above 0 as a Roman numeral, with one M per thousand.

    >>> roman(14), roman(1999)
    ('XIV', 'MCMXCIX')
    """
    letters = ""
    for letter, value in _LETTERS.items():
        count, number = divmod(number, value)
        letters += letter * count
    return letters


def from_roman(letters: str) -> int:
    """The value of a Roman numeral.

    Raises:
        ValueError: It is not a Roman numeral.
    """
    number = sum(_LETTERS[part] for part in re.findall("CM|CD|XC|XL|IX|IV|[MDCLXVI]", letters))
    if not number or roman(number) != letters:
        raise ValueError(f"{letters!r} is no Roman number")
    return number
