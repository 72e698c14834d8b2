"""Scores of a sweep as reports are made of."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["DENSE", "Report", "worse"]

Report = Callable[..., str]

DENSE = {
    ("story_multihop", 1024): [1.0, 1.0, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 1.0, 0.75],
    ("story_multihop", 2048): [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0],
    ("ruler_vt", 1024): [1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.25, 1.0],
    ("ruler_vt", 2048): [0.5, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
}


def worse(by: float, every: int) -> dict[tuple[str, int], list[float]]:
    """The dense scores, less ``by`` on every so-manieth sample."""
    return {
        key: [max(0.0, score - by) if index % every == 0 else score for index, score in enumerate(scores)]
        for key, scores in DENSE.items()
    }
