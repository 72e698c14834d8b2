"""What the commands share in printing."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Any

__all__ = ["Format", "print_json", "warn"]


class Format(StrEnum):
    """How results are printed."""

    human = "human"
    json = "json"


def print_json(value: Any) -> None:
    """Print a result for programs, on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def warn(message: str) -> None:
    """Tell the user something without getting in the way of results."""
    print(f"note: {message}", file=sys.stderr)
