"""How names, numbers and the words of others are written on the page."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["LONGEST_NAME", "between", "clean", "counted", "cut", "large", "listed", "name", "number", "public",
           "settings", "share", "signed", "times"]  # fmt: skip

LONGEST_NAME: Final = 80
"""Characters of a name that the page shows."""

_MINUS: Final = "−"
_NONE: Final = "–"
# A way through folders, of this system or another: it says who ran this, and where, but not what.
_PATH: Final = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:|~\w*|\.{0,2})[/\\](?:[^\s/\\\"',;]+[/\\]+)*")
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"',;]+", re.IGNORECASE)


def clean(text: str) -> str:
    """Text that is safe to read: what cannot be seen, or turns the direction of the line around, becomes a mark."""
    return "".join(map(_visible, text))


def _visible(letter: str) -> str:
    if letter in "\n\t\u200c\u200d" or letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    if letter == "\r":
        return ""
    if ord(letter) < 32:
        return chr(0x2400 + ord(letter))  # the pictures that Unicode has for them
    if unicodedata.category(letter) in ("Zl", "Zp"):
        return "\n"
    return "\N{REPLACEMENT CHARACTER}"


def cut(text: str, most: int) -> tuple[str, int]:
    """The first ``most`` characters of a text, and how many were left out."""
    return clean(text[:most]), max(0, len(text) - most)


def name(text: str) -> str:
    """A name in one line, of a bounded length."""
    line = " ".join(clean(text[: 2 * LONGEST_NAME]).split()) or "(no name)"
    return line if len(line) <= LONGEST_NAME and len(text) <= 2 * LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def public(text: str) -> str:
    """Text without the ways to files and the addresses of servers that it names."""
    return _PATH.sub("…/", _URL.sub("(an address)", text))


def settings(values: Mapping[str, Any]) -> str:
    """``name=value`` for each, without paths and addresses; bounded."""
    said = [f"{key}={value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
            for key, value in sorted(values.items()) if value is not None and key != "base_url"]  # fmt: skip
    text, left_out = cut(public(", ".join(said)), 600)
    return (text + ("…" if left_out else "")) or _NONE


def number(value: float | None, digits: int = 3) -> str:
    """``0.123``; a dash where it is not known."""
    return _NONE if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", _MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """``+0.123`` or ``−0.123``; nothing is ``0.000``."""
    if value is None or math.isnan(value):
        return _NONE
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def between(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """An interval: ``0.100 to 0.200``."""
    write = signed if sign else number
    return _NONE if _NONE in (write(low), write(high)) else f"{write(low)} to {write(high)}"


def large(value: float) -> str:
    """A large number: ``2.64e14``."""
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits}e{int(exponent)}"


def share(value: float | None) -> str:
    """A share in [0, 1] as percent: ``12.5%``."""
    return _NONE if value is None or math.isnan(value) else f"{100 * value:.1f}%"


def times(value: float | None) -> str:
    """A factor: ``2.5×``."""
    return _NONE if value is None or math.isnan(value) else f"{value:.2f}×"


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 run``, ``1,200 runs``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: list[str], most: int = 6) -> str:
    """``a, b and c``; of more than ``most`` the first ones, and how many others there are."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1:,} others"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
