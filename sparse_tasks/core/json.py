"""Reading untrusted JSON, and writing JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sparse_tasks.core.errors import DataError, unreadable
from sparse_tasks.core.records import to_builtins


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        DataError: It cannot be read or is not JSON; see ``parse_json``.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(unreadable(path, error, "JSON")) from error


def parse_json(content: bytes) -> Any:
    """Parse JSON, refusing numbers that are not finite and text that UTF-8 cannot encode.

    Raises:
        ValueError: It is not such JSON.
        RecursionError: It is nested too deeply.
    """
    value = json.loads(content.decode("utf-8-sig"), parse_constant=finite, parse_float=finite, parse_int=small)
    if b"\\ud" in content.lower():  # perhaps a lone surrogate
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def finite(text: str) -> float:
    """Check that a JSON number is neither NaN nor infinite.

    Raises:
        ValueError: It is one of these, or too large for a float.
    """
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is not a number of JSON, or too large")
    return value


def small(text: str) -> int:
    """Check that a JSON integer fits into 64 bits.

    Raises:
        ValueError: It does not.
    """
    if len(text) > 20 or abs(value := int(text)) >= 2**63:
        raise ValueError(f"{text[:20]}... is too large")
    return value


def to_json(value: object) -> bytes:
    """The content of a JSON file for plain values and records.

    A lone surrogate, as in a file name that is not UTF-8, becomes a question mark.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=to_builtins)
    return (text + "\n").encode(errors="replace")
