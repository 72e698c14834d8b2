"""Checks of scores and differences, their means, and rounding: shared by all of the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[np.float64]

TOLERANCE: Final = 1e-9  # closer values differ only by rounding


def checked(values: Sequence[float] | Values, low: float = 0.0) -> Values:
    """The values, sorted; a ValueError if there are none, or one is not in [low, 1]."""
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise ValueError("there must be at least one value, in a flat list")
    outside = given[~((given >= low) & (given <= 1))]  # includes NaN
    if len(outside):
        raise ValueError(f"values must be in [{low:g}, 1], not {outside[0]}")
    return np.sort(given)


def checked_differences(differences: Sequence[float] | Values) -> Values:
    """Differences in [-1, 1], sorted, with rounding errors set to 0."""
    changes = checked(differences, low=-1.0)
    changes[np.abs(changes) <= TOLERANCE] = 0.0
    return changes


def require_fraction(name: str, value: float) -> None:
    """Raise ValueError unless the value is in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), not {value}")


def miss_rate(level: float) -> float:
    """Share of intervals of a confidence level that may miss."""
    require_fraction("level", level)
    return 1 - level


def precise_mean(values: Sequence[float] | Values) -> float:
    """The mean, rounded once: the same in any order, and mirrored for mirrored values."""
    return math.fsum(values) / len(values)
