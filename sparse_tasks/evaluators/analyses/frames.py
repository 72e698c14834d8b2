"""Tables of analyses: a dataclass says what a row is, a pandas frame holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pandas as pd

R = TypeVar("R")


def column_names(kind: type[R]) -> list[str]:
    """Columns of a table of such rows."""
    return [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]


def frame(kind: type[R], rows: Sequence[R], notes: Iterable[str] = ()) -> pd.DataFrame:
    """A table with the fields of ``kind`` as columns, and each note once in ``attrs["notes"]``, a tuple."""
    table = pd.DataFrame(list(rows), columns=column_names(kind))
    table.attrs["notes"] = tuple(dict.fromkeys(notes))
    return table


def shortened(names: Iterable[object]) -> str:
    """Names for a message, truncated to the first few."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
