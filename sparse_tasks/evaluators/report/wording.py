"""Names and untrusted texts as shown on the page."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

LONGEST_NAME: Final = 80  # characters of a name that the page shows

_NONE: Final = "–"
# A path, on this system or another: it reveals who ran this and where, but not what.
_PATH: Final = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:|~\w*|\.{0,2})[/\\](?:[^\s/\\\"',;]+[/\\]+)*")
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"',;]+", re.IGNORECASE)


def clean(text: str) -> str:
    """Text that is safe to show: invisible and direction-changing characters become visible marks."""
    return "".join(map(_visible, text))


def _visible(letter: str) -> str:
    if letter in "\n\t\u200c\u200d" or letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    if letter == "\r":
        return ""
    if ord(letter) < 32:
        return chr(0x2400 + ord(letter))  # Unicode's control pictures
    if unicodedata.category(letter) in ("Zl", "Zp"):
        return "\n"
    return "\N{REPLACEMENT CHARACTER}"


def cut(text: str, most: int) -> tuple[str, int]:
    """The first ``most`` characters of a text, and the number left out."""
    return clean(text[:most]), max(0, len(text) - most)


def name(text: str) -> str:
    """A name on one line, of limited length."""
    line = " ".join(clean(text[: 2 * LONGEST_NAME]).split()) or "(no name)"
    return line if len(line) <= LONGEST_NAME and len(text) <= 2 * LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def public(text: str) -> str:
    """Text without paths and server addresses."""
    return _PATH.sub("…/", _URL.sub("(an address)", text))


def settings(values: Mapping[str, Any]) -> str:
    """``name=value`` for each, without paths and addresses; bounded."""
    said = [f"{key}={value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
            for key, value in sorted(values.items()) if value is not None and key != "base_url"]  # fmt: skip
    text, left_out = cut(public(", ".join(said)), 600)
    return (text + ("…" if left_out else "")) or _NONE


def listed(names: list[str], most: int = 6) -> str:
    """``a, b and c``; of more than ``most`` the first ones, and how many others there are."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1:,} others"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
