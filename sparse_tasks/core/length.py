"""Lengths in tokens: ``64k`` = ``64K`` = 65,536, ``1M`` = 1,048,576."""

from __future__ import annotations

import re

from sparse_tasks.core.errors import UsageError

LONGEST = 2**21
"""The longest prompt that is promised, in tokens."""

TOLERANCE = 32
"""A prompt has between ``length - TOLERANCE`` and ``length`` tokens."""

_UNITS = {"": 1, "k": 2**10, "m": 2**20}


def parse_length(text: str | int) -> int:
    """Tokens named by ``text``: an integer from 1 to 2,097,152, or one with ``k`` (1,024) or ``M`` (1,048,576).

    >>> parse_length("64k"), parse_length("1M"), parse_length(5000)
    (65536, 1048576, 5000)

    Raises:
        UsageError: ``text`` is not such a number.
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*([kKmM]?)\s*", str(text), re.ASCII)
    if match is None:
        raise UsageError("length", text, "is not a length; write tokens as 65536, 64k or 1M")
    tokens = int(match[1]) * _UNITS[match[2].lower()]
    if not 1 <= tokens <= LONGEST:
        raise UsageError("length", text, f"is out of range; choose from 1 to {LONGEST} (2M) tokens")
    return tokens


def label(tokens: int) -> str:
    """The short name of a length, as used in configuration names: ``64k``, ``1M``, ``5000``.

    >>> label(65536), label(2**20), label(5000)
    ('64k', '1M', '5000')
    """
    if tokens % 2**20 == 0:
        return f"{tokens // 2**20}M"
    if tokens % 2**10 == 0:
        return f"{tokens // 2**10}k"
    return str(tokens)
