"""Numbers as text for terminals, the report and the board; untrusted text with invisible characters escaped."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Final


def known(value: float | None) -> bool:
    """Whether a value is neither None nor NaN."""
    return value is not None and not math.isnan(value)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Formatters of numbers; None and NaN become ``missing``.

    Attributes:
        minus: Minus sign.
        missing: Text for an unknown value.
        to: Text between the bounds of an interval.
    """

    minus: str
    missing: str
    to: str

    def number(self, value: float | None, digits: int = 3) -> str:
        """``0.123``."""
        return self.formatted(value, f".{digits}f")

    def signed(self, value: float | None, digits: int = 3) -> str:
        """``+0.123`` or ``-0.123``; ``0.000`` for values that round to it."""
        text = self.formatted(value, f"+.{digits}f")
        return text[1:] if text[1:] == f"{0:.{digits}f}" else text

    def formatted(self, value: float | None, form: str) -> str:
        """A number in one of Python's format specifications."""
        return self.missing if value is None or math.isnan(value) else format(value, form).replace("-", self.minus)

    def interval(self, low: float | None, high: float | None, *, sign: bool = False) -> str:
        """``0.100 to 0.200``."""
        write = self.signed if sign else self.number
        return f"{write(low)}{self.to}{write(high)}" if known(low) and known(high) else self.missing

    def share(self, value: float | None, digits: int = 1) -> str:
        """A share in [0, 1] as percent: ``12.5%``."""
        return self.formatted(value, f".{digits}%")

    def factor(self, value: float | None) -> str:
        """``2.50×``."""
        return self.number(value, 2) + "×" if known(value) else self.missing

    def p_value(self, value: float | None) -> str:
        """``0.012``; ``<0.001`` for smaller values."""
        return "<0.001" if value is not None and value < 0.001 else self.number(value)

    def large(self, value: float | None) -> str:
        """``2.64e14``."""
        digits, _, exponent = self.formatted(value, ".2e").partition("e")
        return f"{digits}e{int(exponent)}" if exponent else digits

    def amount(self, value: float | None) -> str:
        """``264T``."""
        if value is None or math.isnan(value):
            return self.missing
        for unit in ("", "k", "M", "G", "T", "P"):
            if abs(value) < 1000:
                return f"{value:.3g}{unit}"
            value /= 1000
        return f"{value:.3g}E"


PLAIN: Final = Numbers("-", "-", " ")
"""For terminals: ASCII."""

TYPESET: Final = Numbers("−", "–", " to ")
"""For pages."""


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """``1 run``, ``1,200 runs``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def size(count: float) -> str:
    """Bytes: ``1.5 MiB``; below 0.1 MiB ``80.2 KiB``; below 0.1 KiB ``12 bytes``."""
    for unit, one in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= 0.1 * one:
            return f"{count / one:,.1f} {unit}"
    return counted(round(count), "byte")


_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """A text with control and bidirectional characters escaped, except newlines and tabs."""
    return "".join(
        c.encode("unicode_escape").decode()
        if c in _TURNING or (c not in "\n\t" and unicodedata.category(c) in ("Cc", "Zl", "Zp"))
        else c
        for c in text
    )
