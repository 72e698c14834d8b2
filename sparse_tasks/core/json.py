"""JSON as it is read from strangers and written to disk."""

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
    """Parse JSON whose numbers are all finite and whose text can be written as UTF-8.

    Raises:
        ValueError: It is not such JSON.
        RecursionError: It is nested too deeply.
    """
    value = json.loads(content.decode("utf-8-sig"), parse_constant=finite, parse_float=finite, parse_int=small)
    if b"\\ud" in content.lower():  # half a surrogate, perhaps
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def finite(text: str) -> float:
    """A number of JSON that is neither NaN nor infinite.

    Raises:
        ValueError: It is, or it is too large for a float.
    """
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is not a number of JSON, or too large")
    return value


def small(text: str) -> int:
    """A whole number of JSON that fits into 64 bits.

    Raises:
        ValueError: It does not.
    """
    if len(text) > 20 or abs(value := int(text)) >= 2**63:
        raise ValueError(f"{text[:20]}... is too large")
    return value


def to_json(value: object) -> bytes:
    """Content of a JSON file, of plain values and records.

    Half a surrogate, as in a file name that is not UTF-8, becomes a question mark.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=to_builtins)
    return (text + "\n").encode(errors="replace")
